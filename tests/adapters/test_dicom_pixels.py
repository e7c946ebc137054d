"""Colours, masks, floats and odd layouts: the same bytes back, and never coded with loss."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError
from adapters.dicom.body import Body
from adapters.dicom.layout import MOST_PATCHES, PixelLayout, patches_of, residue_of

EXACT = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
LOSSY = RestoreInfo(lossless=False, ratio=9.0, method="psc", level=1)


def open_only(path):
    (candidate,) = adapters.discover(path).candidates
    return candidate, adapters.open_source(candidate)


def restored(item, target, key=None, info=EXACT):
    volumes = []
    for volume in item.volumes:
        box = key or tuple(slice(0, n) for n in volume.array.shape)
        start = tuple(part.start for part in box)
        volumes.append(RestoredVolume(volume.name, volume.array[box], start, volume.array.shape))
    return adapters.restore_source("dicom", item.document, item.blobs, volumes, target, info)


LAYOUTS = [
    PixelLayout("grey", 5, 7, 3, 1, "i2", big_endian=True),
    PixelLayout("grey", 3, 3, 3, 1, "u1", swapped=True),
    PixelLayout("interleaved", 4, 5, 2, 3, "u2"),
    PixelLayout("interleaved", 3, 3, 3, 3, "u1", swapped=True),
    PixelLayout("planar", 4, 5, 2, 3, "u1"),
    PixelLayout("ybr422", 4, 6, 2, 3, "u1"),
    PixelLayout("bits", 5, 5, 3, 1, "u1"),
    PixelLayout("bits", 5, 5, 3, 1, "u1", swapped=True),
    PixelLayout("mosaic", 4, 5, 7, 1, "u2", grid=3),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{x.order}-{x.word}-{x.swapped}")
def test_every_frame_comes_from_its_own_bytes_and_goes_back(layout, tmp_path):
    data = np.random.default_rng(0).integers(0, 256, layout.nbytes, np.uint8).tobytes()
    frames = [layout.frame(lambda at, n: data[at : at + n], i) for i in range(layout.frames)]
    assert {frame.shape for frame in frames} == {(layout.samples, layout.rows, layout.columns)}
    packed = layout.pack(np.stack(frames))
    patches, residue = patches_of(packed, data), residue_of(packed, data)
    for number, rest in enumerate((None, residue)):
        if rest is None and patches is None:
            continue
        body = Body(tmp_path / str(number), layout)
        for i in reversed(range(layout.frames)):
            body.add(i, frames[i].astype(layout.word), frames[i])
        body.finish(patches if rest is None else [], rest)
        assert body.path.read_bytes() == data
        assert (body.least, body.largest) == (np.min(frames), np.max(frames))
    with pytest.raises(EOFError):
        layout.frame(lambda at, n: data[at : at + n - 1], layout.frames - 1)


def test_only_a_few_bytes_can_be_patched():
    assert patches_of(b"\x01", b"\xff") == [[0, 0xFF]]
    assert patches_of(bytes(9), bytes(9)) == []
    assert patches_of(bytes(MOST_PATCHES + 1), b"\1" * (MOST_PATCHES + 1)) is None


@pytest.mark.parametrize(
    ("name", "reason", "axes"),
    [
        ("examples_rgb_color.dcm", "colour", ("sample", "z", "y", "x")),
        ("SC_rgb_rle_2frame.dcm", "colour", ("sample", "frame", "y", "x")),
        ("liver_1frame.dcm", "mask", ("z", "y", "x")),
        ("examples_palette.dcm", "palette", ("z", "y", "x")),
        ("CT_small.dcm", None, ("z", "y", "x")),
    ],
)
def test_values_that_are_no_measurements_say_so(name, reason, axes):
    _, item = open_only(Path(get_testdata_file(name)))
    (volume,) = item.volumes
    assert volume.dims == axes
    assert (volume.exact_only is None) == (reason is None)
    assert reason is None or reason in volume.exact_only


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "ExplVR_BigEnd.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "liver_expb_1frame.dcm",
        "examples_palette.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_padded.dcm",
        "rtdose_expb.dcm",
    ],
)
def test_uncompressed_files_come_back_byte_for_byte(name, tmp_path):
    source = Path(get_testdata_file(name))
    _, item = open_only(source)
    assert [record.promise.kind for record in item.files] == [adapters.IDENTICAL]
    (made,) = restored(item, tmp_path / "out")
    assert made.outcome == adapters.IDENTICAL
    assert made.path.read_bytes() == source.read_bytes()


def test_unused_bits_of_a_mask_come_back(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file("liver_1frame.dcm"))
    dataset.Rows, dataset.Columns = 509, 511
    dataset.save_as(tmp_path / "mask.dcm")
    _, item = open_only(tmp_path / "mask.dcm")
    assert item.files[0].promise.kind == adapters.IDENTICAL
    (made,) = restored(item, tmp_path / "out")
    assert made.path.read_bytes() == (tmp_path / "mask.dcm").read_bytes()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_keep_every_bit(kind, tmp_path, write_float):
    values = write_float(tmp_path / "in", kind)
    _, item = open_only(tmp_path / "in")
    assert item.volumes[0].array.dtype == kind
    (made,) = restored(item, tmp_path / "out")
    assert made.path.read_bytes() == (tmp_path / "in" / "float.dcm").read_bytes()
    key = (slice(0, 1), slice(0, 5), slice(1, 9))
    (made,) = restored(item, tmp_path / "cut", key, LOSSY)
    assert made.outcome == adapters.LOSSY
    np.testing.assert_array_equal(pydicom.dcmread(made.path).pixel_array, values[:5, 1:9])


@pytest.mark.parametrize(
    ("name", "colours"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", "YBR_FULL"),
        ("examples_jpeg2k.dcm", "RGB"),
        ("SC_rgb_rle_16bit_2frame.dcm", "RGB"),
    ],
)
def test_compressed_colours_come_back_decoded_and_named_as_they_are(name, colours, tmp_path):
    source = Path(get_testdata_file(name))
    _, item = open_only(source)
    promise = item.files[0].promise
    assert promise.kind == adapters.EQUAL_DATA
    assert "becomes Explicit VR Little Endian" in promise.differs
    (made,) = restored(item, tmp_path / "out")
    assert made.outcome == adapters.EQUAL_DATA
    again = pydicom.dcmread(made.path)
    assert again.PhotometricInterpretation == colours
    assert again.PlanarConfiguration == 0
    assert adapters.content_sha256("dicom", made.path) == adapters.content_sha256("dicom", source)


def test_decoded_file_remembers_what_its_transfer_syntax_lost(tmp_path):
    _, item = open_only(Path(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm")))
    assert "the source was already compressed with loss" in item.notes
    for info in (EXACT, LOSSY):
        (made,) = restored(item, tmp_path / str(info.lossless), info=info)
        again = pydicom.dcmread(made.path)
        assert again.LossyImageCompression == "01"
        methods = again.LossyImageCompressionMethod
        assert (methods if info.lossless else methods[0]) == "ISO_10918_1"
    _, item = open_only(Path(get_testdata_file("MR_small_RLE.dcm")))
    (made,) = restored(item, tmp_path / "rle")
    assert "LossyImageCompression" not in pydicom.dcmread(made.path)


def test_region_of_a_colour_image_keeps_all_samples(tmp_path):
    source = Path(get_testdata_file("SC_ybr_full_422_uncompressed.dcm"))
    _, item = open_only(source)
    key = (slice(0, 3), slice(0, 1), slice(10, 21), slice(7, 30))
    (made,) = restored(item, tmp_path / "out", key)
    assert made.outcome == adapters.CUT
    again = pydicom.dcmread(made.path)
    assert again.PhotometricInterpretation == "YBR_FULL"
    whole = item.volumes[0].array[key]
    np.testing.assert_array_equal(np.moveaxis(pixel_array(again, raw=True), -1, 0), whole[:, 0])
    with pytest.raises(SourceError) as caught:
        restored(item, tmp_path / "one", (slice(1, 2), *key[1:]))
    assert caught.value.kind == "bad-region"


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "image_dfl.dcm", "examples_jpeg2k.dcm"])
def test_kept_originals_come_back_verbatim(name, tmp_path):
    source = Path(get_testdata_file(name))
    candidate, item = open_only(source)
    kept = adapters.keep_originals(item, candidate)
    assert kept.files[0].promise.kind == adapters.IDENTICAL
    (made,) = restored(kept, tmp_path / "out")
    assert made.outcome == adapters.IDENTICAL
    digest = hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert digest == kept.files[0].sha256
    (made,) = restored(kept, tmp_path / "lossy", info=LOSSY)
    assert made.outcome == adapters.LOSSY
    assert made.path.read_bytes() != source.read_bytes()
    broken = replace(kept, blobs=item.blobs)
    with pytest.raises(SourceError) as caught:
        restored(broken, tmp_path / "broken")
    assert caught.value.kind == "bad-document"


def test_content_digest_sees_pixels_and_elements(tmp_path):
    source = Path(get_testdata_file("MR_small_RLE.dcm"))
    _, item = open_only(source)
    (made,) = restored(item, tmp_path / "out")
    digest = adapters.content_sha256("dicom", made.path)
    shutil.copy(made.path, tmp_path / "copy.dcm")
    data = bytearray((tmp_path / "copy.dcm").read_bytes())
    data[-1] ^= 1
    (tmp_path / "copy.dcm").write_bytes(bytes(data))
    assert adapters.content_sha256("dicom", tmp_path / "copy.dcm") != digest
    dataset = pydicom.dcmread(made.path)
    dataset.EchoTime = 17
    dataset.save_as(tmp_path / "copy.dcm")
    assert adapters.content_sha256("dicom", tmp_path / "copy.dcm") != digest


def test_samples_beyond_four_and_odd_bits_are_refused(tmp_path):
    for name, value, kind in (
        ("SamplesPerPixel", 7, "unsupported-samples"),
        ("BitsAllocated", 12, "unsupported-pixels"),
    ):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        setattr(dataset, name, value)
        dataset.save_as(tmp_path / "odd.dcm")
        with pytest.raises(SourceError) as caught:
            adapters.discover(tmp_path / "odd.dcm")
        assert caught.value.kind == kind
