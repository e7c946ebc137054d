"""Source files through the command line into archives and back: geometry, regions, levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import nibabel
import numpy as np
import pydicom
import pytest
import xarray as xr
import zarr

import adapters
from psc_volumetric.archive import ArchiveReader

Run = Callable[..., Any]

TARGETS = {"dicom": "series", "nifti": "back.nii", "netcdf": "back.nc"}
VARIABLES = {"dicom": "image", "nifti": "image", "netcdf": "t2m"}


def stored_values(kind: str, path: Path) -> np.ndarray:
    """Stored integers of a source as (..., z, y, x)."""
    if kind == "nifti":
        return np.asanyarray(nibabel.load(path).dataobj.get_unscaled()).T
    if kind == "netcdf":
        with netCDF4.Dataset(path) as nc:
            nc.set_auto_maskandscale(False)
            return np.asarray(nc["t2m"][:])
    slices = [pydicom.dcmread(p) for p in sorted(path.iterdir())]
    along = np.cross(
        slices[0].ImageOrientationPatient[:3], slices[0].ImageOrientationPatient[3:]
    ).astype(float)
    slices.sort(key=lambda ds: float(np.dot(along, np.asarray(ds.ImagePositionPatient, float))))
    return np.stack([ds.pixel_array for ds in slices])


def restored(run: Run, archive: Path, kind: str, folder: Path, *words: str) -> Path:
    folder.mkdir(exist_ok=True)
    target = folder / TARGETS[kind]
    outcome = run("restore", archive, target, *words, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["kind"] == kind
    return target


@pytest.mark.parametrize("kind", TARGETS)
def test_restored_values_are_those_of_every_other_reader(kind, archives, sources, tmp_path, run):
    archive, name = archives[kind], VARIABLES[kind]
    back = stored_values(kind, restored(run, archive, kind, tmp_path))
    source = stored_values(kind, sources[kind])
    assert back.shape == source.shape
    assert back.dtype == source.dtype
    with ArchiveReader.open(archive) as reader:
        np.testing.assert_array_equal(back, reader.read(name))
    np.testing.assert_array_equal(back, zarr.open_group(archive, mode="r")[name][...])
    with xr.open_dataset(archive, engine="psc", mask_and_scale=False) as dataset:
        np.testing.assert_array_equal(back, dataset[name].values)


@pytest.mark.parametrize("kind", TARGETS)
def test_region_equals_the_slice_of_the_whole(kind, archives, tmp_path, run):
    whole = stored_values(kind, restored(run, archives[kind], kind, tmp_path / "whole"))
    part = stored_values(
        kind, restored(run, archives[kind], kind, tmp_path / "part", "--roi", "z=1:4,y=3:15,x=5")
    )
    expected = whole[1:4, 3:15, 5:6]
    np.testing.assert_array_equal(np.squeeze(part), np.squeeze(expected))


@pytest.mark.parametrize("kind", TARGETS)
def test_more_levels_come_closer_and_never_cost_fewer_bytes(kind, archives, sources, run):
    info = run("info", archives[kind], "--json")
    assert info.code == 0
    levels = info.document["variables"][VARIABLES[kind]]["levels"]
    assert len(levels) >= 2
    nbytes = [row["bytes"] for row in levels]
    assert nbytes == sorted(nbytes)
    assert levels[-1]["rmse"] < levels[0]["rmse"]
    source = stored_values(kind, sources[kind]).astype(float)
    with ArchiveReader.open(archives[kind]) as reader:
        errors = [
            np.abs(reader.read(VARIABLES[kind], level=level) - source).max()
            for level in (0, len(levels) - 1)
        ]
    assert errors[1] == pytest.approx(levels[-1]["max_error"])
    assert errors[0] == pytest.approx(levels[0]["max_error"])


def test_restored_nifti_lies_where_the_source_lay(archives, sources, tmp_path, run):
    source = nibabel.load(sources["nifti"])
    whole = nibabel.load(restored(run, archives["nifti"], "nifti", tmp_path / "whole"))
    np.testing.assert_array_equal(whole.affine, source.affine)
    assert (whole.dataobj.slope, whole.dataobj.inter) == (0.5, -10.0)
    part = nibabel.load(
        restored(run, archives["nifti"], "nifti", tmp_path / "part", "--roi", "z=1:3,y=4:9,x=6:30")
    )
    assert part.shape == (24, 5, 2)
    np.testing.assert_allclose(
        part.affine @ [0, 0, 0, 1], source.affine @ [6, 4, 1, 1], rtol=1e-6, atol=1e-4
    )


def test_region_in_millimetres_holds_the_voxel_at_that_place(archives, sources, tmp_path, run):
    source = nibabel.load(sources["nifti"])
    x, y, z = (source.affine @ [20, 30, 4, 1])[:3]
    box = f"x={x - 2}:{x + 2},y={y - 2}:{y + 2},z={z - 1}:{z + 1}"
    target = restored(run, archives["nifti"], "nifti", tmp_path, "--roi-mm", box)
    part = nibabel.load(target)
    index = np.linalg.inv(part.affine) @ [x, y, z, 1]
    assert all(-0.01 < i < n - 0.99 for i, n in zip(index, part.shape, strict=False))
    assert max(part.shape) < 10


def test_restored_dicom_opens_and_says_that_it_is_lossy(archives, sources, tmp_path, run):
    target = restored(run, archives["dicom"], "dicom", tmp_path)
    originals = {pydicom.dcmread(p).SOPInstanceUID for p in sources["dicom"].iterdir()}
    files = [pydicom.dcmread(path) for path in sorted(target.iterdir())]
    assert len(files) == 5
    for file in files:
        assert file.LossyImageCompression == "01"
        assert file.ImageType[0] == "DERIVED"
        assert file.SOPInstanceUID not in originals


def test_restored_netcdf_keeps_packing_mask_and_unlimited_axis(archives, sources, tmp_path, run):
    target = restored(run, archives["netcdf"], "netcdf", tmp_path)
    with netCDF4.Dataset(target) as back, netCDF4.Dataset(sources["netcdf"]) as source:
        assert back.dimensions["time"].isunlimited()
        assert back["t2m"].scale_factor == source["t2m"].scale_factor
        assert back["t2m"].dtype == source["t2m"].dtype
        np.testing.assert_array_equal(back["t2m"][:].mask, source["t2m"][:].mask)
        np.testing.assert_array_equal(back["lat"][:], source["lat"][:])


def test_region_in_coordinates(archives, tmp_path, run):
    target = restored(
        run, archives["netcdf"], "netcdf", tmp_path, "--roi-coords", "lat=40:60,lon=15:37.5"
    )
    with netCDF4.Dataset(target) as back:
        assert back["lat"][:].tolist() == [60, 55, 50, 45, 40]
        assert back["lon"][:].tolist() == [15, 22.5, 30, 37.5]
        assert back["t2m"].shape == (10, 5, 4)


def test_label_map_is_kept_exactly_and_said_so(label_map, label_archive, tmp_path, run):
    document = run("archive", label_map, tmp_path / "again.psc.zarr", "--mode", "lossy", "--json")
    row = document.document["archives"][0]["variables"][0]
    assert row["method"] == "lossless"
    assert "labels" in row["reason"]
    outcome = run("restore", label_archive, tmp_path / "back.nii")
    assert outcome.code == 0
    assert (tmp_path / "back.nii").read_bytes() == label_map.read_bytes()


@pytest.mark.parametrize("kind", TARGETS)
def test_deep_verification_agrees(kind, archives, run):
    outcome = run("verify", archives[kind], "--deep", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["ok"]
    assert outcome.document["checked"]["bricks"] >= 1
    assert run("verify", archives[kind], "--sample", "5%", "-q").out == ""


def test_dry_runs_write_nothing(archives, sources, tmp_path, run, coded):
    target = tmp_path / "x.psc.zarr"
    outcome = run("archive", sources["netcdf"], target, *coded, "--dry-run", "--json")
    assert outcome.code == 0
    item = outcome.document["items"][0]
    assert item["prior"] == "test-tiny"
    assert item["network_evaluations"] > 0
    assert item["source_bytes"] == 2 * 10 * 33 * 48
    outcome = run("restore", archives["nifti"], tmp_path / "b.nii", "--dry-run", "--roi", "z=0:2")
    assert outcome.code == 0
    assert "z=0:2" in outcome.out
    assert list(tmp_path.iterdir()) == []


def agrees_everywhere(run: Run, source: Path, folder: Path, suffix: str, *words: str) -> None:
    """Whole restore, region restore and xarray give the same values of the first variable."""
    archive = folder / "a.psc.zarr"
    outcome = run("archive", source, archive, *words, "--json")
    assert outcome.code == 0, outcome.err
    name = outcome.document["archives"][0]["variables"][0]["name"]
    for target, roi in (("whole", ()), ("part", ("--roi", "y=3:35,x=16:48"))):
        (folder / target).mkdir()
        outcome = run("restore", archive, folder / target / f"r{suffix}", *roi)
        assert outcome.code == 0, outcome.err
    values = []
    for target in ("whole", "part"):
        (candidate,) = adapters.discover(folder / target).candidates
        volumes = {v.name: v for v in adapters.open_source(candidate).volumes}
        array = volumes[name].array
        values.append(array[tuple(slice(0, n) for n in array.shape)])
    np.testing.assert_array_equal(values[0][..., 3:35, 16:48], values[1])
    with xr.open_dataset(archive, engine="psc", mask_and_scale=False) as dataset:
        np.testing.assert_array_equal(dataset[name].values, values[0])


def test_real_climate_field_agrees_everywhere(data_folder, tmp_path, run, coded):
    source = data_folder / "climate" / "geocat" / "absolute.nc"
    agrees_everywhere(run, source, tmp_path, ".nc", *coded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("mr/dcm-qa-t1-fl2d-sag", ""),
        ("mr/misc-nifti/stc_Siemens_fMRIcontin_30x30x36_4.nii", ".nii"),
        ("climate/geocat/era5_1995-07-14T12.nc", ".nc"),
    ],
)
def test_real_volumes_agree_everywhere(path, suffix, data_folder, tmp_path, run, coded):
    """A DICOM series, an oblique NIfTI and packed integers of NetCDF as they came."""
    agrees_everywhere(run, data_folder / path, tmp_path, suffix, *coded)
