import netCDF4
import numpy as np
import pytest

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError

LOSSLESS = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
LOSSY = RestoreInfo(lossless=False, ratio=None, method="psc", level=1)
MODELS = [
    "NETCDF4",
    "NETCDF4_CLASSIC",
    "NETCDF3_CLASSIC",
    "NETCDF3_64BIT_OFFSET",
    "NETCDF3_64BIT_DATA",
]


def open_only(path):
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def part_of(volume, key=None):
    parts = key or tuple(slice(0, n) for n in volume.array.shape)
    start = tuple(p.start for p in parts)
    return RestoredVolume(volume.name, volume.array[parts], start, volume.array.shape)


def beside(item):
    return [
        RestoredVolume(a.name, a.array, (0,) * len(a.array.shape), tuple(a.array.shape))
        for a in item.arrays
    ]


def restore(item, volumes, target, info=LOSSLESS):
    volumes = [*volumes, *beside(item)]
    made = adapters.restore_source("netcdf", item.document, item.blobs, volumes, target, info)
    return [file.path for file in made]


def describe(group):
    """Everything about a group but its values: what ncdump -s would show."""
    group.set_auto_maskandscale(False)
    group.set_auto_chartostring(False)
    variables = {
        name: (
            str(v.dtype),
            v.dimensions,
            v.shape,
            v.filters(),
            v.chunking(),
            v.endian(),
            describe_attributes(v),
        )
        for name, v in group.variables.items()
    }
    dims = {name: (len(d), d.isunlimited()) for name, d in group.dimensions.items()}
    enums = {name: enum.enum_dict for name, enum in group.enumtypes.items()}
    groups = {name: describe(child) for name, child in group.groups.items()}
    return repr((dims, variables, enums, describe_attributes(group), groups))


def describe_attributes(holder):
    found = {name: holder.getncattr(name) for name in holder.ncattrs()}
    return sorted((n, type(v), getattr(v, "dtype", None), repr(v)) for n, v in found.items())


def values_of(group):
    found = {}
    for name, variable in group.variables.items():
        found[f"{group.path}/{name}"] = np.asarray(variable[...])
    for child in group.groups.values():
        found |= values_of(child)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_whole_restore_equals_the_source_in_everything(tmp_path, write_netcdf, model):
    path = tmp_path / "in.nc"
    write_netcdf(path, model)
    item = open_only(path)
    (made,) = restore(item, [part_of(v) for v in item.volumes], tmp_path / "out.nc")
    with netCDF4.Dataset(path) as before, netCDF4.Dataset(made) as after:
        assert before.data_model == after.data_model == model
        assert describe(before) == describe(after)
        first, second = values_of(before), values_of(after)
        assert first.keys() == second.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name])


def test_text_attributes_keep_their_kind(tmp_path, write_netcdf):
    import h5py

    write_netcdf(tmp_path / "in.nc")
    item = open_only(tmp_path / "in.nc")
    restore(item, [part_of(v) for v in item.volumes], tmp_path / "out.nc")
    with h5py.File(tmp_path / "in.nc") as before, h5py.File(tmp_path / "out.nc") as after:
        for name in ("title", "producer", "list"):
            assert before.attrs.get_id(name).dtype == after.attrs.get_id(name).dtype
        assert after["t2m"].attrs["latin"] == b"caf\xe9"


def test_volumes_are_packed_values_with_their_specials(tmp_path, write_netcdf):
    write_netcdf(tmp_path / "a.nc")
    item = open_only(tmp_path / "a.nc")
    first, second = item.volumes
    assert item.suggested_prior == "climate-grid"
    assert (first.name, second.name) == ("t2m", "model/run1/t2m")
    assert first.array.dtype == np.int16 and first.special_values == (-999, -998, -997)
    assert first.slope == pytest.approx(0.01) and first.intercept == 273.15
    assert first.unit == "K" and first.affine is None
    assert first.dims == ("time", "lat", "lon")
    assert second.dims == ("time", "lat", "lon")
    assert second.array.dtype == np.float32 and second.array.dtype.isnative


def test_default_fill_is_special_where_none_is_named(tmp_path, write_netcdf):
    write_netcdf(tmp_path / "a.nc", "NETCDF3_CLASSIC", fill=None)
    (volume,) = open_only(tmp_path / "a.nc").volumes
    assert volume.special_values == (-998, -997, -32767)


def test_coordinates_of_other_variables_are_not_volumes(tmp_path):
    path = tmp_path / "curved.nc"
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("y", 20)
        dataset.createDimension("x", 30)
        for name in ("temperature", "TLAT", "TLON", "height"):
            dataset.createVariable(name, "f4", ("y", "x"))[:] = np.arange(600).reshape(20, 30)
        dataset["temperature"].coordinates = "TLAT TLON height"
    item = open_only(path)
    assert [volume.name for volume in item.volumes] == ["temperature"]
    assert {a.name: a.dims for a in item.arrays} == dict.fromkeys(
        ("TLAT", "TLON", "height"), ("y", "x")
    )


def test_region_cuts_coordinates_and_everything_that_shares_the_axes(tmp_path, write_netcdf):
    write_netcdf(tmp_path / "in.nc")
    item = open_only(tmp_path / "in.nc")
    key = (slice(1, 3), slice(5, 30), slice(10, 40))
    (path,) = restore(item, [part_of(item.volumes[0], key)], tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "in.nc") as before, netCDF4.Dataset(path) as after:
        assert after.dimensions["time"].isunlimited() and after["t2m"].shape == (2, 25, 30)
        np.testing.assert_array_equal(after["time"][:], [1.5, 2.5])
        np.testing.assert_array_equal(after["lat"][:], before["lat"][5:30])
        np.testing.assert_array_equal(after["lon"][:], before["lon"][10:40])
        assert "t2m" not in after["model/run1"].variables
        np.testing.assert_array_equal(after["model/run1/lat"][:], np.arange(36.0))


def test_volumes_cut_differently_along_one_axis_are_refused(tmp_path, write_netcdf):
    write_netcdf(tmp_path / "in.nc")
    first, second = open_only(tmp_path / "in.nc").volumes
    item = open_only(tmp_path / "in.nc")
    volumes = [part_of(first, (slice(0, 2), slice(0, 40), slice(0, 48))), part_of(second)]
    with pytest.raises(SourceError) as caught:
        restore(item, volumes, tmp_path / "out.nc")
    assert caught.value.kind == "bad-region" and not (tmp_path / "out.nc").exists()


def test_loss_is_written_into_an_attribute(tmp_path, write_netcdf):
    write_netcdf(tmp_path / "in.nc")
    item = open_only(tmp_path / "in.nc")
    (path,) = restore(item, [part_of(item.volumes[0])], tmp_path / "out.nc", LOSSY)
    with netCDF4.Dataset(path) as dataset:
        assert "restored with loss" in dataset.psc_archive_restoration


def test_file_without_a_grid_is_kept_as_arrays(tmp_path):
    path = tmp_path / "stations.nc"
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("station", 100)
        dataset.createDimension("obs", 8)
        dataset.createVariable("t", "f4", ("station", "obs"))[:] = 1
        dataset.createVariable("height", "f8", ())[...] = 2
    item = open_only(path)
    assert item.volumes == () and [a.name for a in item.arrays] == ["t", "height"]
    assert "nothing in it is a volume" in item.notes[0]
    (made,) = restore(item, [], tmp_path / "out.nc")
    assert adapters.content_sha256("netcdf", made) == adapters.content_sha256("netcdf", path)


@pytest.mark.parametrize("model", MODELS)
def test_cut_off_files_are_refused(tmp_path, write_netcdf, model):
    path = tmp_path / "a.nc"
    write_netcdf(path, model)
    data = path.read_bytes()
    for keep in (len(data) - 1, len(data) // 2, 60, 3):
        path.write_bytes(data[:keep])
        with pytest.raises(SourceError) as caught:
            adapters.discover(path)
        assert caught.value.kind in ("truncated", "damaged", "not-netcdf")


def test_text_named_nc_is_refused(tmp_path):
    path = tmp_path / "a.nc"
    path.write_text("hello")
    with pytest.raises(SourceError) as caught:
        adapters.discover(path)
    assert caught.value.kind == "not-netcdf" and "b'hell'" in str(caught.value)


def test_real_files_come_back_equal(data_folder, tmp_path):
    for name in ("geocat/era5_1995-07-14T12.nc", "iris/small_theta_colpex.nc"):
        path = data_folder / "climate" / name
        item = open_only(path)
        (made,) = restore(item, [part_of(v) for v in item.volumes], tmp_path / path.name)
        with netCDF4.Dataset(path) as before, netCDF4.Dataset(made) as after:
            assert describe(before) == describe(after)
            second = values_of(after)
            for key, values in values_of(before).items():
                np.testing.assert_array_equal(values, second[key])
