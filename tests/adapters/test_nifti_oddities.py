"""NIfTI as it is found: odd headers, exotic voxels, labels, bombs. nibabel says what is right."""

from __future__ import annotations

import gzip
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError, SourceItem

LOSSLESS = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
QFAC, PIXDIM, SFORM = 76, 80, 280
NAN, INFINITE = float("nan"), float("inf")
REGION = (slice(1, 5), slice(3, 9), slice(4, 14))
FLIP = np.eye(4)[[2, 1, 0, 3]]


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


def made(
    path: Path, *, qform: int = 1, sform: int = 1, patches: tuple[tuple[int, float], ...] = ()
) -> Path:
    """A tilted image with some numbers of its header replaced."""
    tilt = nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([-2.0, 2.2, 3.0])
    affine = nibabel.affines.from_matvec(tilt, [20, -30, 5])
    values = np.random.default_rng(0).integers(0, 999, (20, 18, 7)).astype("i2")
    image = nibabel.Nifti1Image(values, None)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.to_filename(path)
    data = bytearray(path.read_bytes())
    for offset, value in patches:
        struct.pack_into("<f", data, offset, value)
    path.write_bytes(data)
    return path


def opened(path: Path) -> SourceItem:
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def restored(item: SourceItem, target: Path, key: tuple[slice, ...] | None = None) -> Path:
    array = item.volumes[0].array
    parts = key or tuple(slice(0, n) for n in array.shape)
    start = tuple(part.start for part in parts)
    part = RestoredVolume("image", array[parts], start, array.shape)
    (written,) = adapters.restore_source(
        "nifti", item.document, item.blobs, [part], target, LOSSLESS
    )
    return written.path


def corners(affine: NDArray, shape: tuple[int, ...]) -> NDArray:
    """World places of the eight corners of an image (x, y, z)."""
    ends = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape[:3]) - 1)
    return nibabel.affines.apply_affine(affine, ends)


GOOD = {
    "plain": {},
    "qfac 0": {"sform": 0, "patches": ((QFAC, 0.0),)},
    "qfac -1": {"sform": 0, "patches": ((QFAC, -1.0),)},
    "qfac 7": {"sform": 0, "patches": ((QFAC, 7.0),)},
    "negative voxel size": {"sform": 0, "patches": ((PIXDIM, -2.0),)},
    "all voxel sizes negative": {
        "sform": 0,
        "patches": ((PIXDIM, -2.0), (PIXDIM + 4, -2.0), (PIXDIM + 8, -3.0)),
    },
    "voxel size 0": {"sform": 0, "patches": ((PIXDIM + 8, 0.0),)},
    "no codes": {"sform": 0, "qform": 0},
    "no codes, negative voxel size": {"sform": 0, "qform": 0, "patches": ((PIXDIM, -2.0),)},
}


@pytest.mark.parametrize("name", GOOD)
def test_whole_files_and_regions_lie_where_nibabel_says(name: str, tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii", **GOOD[name])
    image = nibabel.load(path)
    item = opened(path)
    affine = item.volumes[0].affine
    assert affine is not None
    expected = corners(image.affine, image.shape)
    np.testing.assert_allclose(corners(affine @ FLIP, image.shape), expected, atol=1e-3)
    assert restored(item, tmp_path / "whole.nii").read_bytes() == path.read_bytes()
    part = nibabel.load(restored(item, tmp_path / "part.nii", REGION))
    inside = corners(image.affine @ nibabel.affines.from_matvec(np.eye(3), [4, 3, 1]), (10, 6, 4))
    np.testing.assert_allclose(corners(part.affine, part.shape), inside, atol=1e-3)
    np.testing.assert_array_equal(part.dataobj, np.asarray(image.dataobj)[4:14, 3:9, 1:5])


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize("place", [0, 4, 12, 20, 44])
def test_a_form_that_is_not_finite_gives_way(value: float, place: int, tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii", patches=((SFORM + place, value),))
    item = opened(path)
    qform = nibabel.load(path).get_qform()
    affine = item.volumes[0].affine
    assert affine is not None
    np.testing.assert_allclose(affine @ FLIP, qform, atol=1e-6)
    assert any("the qform is taken" in note for note in item.notes)
    part = nibabel.load(restored(item, tmp_path / "part.nii", REGION))
    moved = qform @ nibabel.affines.from_matvec(np.eye(3), [4, 3, 1])
    np.testing.assert_allclose(part.affine, moved, atol=1e-3)
    assert restored(item, tmp_path / "whole.nii").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("columns", [(0,), (2,), (0, 1, 2)])
def test_a_singular_form_gives_way(columns: tuple[int, ...], tmp_path: Path) -> None:
    zeros = tuple((SFORM + 16 * row + 4 * c, 0.0) for row in range(3) for c in columns)
    item = opened(made(tmp_path / "a.nii", patches=zeros))
    qform = nibabel.load(tmp_path / "a.nii").get_qform()
    np.testing.assert_allclose(item.volumes[0].affine @ FLIP, qform, atol=1e-6)


def test_without_a_usable_form_there_is_no_affine_and_the_file_comes_back(tmp_path: Path) -> None:
    quaternion = 256
    patches = ((SFORM, NAN), (quaternion, NAN))
    path = made(tmp_path / "a.nii", patches=patches)
    item = opened(path)
    assert item.volumes[0].affine is None and item.volumes[0].spacing_mm is None
    assert item.notes[-1] == "no affine"
    assert restored(item, tmp_path / "whole.nii").read_bytes() == path.read_bytes()
    restored(item, tmp_path / "part.nii", REGION)


EXOTIC: dict[str, Callable[[NDArray], NDArray]] = {
    "complex64": lambda v: (v[..., 0] + 1j * v[..., 1]).astype("c8"),
    "complex128": lambda v: (v[..., 0] + 1j * v[..., 1]).astype("c16"),
    "rgb": lambda v: v[..., :3].astype("u1").view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0],
    "rgba": lambda v: v.astype("u1").view([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])[
        ..., 0
    ],
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", EXOTIC)
def test_voxels_of_several_numbers(name: str, suffix: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 255, (11, 9, 7, 4)).copy()
    values = EXOTIC[name](np.ascontiguousarray(numbers.astype("f8" if "c" in name else "u1")))
    path = tmp_path / f"a{suffix}"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 2, 3, 1])), path)
    item = opened(path)
    (volume,) = item.volumes
    count = 2 if "complex" in name else len(name)
    assert volume.dims == ("complex" if "complex" in name else "colour", "z", "y", "x")
    assert volume.array.shape == (count, 7, 9, 11)
    assert volume.exact_only is not None and "kept exactly" in volume.exact_only
    words = ("real", "imag") if "complex" in name else ("red", "green", "blue", "alpha")[:count]
    assert tuple(volume.coordinates[0].values) == words
    whole = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
    for number in range(count):
        one = (values.real, values.imag)[number] if "complex" in name else values["RGBA"[number]]
        np.testing.assert_array_equal(whole[number], one.T)
    again = restored(item, tmp_path / f"whole{suffix}")
    unpacked = [gzip.decompress(p.read_bytes()) if suffix == ".nii.gz" else p.read_bytes()
                for p in (again, path)]  # fmt: skip
    assert unpacked[0] == unpacked[1]
    part = restored(item, tmp_path / f"part{suffix}", (slice(0, count), *REGION[:1],
                                                       slice(2, 8), slice(1, 9)))  # fmt: skip
    np.testing.assert_array_equal(nibabel.load(part).dataobj, values[1:9, 2:8, 1:5])
    with pytest.raises(SourceError) as caught:
        restored(item, tmp_path / "one.nii", (slice(1, 2), *REGION))
    assert caught.value.kind in ("bad-region", "bad-target")


@pytest.mark.parametrize(("code", "words"), [(1536, 2), (2048, 4)])
def test_numbers_of_128_bits_are_kept_as_words(code: int, words: int, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), "f8"), np.eye(4))
    data = bytearray(image.to_bytes())
    struct.pack_into("<hh", data, 70, code, 64 * words)
    noise = np.random.default_rng(2).integers(0, 256, 5 * 4 * 3 * 8 * words, "u1").tobytes()
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(data[:352]) + noise)
    item = opened(path)
    assert item.volumes[0].array.shape == (words, 3, 4, 5)
    assert item.volumes[0].array.dtype == np.dtype("u8")
    assert restored(item, tmp_path / "b.nii").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "shape",
    [(9,), (9, 8), (9, 8, 1), (1, 1, 1), (5, 4, 3, 1, 2), (4, 3, 3, 2, 2, 2), (4, 3, 3, 2, 1, 2, 2),
     (4, 3, 2, 1, 1, 1, 1)],
)  # fmt: skip
def test_one_to_seven_axes_of_either_order(
    kind: Any, order: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.random.default_rng(3).integers(0, 999, shape).astype(f"{order}i2")
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    path = tmp_path / "a.nii"
    kind(values, None, header).to_filename(path)
    item = opened(path)
    (volume,) = item.volumes
    assert volume.array.shape == (shape + (1,) * (3 - len(shape)))[::-1]
    assert len(set(volume.dims)) == len(volume.dims) == len(volume.array.shape)
    whole = volume.array[tuple(slice(0, n) for n in volume.array.shape)]
    np.testing.assert_array_equal(whole.reshape(shape[::-1]).T, values)
    assert restored(item, tmp_path / "b.nii").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("offset", [352, 353, 367, 400, 1024])
def test_any_offset_of_the_voxels(offset: int, tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii", patches=((108, float(offset)),))
    data = path.read_bytes()
    path.write_bytes(data[:352] + bytes(range(256)) * 3 + data[352:])
    path.write_bytes(path.read_bytes()[:offset] + data[352:])
    item = opened(path)
    values = item.volumes[0].array[tuple(slice(0, n) for n in (7, 18, 20))]
    np.testing.assert_array_equal(values.T, np.frombuffer(data[352:], "<i2").reshape((7, 18, 20)).T)
    assert restored(item, tmp_path / "b.nii").read_bytes() == path.read_bytes()


def test_an_axis_without_voxels_is_named(tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    struct.pack_into("<hhhhh", data, 40, 4, 20, 18, 7, 0)
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        adapters.discover(path)
    assert caught.value.kind == "no-volume" and "at least one voxel" in str(caught.value)


def test_a_gzip_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("adapters.gzipped", "adapters.nifti.data"):
        monkeypatch.setattr(f"{module}.MOST_AROUND", 1 << 20)
    path = made(tmp_path / "a.nii")
    packed = tmp_path / "bomb.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes() + bytes(8 << 20)))
    with pytest.raises(SourceError) as caught:
        opened(packed)
    assert caught.value.kind == "too-large" and "inflates past" in str(caught.value)
    path.write_bytes(path.read_bytes() + bytes(2 << 20))
    with pytest.raises(SourceError) as caught:
        opened(path)
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize("keep", [20, 300, 349, 400, 4000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_cut_off_files_are_errors(keep: int, suffix: str, tmp_path: Path) -> None:
    data = made(tmp_path / "whole.nii").read_bytes()[:keep]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    with pytest.raises(SourceError) as caught:
        opened(path)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize(
    ("name", "intent", "extension"),
    [
        ("a.nii", 1002, b""),
        ("a.nii", 1003, b""),
        ("a.dlabel.nii", 3007, b""),
        ("sub-01_desc-aseg_dseg.nii.gz", 0, b""),
        ("brain_mask.nii", 0, b""),
        ("roi.nii", 0, b"<AFNI_attributes VALUE_LABEL_DTABLE>"),
    ],
)
def test_labels_are_declared(name: str, intent: int, extension: bytes, tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 999, (20, 18, 7)).astype("i4")
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header["intent_code"] = intent
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", extension))
    image.to_filename(tmp_path / name)
    assert "label" in (opened(tmp_path / name).volumes[0].exact_only or "") or intent == 1003
    assert opened(tmp_path / name).volumes[0].exact_only


@pytest.mark.parametrize("name", ["maskedbrain.nii", "segments_T1w.nii", "a_probseg.nii"])
def test_images_are_not_labels_by_their_name(name: str, tmp_path: Path) -> None:
    assert opened(made(tmp_path / name)).volumes[0].exact_only is None


def test_a_cut_along_the_slices_forgets_their_order(tmp_path: Path) -> None:
    def with_order(axis: int) -> SourceItem:
        image = nibabel.load(made(tmp_path / f"{axis}.nii"))
        header = image.header
        header["dim_info"] = axis << 4
        header["slice_start"], header["slice_end"], header["slice_code"] = 0, 6, 3
        image.to_filename(tmp_path / f"{axis}s.nii")
        return opened(tmp_path / f"{axis}s.nii")

    across = (slice(0, 7), slice(3, 9), slice(0, 20))
    along = (slice(1, 5), slice(0, 18), slice(0, 20))
    for axis, key, forgotten in ((3, along, True), (3, across, False), (2, across, True),
                                 (0, across, True)):  # fmt: skip
        target = tmp_path / f"{axis}-{forgotten}.nii"
        found = nibabel.load(restored(with_order(axis), target, key)).header
        names = ("slice_start", "slice_end", "slice_code")
        assert [int(found[n]) for n in names] == ([0, 0, 0] if forgotten else [0, 6, 3])
