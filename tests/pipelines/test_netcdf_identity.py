"""A lossless archive of a NetCDF file opens as the file itself does, and gives it back."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import netCDF4
import netcdf_makers as makers
import numpy as np
import pytest
import xarray as xr

import adapters
from adapters.errors import SourceError
from adapters.netcdf.content import content_differences
from pipelines.archiving.archive import ArchiveOptions, archive, plan
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.errors import ParameterError, PscError

RAW = {"mask_and_scale": False, "decode_times": False, "concat_characters": False}


def archived(source: Path, **options: object) -> Path:
    target = source.with_suffix(".psc.zarr")
    (report,) = archive(plan(source, str(target), ArchiveOptions(coders="zstd", **options)))
    assert report.state == "archived", report.error
    return target


def opened(path: Path, **how: object) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_dataset(path, **how)


def assert_same(source: xr.Dataset, found: xr.Dataset) -> None:
    """Identical, and in what that leaves out: types of values and attributes, and their order."""
    xr.testing.assert_identical(source, found)
    assert list(source.attrs) == list(found.attrs)
    for name, variable in source.variables.items():
        other = found.variables[name]
        assert variable.dtype.newbyteorder("=") == other.dtype, name
        assert list(variable.attrs) == list(other.attrs), name
    for holder in (source, *source.variables.values()):
        other = found if holder is source else found.variables[name_of(source, holder)]
        for key, value in holder.attrs.items():
            assert type(other.attrs[key]) is type(value), key
            assert getattr(other.attrs[key], "dtype", None) == getattr(value, "dtype", None), key


def name_of(dataset: xr.Dataset, variable: xr.Variable) -> str:
    return next(str(n) for n, v in dataset.variables.items() if v is variable)


@pytest.mark.parametrize("make", makers.MAKERS, ids=lambda make: make.__name__)
def test_archive_opens_as_the_file_and_gives_it_back(make, tmp_path):
    source = tmp_path / "in.nc"
    make(source)
    target = archived(source)
    for how in ({}, RAW):
        groups = ("model/c", "empty", None) if make is makers.groups else (None,)
        for group in groups:
            with (
                opened(source, engine="netcdf4", group=group, **how) as native,
                opened(target, engine="psc", group=group, **how) as found,
            ):
                assert_same(native, found)
    report = restore(str(target), tmp_path / "out.nc", RestoreOptions())
    assert [(p.outcome, p.proven) for p in report.proofs] == [("equal data", True)]
    assert content_differences(source, tmp_path / "out.nc") == []
    with netCDF4.Dataset(source) as before, netCDF4.Dataset(tmp_path / "out.nc") as after:
        for name, variable in before.variables.items():
            assert after[name].ncattrs() == variable.ncattrs()
            assert after[name].chunking() == variable.chunking()


def test_a_volume_that_is_seen_unsigned_keeps_its_bound_as_readers_see_it(tmp_path):
    makers.goes(tmp_path / "in.nc")
    target = archived(tmp_path / "in.nc", mode="bounded", max_error=2.0, base="wavelet")
    with (
        opened(tmp_path / "in.nc", engine="netcdf4") as native,
        opened(target, engine="psc") as found,
    ):
        assert found.psc.is_lossy and found.attrs["psc_mode"] == "bounded"
        for name in ("Rad", "signed"):
            scale = float(native[name].encoding.get("scale_factor", 1))
            away = np.abs(native[name].astype("f8") - found[name].astype("f8"))
            assert float(away.max()) <= 2 * scale + 1e-4
            assert (np.isnan(native[name]) == np.isnan(found[name])).all()
        np.testing.assert_array_equal(native.DQF.values, found.DQF.values)


@pytest.mark.parametrize("oddity", makers.BEYOND)
def test_what_cannot_be_made_again_is_kept_and_the_rest_is_shown(oddity, tmp_path):
    source = tmp_path / "in.nc"
    makers.grid(source)
    with h5py.File(source, "a") as file:
        makers.BEYOND[oddity](file)
    target = archived(source)
    with opened(target, engine="psc") as found:
        np.testing.assert_array_equal(found.t.values, makers.field(18, 20).astype("f4"))
    report = restore(str(target), tmp_path / "out.nc", RestoreOptions())
    (proof,) = report.proofs
    assert proof.proven
    if oddity != "booleans":  # an enumeration, which comes back as one
        assert proof.outcome == "identical"
        assert (tmp_path / "out.nc").read_bytes() == source.read_bytes()
    cut = restore(str(target), tmp_path / "cut.nc", RestoreOptions(roi="y=2:9"))
    assert cut.proofs[0].outcome == "derived (part of the source)"


@pytest.mark.parametrize("oddity", makers.PERILOUS)
def test_what_the_library_must_not_open_is_kept_verbatim(oddity, tmp_path):
    source = tmp_path / "in.nc"
    makers.grid(source)
    with h5py.File(source, "a") as file:
        makers.PERILOUS[oddity](file)
    target = archived(source)
    report = restore(str(target), tmp_path / "out.nc", RestoreOptions())
    assert report.proofs[0].outcome == "identical" and report.proofs[0].proven
    with opened(target, engine="psc") as found:
        assert not found.variables


def test_arrays_that_the_file_cannot_hold_are_refused_by_name(tmp_path):
    makers.grid(tmp_path / "in.nc")
    with h5py.File(tmp_path / "in.nc", "a") as file:
        file.create_dataset("bomb", (1 << 33,), "f8", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(SourceError) as caught:
        adapters.discover(tmp_path / "in.nc")
    assert caught.value.kind == "too-large" and "'/bomb'" in str(caught.value)


def test_plain_zarr_sees_the_users_names_and_no_zeros_where_a_chunk_is_lost(tmp_path):
    makers.era5(tmp_path / "in.nc")
    target = archived(tmp_path / "in.nc")
    for name in ("latitude", "number", "valid_time"):
        for chunk in (target / name).rglob("*"):
            if chunk.is_file() and chunk.name != "zarr.json":
                chunk.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import zarr

        group = zarr.open_group(target, mode="r")
        for name in ("latitude", "number", "valid_time"):
            try:
                values = np.asarray(group[name][...])
            except PscError as error:
                assert name in str(error)
            else:
                assert not (values == 0).any()


def test_levels_that_no_archive_has_are_refused(tmp_path):
    makers.grid(tmp_path / "in.nc")
    target = archived(tmp_path / "in.nc")
    for level in (-1, "best"):
        with pytest.raises(ParameterError) as caught:
            xr.open_dataset(target, engine="psc", level=level)
        assert caught.value.kind == "bad-level"
    with xr.open_dataset(target, engine="psc", level=99) as found:
        assert found.psc.level == 99 and found.attrs["psc_level"] == 99
    with pytest.raises(ParameterError) as caught:
        xr.open_dataset(target, engine="psc", group="nowhere")
    assert caught.value.kind == "unknown-group"


@pytest.mark.parametrize("make", [makers.text, makers.era5, makers.goes], ids=lambda m: m.__name__)
def test_plain_zarr_opens_the_whole(make, tmp_path):
    """Values as from the file; JSON knows no float32, so packed ones come as float64."""
    make(tmp_path / "in.nc")
    target = archived(tmp_path / "in.nc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = xr.open_zarr(target, consolidated=False).load()
    with opened(tmp_path / "in.nc", engine="netcdf4") as native:
        for name, variable in native.variables.items():
            if variable.dtype.kind in "iufM":
                expected = variable.values.astype("f8")
                np.testing.assert_allclose(found[name].values.astype("f8"), expected, rtol=1e-5)
            elif found[name].dtype != np.uint8:  # characters are bytes there
                assert found[name].values.tolist() == variable.values.tolist()


def test_regions_by_the_users_names_also_in_groups(tmp_path):
    makers.names(tmp_path / "names.nc")
    target = archived(tmp_path / "names.nc")
    restore(str(target), tmp_path / "a.nc", RestoreOptions(roi="緯度=2:6"))
    restore(str(target), tmp_path / "b.nc", RestoreOptions(roi_coords="緯度=2:5"))
    with xr.open_dataset(tmp_path / "names.nc") as native:
        for name in ("a.nc", "b.nc"):
            with xr.open_dataset(tmp_path / name) as found:
                xr.testing.assert_identical(found, native.isel({"緯度": slice(2, 6)}))
    makers.groups(tmp_path / "groups.nc")
    target = archived(tmp_path / "groups.nc")
    restore(str(target), tmp_path / "c.nc", RestoreOptions(roi_coords="lat=4:8"))
    for group, region in ((None, slice(4, 9)), ("model/c", slice(2, 5))):
        with (
            xr.open_dataset(tmp_path / "groups.nc", group=group) as native,
            xr.open_dataset(tmp_path / "c.nc", group=group) as found,
        ):
            xr.testing.assert_identical(found, native.isel(lat=region))
