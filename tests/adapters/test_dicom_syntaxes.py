"""Transfer syntaxes: read through imagecodecs where pydicom has nothing, and lies found out."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import UID

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError
from adapters.dicom.decoders import JPEG_XL

EXACT = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
RANDOM = np.random.default_rng(5)
SMOOTH = (1800 + 1500 * np.sin(np.arange(40 * 48) / 97.0)).astype(np.uint16).reshape(40, 48)


def open_only(path):
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def whole(volume):
    return volume.array[tuple(slice(0, n) for n in volume.array.shape)]


def restored(item, target):
    volumes = [
        RestoredVolume(v.name, v.array, (0,) * len(v.array.shape), v.array.shape)
        for v in item.volumes
    ]
    return adapters.restore_source("dicom", item.document, item.blobs, volumes, target, EXACT)


def write(path: Path, frames: list[bytes], like: np.ndarray, syntax: str, **elements) -> Path:
    """One image with the given compressed frames, every frame like an array."""
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    dataset.Rows, dataset.Columns = like.shape[:2]
    dataset.SamplesPerPixel = like.shape[2] if like.ndim == 3 else 1
    if like.ndim == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated = 8 * like.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    dataset.PixelRepresentation = 0
    for name in ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue"):
        if name in dataset:
            del dataset[name]
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    known = "1.2.840.10008.1.2.4.201" if syntax in JPEG_XL else syntax  # of the same length
    dataset.file_meta.TransferSyntaxUID = UID(known)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        pydicom.dcmwrite(stream, dataset, implicit_vr=False, little_endian=True)
    path.write_bytes(path.read_bytes().replace(known.encode(), syntax.encode(), 1))
    return path


JPEG_LOSSLESS = ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"]


@pytest.mark.parametrize("syntax", JPEG_LOSSLESS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_jpeg_lossless_is_read_and_comes_back_decoded(tmp_path, syntax, bits, predictor):
    values = RANDOM.integers(0, 1 << bits, (31, 43)).astype("u1" if bits == 8 else "u2")
    coded = imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor, bitspersample=bits)
    path = write(tmp_path / "a.dcm", [coded], values, syntax, BitsStored=bits, HighBit=bits - 1)
    item = open_only(path)
    np.testing.assert_array_equal(whole(item.volumes[0])[0], values)
    assert item.files[0].promise.kind == adapters.EQUAL_DATA
    (made,) = restored(item, tmp_path / "out")
    np.testing.assert_array_equal(pydicom.dcmread(made.path).pixel_array, values)
    digests = [adapters.content_sha256("dicom", p) for p in (made.path, path)]
    assert digests[0] == digests[1]


def test_another_encoders_jpeg_lossless_and_signed_values(tmp_path):
    values = RANDOM.integers(-2048, 2048, (31, 43)).astype(np.int16)
    coded = imagecodecs.ljpeg_encode(values.view(np.uint16) & 0xFFF, bitspersample=12)
    path = write(
        tmp_path / "a.dcm",
        [coded],
        values,
        JPEG_LOSSLESS[1],
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=1,
    )
    np.testing.assert_array_equal(whole(open_only(path).volumes[0])[0], values)


def test_jpeg_lossless_colours_and_several_frames(tmp_path):
    frames = RANDOM.integers(0, 256, (3, 31, 43, 3)).astype(np.uint8)
    coded = [
        imagecodecs.jpeg8_encode(f, lossless=True, colorspace="RGB", outcolorspace="RGB")
        for f in frames
    ]
    item = open_only(write(tmp_path / "a.dcm", coded, frames[0], JPEG_LOSSLESS[1]))
    (volume,) = item.volumes
    assert volume.dims == ("sample", "frame", "y", "x")
    np.testing.assert_array_equal(np.moveaxis(whole(volume), 0, -1), frames)


def test_twelve_bit_jpeg_is_read(tmp_path):
    coded = imagecodecs.jpeg8_encode(SMOOTH, level=95, bitspersample=12)
    syntax = "1.2.840.10008.1.2.4.51"
    path = write(tmp_path / "a.dcm", [coded], SMOOTH, syntax, BitsStored=12, HighBit=11)
    item = open_only(path)
    found = whole(item.volumes[0])[0].astype(int)
    np.testing.assert_array_equal(found, imagecodecs.jpeg8_decode(coded))
    assert np.abs(found - SMOOTH).max() < 40
    assert "the source was already compressed with loss" in item.notes
    (made,) = restored(item, tmp_path / "out")
    assert pydicom.dcmread(made.path).LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        (
            "1.2.840.10008.1.2.4.90",
            lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", reversible=True, level=0),
        ),
        ("1.2.840.10008.1.2.4.201", lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
        ("1.2.840.10008.1.2.4.110", lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
    ],
)
def test_other_lossless_syntaxes_are_read(tmp_path, syntax, encode):
    frames = [SMOOTH, SMOOTH[::-1].copy()]
    path = write(tmp_path / "a.dcm", [bytes(encode(f)) for f in frames], SMOOTH, syntax)
    item = open_only(path)
    np.testing.assert_array_equal(whole(item.volumes[0]), frames)
    (made,) = restored(item, tmp_path / "out")
    np.testing.assert_array_equal(pydicom.dcmread(made.path).pixel_array, frames)


def test_values_wider_than_bits_stored_widen_the_restored_header(tmp_path):
    values = RANDOM.integers(0, 65536, (31, 43)).astype(np.uint16)
    coded = bytes(imagecodecs.jpeg2k_encode(values, codecformat="J2K", reversible=True, level=0))
    path = write(
        tmp_path / "a.dcm", [coded], values, "1.2.840.10008.1.2.4.90", BitsStored=12, HighBit=11
    )
    item = open_only(path)
    assert item.volumes[0].limits is None
    np.testing.assert_array_equal(whole(item.volumes[0])[0], values)
    (made,) = restored(item, tmp_path / "out")
    again = pydicom.dcmread(made.path)
    assert (again.BitsStored, again.HighBit) == (16, 15)
    np.testing.assert_array_equal(again.pixel_array, values)


def relabelled(source: str, target: Path, syntax: str) -> Path:
    """Copy a test file with another transfer syntax in its header, its data set as it was."""
    data = Path(get_testdata_file(source)).read_bytes()
    start = data.index(b"\x02\x00\x10\x00UI") + 8
    size = int.from_bytes(data[start - 2 : start], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    group = data.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    total = int.from_bytes(data[group : group + 4], "little") + len(value) - size
    head = data[:group] + struct.pack("<I", total) + data[group + 4 : start - 2]
    target.write_bytes(head + struct.pack("<H", len(value)) + value + data[start + size :])
    return target


IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


@pytest.mark.parametrize(
    ("source", "claim"), [("MR_small_implicit.dcm", EXPLICIT), ("MR_small.dcm", IMPLICIT)]
)
def test_value_representations_that_are_not_as_claimed_are_read_as_pydicom_does(
    tmp_path, source, claim
):
    path = relabelled(source, tmp_path / "a.dcm", claim)
    with pytest.warns(UserWarning, match="using"):
        expected = pydicom.dcmread(path).pixel_array
    item = open_only(path)
    np.testing.assert_array_equal(whole(item.volumes[0])[0], expected)
    (made,) = restored(item, tmp_path / "out")
    assert made.path.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("source", "claim"),
    [
        ("MR_small_bigendian.dcm", EXPLICIT),
        ("MR_small_bigendian.dcm", IMPLICIT),
        ("MR_small.dcm", BIG),
        ("MR_small_implicit.dcm", BIG),
        ("MR_small.dcm", DEFLATED),
        ("image_dfl.dcm", EXPLICIT),
        ("MR_small.dcm", "1.2.840.10008.1.2.4.90"),
        ("MR_small.dcm", "1.2.840.10008.1.2.5"),
        ("MR_small_jp2klossless.dcm", EXPLICIT),
        ("MR_small_RLE.dcm", "1.2.840.10008.1.2.4.90"),
        ("MR_small_jp2klossless.dcm", "1.2.840.10008.1.2.4.80"),
        ("MR_small.dcm", "1.2.3.4"),
    ],
)
def test_other_lies_are_refused(tmp_path, source, claim):
    path = relabelled(source, tmp_path / "a.dcm", claim)
    with pytest.raises(SourceError) as caught:
        open_only(path)
    kinds = ("wrong-transfer-syntax", "damaged", "undecodable", "truncated", "no-decoder")
    assert caught.value.kind in kinds


def test_a_deflate_bomb_is_refused_within_its_bound(tmp_path, monkeypatch):
    data = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    machine = zlib.compressobj(9, wbits=-15)
    bomb = machine.compress(bytes(8 << 20)) + machine.flush()
    path = tmp_path / "bomb.dcm"
    path.write_bytes(data[:start] + bomb)
    monkeypatch.setattr("adapters.dicom.syntax._MOST_INFLATED", 4 << 20)
    with pytest.raises(SourceError) as caught:
        open_only(path)
    assert caught.value.kind == "too-big"


def test_a_deflated_file_comes_back_whole_as_explicit_little_endian(tmp_path):
    source = Path(get_testdata_file("image_dfl.dcm"))
    item = open_only(source)
    assert item.files[0].promise.kind == adapters.EQUAL_DATA
    (made,) = restored(item, tmp_path / "out")
    again, before = pydicom.dcmread(made.path), pydicom.dcmread(source)
    assert again.file_meta.TransferSyntaxUID == EXPLICIT
    del again.file_meta.TransferSyntaxUID, before.file_meta.TransferSyntaxUID
    assert again == before
    length = again.file_meta[0x0002, 0x0000].value
    assert length == before.file_meta[0x0002, 0x0000].value - 2


@pytest.mark.parametrize("frames", [-1, 0, 10**9, 2**31 - 1])
def test_numbers_of_frames_that_cannot_be_are_refused(tmp_path, frames):
    for name in ("CT_small.dcm", "MR_small_RLE.dcm"):
        dataset = pydicom.dcmread(get_testdata_file(name))
        dataset.NumberOfFrames = frames
        dataset.save_as(tmp_path / name)
        with pytest.raises(SourceError) as caught:
            adapters.discover(tmp_path / name)
        assert caught.value.kind in ("damaged", "truncated")


def test_compressed_files_that_are_cut_off_are_truncated(tmp_path):
    data = Path(get_testdata_file("MR_small_RLE.dcm")).read_bytes()
    start = data.rindex(b"\xe0\x7f\x10\x00OB")
    for length in (start + 30, start + 1000, start + 4000):
        (tmp_path / "a.dcm").write_bytes(data[:length])
        with pytest.raises(SourceError) as caught:
            adapters.discover(tmp_path / "a.dcm")
        assert caught.value.kind == "truncated"
