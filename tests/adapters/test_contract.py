"""The suite every adapter must pass, over files of every format and flavour."""

import gzip
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from contract_cases import CASES
from contract_checks import CHECKS, corners, world
from opened_items import whole
from pydicom.data import get_testdata_file

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError

LOSSLESS = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
LOSSY = RestoreInfo(lossless=False, ratio=37.5, method="psc", level=3)


@pytest.fixture(scope="module", params=CASES)
def source(
    request,
    tmp_path_factory,
    write_series,
    write_float,
    write_enhanced,
    write_nifti,
    write_netcdf,
    write_fits,
    write_trajectory,
) -> Path:
    case = CASES[request.param]
    if isinstance(case, Path):
        return case
    if isinstance(case, str):
        return Path(get_testdata_file(case.rsplit("/", 1)[-1]))
    folder = tmp_path_factory.mktemp(request.param)
    makers = {
        "series": write_series,
        "float": write_float,
        "enhanced": write_enhanced,
        "nifti": write_nifti,
        "netcdf": write_netcdf,
        "fits": write_fits,
        "trajectory": write_trajectory,
    }
    case(folder, makers)
    return folder


@pytest.fixture(scope="module")
def candidate(source):
    (found,) = adapters.discover(source).candidates
    return found


@pytest.fixture(scope="module")
def item(candidate):
    return adapters.open_source(candidate)


def region(volume):
    """A region that cuts every axis of more than one point, except samples, and x, y and z."""
    return tuple(
        slice(0, n) if dim in ("sample", "spatial") else slice(n // 3, n // 3 + max(1, n // 2))
        for dim, n in zip(volume.dims, volume.array.shape, strict=True)
    )


def cut(volume, key):
    start = tuple(part.start for part in key)
    return RestoredVolume(volume.name, volume.array[key], start, volume.array.shape)


def regions_of(item):
    """One region per volume; NetCDF volumes that share a dimension are cut alike."""
    return {volume.name: region(volume) for volume in item.volumes}


def beside(item):
    """Arrays that are no volumes; a restore takes them whole."""
    return [
        RestoredVolume(a.name, a.array, (0,) * len(a.dims), tuple(a.array.shape))
        for a in item.arrays
    ]


def as_json(attrs):
    return json.dumps(attrs, allow_nan=False, default=lambda value: value.tolist())


def restore(item, volumes, target, info):
    volumes = [*volumes, *beside(item)]
    document = json.loads(json.dumps(item.document, allow_nan=False))
    made = adapters.restore_source(item.kind, document, item.blobs, volumes, target, info)
    return [file.path for file in made]


def reopened(paths):
    folder = paths[0].parent
    (found,) = adapters.discover(folder).candidates
    return adapters.open_source(found)


def test_item_describes_its_volumes_completely(item, candidate):
    assert item.kind == candidate.kind and item.volumes
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", item.name)
    json.dumps(item.document, allow_nan=False)
    assert len({volume.name for volume in item.volumes}) == len(item.volumes)
    for volume in item.volumes:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", volume.name) or item.kind == "netcdf"
        assert isinstance(volume.array, adapters.LazyArray)
        assert 2 <= len(volume.array.shape) <= 6
        assert len(set(volume.dims)) == len(volume.dims) == len(volume.array.shape)
        assert volume.array.dtype.isnative
        assert (volume.affine is None) == (volume.spacing_mm is None)
        as_json(volume.attrs)
        for special in volume.special_values:
            assert volume.array.dtype.type(special) == special
        sizes = dict(zip(volume.dims, volume.array.shape, strict=True))
        for coordinate in volume.coordinates:
            assert coordinate.values.shape == tuple(sizes[dim] for dim in coordinate.dims)
            as_json(coordinate.attrs)


def test_nothing_personal_leaves_the_blobs(item):
    shown = [item.name, *item.notes, as_json([volume.attrs for volume in item.volumes])]
    assert not any(secret in text for text in shown for secret in ("Doe", "SECRET", "4711"))


def test_files_are_recorded_with_digest(item, candidate):
    import hashlib

    assert len(item.files) == len(candidate.paths)
    for record, path in zip(item.files, candidate.paths, strict=True):
        assert record.size == path.stat().st_size
        assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.as_posix().endswith(record.name)


def test_lazy_regions_equal_the_full_read(item):
    random = np.random.default_rng(9)
    for volume in item.volumes:
        full = whole(volume)
        assert full.shape == volume.array.shape and full.dtype == volume.array.dtype
        assert full.flags.c_contiguous and full.flags.writeable
        for _ in range(4):
            starts = [int(random.integers(0, n)) for n in full.shape]
            key = tuple(
                slice(s, int(random.integers(s + 1, n + 1)))
                for s, n in zip(starts, full.shape, strict=True)
            )
            np.testing.assert_array_equal(volume.array[key], full[key])
        empty = (slice(0, 0), *(slice(None) for _ in full.shape[1:]))
        assert volume.array[empty].shape == (0, *full.shape[1:])
        copy = pickle.loads(pickle.dumps(volume.array))
        np.testing.assert_array_equal(copy[region(volume)], full[region(volume)])
        with pytest.raises(IndexError):
            volume.array[(slice(None),)] if full.ndim > 1 else None
        with pytest.raises(IndexError):
            volume.array[tuple(slice(None, None, 2) for _ in full.shape)]


def test_values_and_corner_voxels_agree_with_the_formats_own_library(item, candidate):
    CHECKS[item.kind](item, candidate)


def test_restore_of_the_whole_gives_equal_data_and_geometry(item, candidate, tmp_path):
    volumes = [cut(v, tuple(slice(0, n) for n in v.array.shape)) for v in item.volumes]
    paths = restore(item, volumes, tmp_path / "out", LOSSLESS)
    assert all(path.is_file() for path in paths)
    again = reopened(paths)
    assert_same_volumes(item, again, {v.name: None for v in item.volumes})
    native = item.kind != "dicom" or all(entry["native"] for entry in item.document["files"])
    if item.kind == "netcdf" or item.bytes_beyond_remaking or not native:
        assert (
            adapters.content_sha256(item.kind, paths[0])
            == adapters.content_sha256(item.kind, candidate.paths[0])
            or item.kind == "dicom"
        )
        return
    by_name = {path.name: path for path in paths}
    for path in candidate.paths:
        read = gzip.open if path.name.endswith(".gz") else open
        with read(path, "rb") as before, read(by_name[path.name], "rb") as after:
            assert before.read() == after.read()


def test_restore_of_a_region_keeps_the_place_of_its_voxels(item, tmp_path):
    keys = regions_of(item)
    if item.kind == "netcdf":
        keys = {item.volumes[0].name: keys[item.volumes[0].name]}
    volumes = [cut(v, keys[v.name]) for v in item.volumes if v.name in keys]
    again = reopened(restore(item, volumes, tmp_path / "out", LOSSLESS))
    assert_same_volumes(item, again, keys)


def test_lossy_restore_keeps_geometry_and_values_given(item, tmp_path):
    volumes = [cut(v, tuple(slice(0, n) for n in v.array.shape)) for v in item.volumes]
    again = reopened(restore(item, volumes, tmp_path / "out", LOSSY))
    assert_same_volumes(item, again, {v.name: None for v in item.volumes})


def assert_same_volumes(before, after, keys):
    found = {volume.name: volume for volume in after.volumes}
    for volume in before.volumes:
        if volume.name not in keys:
            assert volume.name not in found
            continue
        key = keys[volume.name] or tuple(slice(0, n) for n in volume.array.shape)
        other = found[volume.name]
        assert other.array.dtype == volume.array.dtype
        kept = volume.array[key]
        # A single time point comes back without its time axis in DICOM.
        np.testing.assert_array_equal(whole(other).reshape(kept.shape), kept)
        assert (other.unit, other.slope, other.intercept) == (
            volume.unit,
            volume.slope,
            volume.intercept,
        )
        assert other.special_values == volume.special_values
        assert_same_place(volume, other, key)
        assert_same_coordinates(volume, other, key)


def assert_same_place(volume, other, key):
    if volume.affine is None:
        assert other.affine is None or before_was_irregular(volume)
        return
    start = np.array([part.start for part in key[-3:]])
    for index in corners(other.array.shape):
        np.testing.assert_allclose(
            world(other.affine, index), world(volume.affine, index + start), atol=2e-3
        )
    np.testing.assert_allclose(other.spacing_mm[1:], volume.spacing_mm[1:], rtol=1e-5)


def before_was_irregular(volume):
    return volume.attrs.get("slice_spacing") == "irregular"


def assert_same_coordinates(volume, other, key):
    parts = dict(zip(volume.dims, key, strict=True))
    for coordinate in volume.coordinates:
        expected = coordinate.values[tuple(parts[dim] for dim in coordinate.dims)]
        same = [c for c in other.coordinates if c.name == coordinate.name]
        if same and expected.dtype.kind == "U":
            assert same[0].values.tolist() == expected.tolist()
        elif same:
            np.testing.assert_allclose(same[0].values, expected, atol=1e-3)
        else:
            assert expected.size == 1  # the axis is gone, or DICOM kept one frame


def test_restore_never_replaces_anything(item, tmp_path):
    volumes = [cut(v, tuple(slice(0, n) for n in v.array.shape)) for v in item.volumes]
    target = tmp_path / "out"
    (first, *_) = restore(item, volumes, target, LOSSLESS)
    before = first.read_bytes()
    with pytest.raises(SourceError) as caught:
        restore(item, volumes, target, LOSSY)
    assert caught.value.kind == "target-exists"
    assert first.read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*.partial")] == []


def test_restore_refuses_volumes_that_do_not_fit(item, tmp_path):
    volume = item.volumes[0]
    good = cut(volume, tuple(slice(0, n) for n in volume.array.shape))
    unknown = RestoredVolume("nobody", good.array, good.start, good.full_shape)
    larger = tuple(n + 1 for n in good.full_shape)
    grown = RestoredVolume(volume.name, good.array, good.start, larger)
    other_type = np.zeros(good.array.shape, np.complex64)
    typed = RestoredVolume(volume.name, other_type, good.start, good.full_shape)
    for wrong in ([unknown], [grown], [], [good, good], [typed]):
        with pytest.raises(SourceError) as caught:
            restore(item, wrong, tmp_path / "out", LOSSLESS)
        assert caught.value.kind == "bad-region"
    assert list(tmp_path.iterdir()) == [] or not list((tmp_path / "out").iterdir())


def test_restore_refuses_a_record_that_leaves_its_folder(item, tmp_path):
    document = json.loads(json.dumps(item.document))
    if item.kind == "dicom":
        document["files"][0]["name"] = "../escaped.dcm"
    elif item.kind in ("nifti", "fits", "images", "trajectories"):
        document["names"][0] = "../escaped.nii"
    else:
        document["name"] = "/escaped.nc"
    volumes = [cut(v, tuple(slice(0, n) for n in v.array.shape)) for v in item.volumes]
    volumes += beside(item)
    with pytest.raises(SourceError) as caught:
        adapters.restore_source(
            item.kind, document, item.blobs, volumes, tmp_path / "out", LOSSLESS
        )
    assert caught.value.kind == "unsafe-name"


def test_restore_refuses_a_record_without_its_blobs(item, tmp_path):
    volumes = [cut(v, tuple(slice(0, n) for n in v.array.shape)) for v in item.volumes]
    for document, blobs in (({}, item.blobs), (item.document, {})):
        with pytest.raises(SourceError) as caught:
            adapters.restore_source(item.kind, document, blobs, volumes, tmp_path / "out", LOSSLESS)
        # A NetCDF file has arrays instead of blobs; without them it is not restored either.
        lacks_arrays = item.kind == "netcdf" and document
        assert caught.value.kind == ("bad-region" if lacks_arrays else "bad-document")
