"""Scans through ``engine="psc"``: slopes per slice, world coordinates, attributes of every type."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from psc_volumetric.archive import ArchiveReader, ArchiveWriter, PlainCoordinate
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.skeleton import Beside

OBLIQUE = np.array([[0.1, 0.3, -2.0, 5], [0.2, 1.5, 0.2, 3], [4, -0.4, 0.1, 1], [0, 0, 0, 1.0]])


def coded(path: Path, values: np.ndarray, make: SimpleNamespace, **changes: Any) -> Path:
    make.build(path, values, **changes)
    return path


def test_slopes_per_slice_give_what_pydicom_gives(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values((2, 5, 40, 36))
    slopes = np.linspace(0.5, 7, 10).reshape(2, 5) * [[1], [-1]]
    offsets = np.arange(10.0).reshape(2, 5)
    attrs = {"slice_slope": slopes.tolist(), "slice_intercept": offsets.tolist()}
    path = coded(tmp_path / "a.psc.zarr", values, make, attrs=attrs)
    expected = values.astype("f8") * slopes[..., None, None] + offsets[..., None, None]
    with xr.open_dataset(path, engine="psc", uncertainty=True, chunks={}) as dataset:
        assert dataset.volume.dtype == np.float64 and "slice_slope" not in dataset.volume.attrs
        np.testing.assert_array_equal(dataset.volume.values, expected)
        part = dataset.volume.isel(t=1, z=[4, 2], y=3, x=slice(None, None, -5))
        np.testing.assert_array_equal(part.values, expected[1, [4, 2], 3, ::-5])
        np.testing.assert_array_equal(dataset.volume_sigma.values, 0)
        dataset.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as written:
        np.testing.assert_array_equal(written.volume.values, expected)
    with xr.open_dataset(path, engine="psc", mask_and_scale=False) as dataset:
        np.testing.assert_array_equal(dataset.volume.values, values)
        assert "slice_slope" in dataset.volume.attrs


def test_oblique_volumes_have_world_coordinates(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values((6, 33, 40))
    path = coded(tmp_path / "a.psc.zarr", values, make, affine=OBLIQUE)
    with xr.open_dataset(path, engine="psc") as dataset:
        z, y, x = 4, 20, 31
        world = OBLIQUE @ [z, y, x, 1]
        at = dataset.volume.isel(z=z, y=y, x=x)
        np.testing.assert_allclose([at.world_x, at.world_y, at.world_z], world[:3])
        labels = {
            f"world_{n}": xr.DataArray([w + 0.1], dims="p")
            for n, w in zip("xyz", world[:3], strict=True)
        }
        found = dataset.volume.sel(labels, method="nearest")
        assert found.values == values[z, y, x]
        copy = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(copy.world_y.values, dataset.world_y.values)
        dataset.to_netcdf(tmp_path / "a.nc")
        dataset.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    with xr.open_dataset(tmp_path / "a.nc") as written:
        np.testing.assert_allclose(written.world_z[z, y, x], world[2])
        np.testing.assert_array_equal(written.volume.values, values)


def test_two_oblique_volumes_have_coordinates_of_their_own(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    arrays = {"a": make.values((5, 20, 20)), "b": make.values((5, 20, 33), seed=1)}
    specs = [make.spec(v, name=n, affine=OBLIQUE) for n, v in arrays.items()]
    writer = ArchiveWriter.create(tmp_path / "m.psc.zarr", mode="lossless", variables=specs)
    make.write_bricks(writer, arrays)
    writer.seal()
    with xr.open_dataset(tmp_path / "m.psc.zarr", engine="psc") as dataset:
        assert {"world_x", "world_x_2"} <= set(dataset.b.coords) | set(dataset.a.coords)
        assert dataset.b.world_x_2.shape == (5, 20, 33)


def test_attributes_that_no_file_can_hold_become_text(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    attrs = {
        "flag": True,
        "nothing": None,
        "many": {"a": [1, None]},
        "ragged": [[1, 2], [3]],
        "mixed": [1, "two"],
        "empty": [],
        "large": 1 << 70,
        "numbers": [1, 2.5],
        "words": ["one", "two"],
        "single": np.float32(0.1),
        "bytes": b"\xff",
    }
    values = make.values((3, 20, 24))
    path = coded(tmp_path / "a.psc.zarr", values, make, attrs=attrs)
    with ArchiveReader.open(path) as reader:
        kept = reader.variables["volume"].attrs
        assert {key: kept[key] for key in attrs} == attrs
        assert list(kept)[: len(attrs)] == list(attrs)
    with xr.open_dataset(path, engine="psc") as dataset:
        shown = dataset.volume.attrs
        assert (shown["flag"], shown["many"]) == ("true", '{"a": [1, null]}')
        assert "nothing" not in shown and shown["words"] == ["one", "two"]
        assert shown["single"] == np.float32(0.1) and shown["single"].dtype == np.float32
        dataset.to_netcdf(tmp_path / "a.nc")
        dataset.drop_encoding().to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)


@pytest.mark.parametrize("factor", [-0.5, np.float32(-0.5), np.int16(-2)])
def test_uncertainty_has_no_sign(tmp_path: Path, make: SimpleNamespace, factor: Any) -> None:
    values = make.values((3, 20, 24))
    attrs = {"scale_factor": factor, "add_offset": 3.0, "_FillValue": np.int16(7)}
    path = coded(tmp_path / "a.psc.zarr", values, make, attrs=attrs)
    with xr.open_dataset(path, engine="psc", uncertainty=True, mask_and_scale=False) as dataset:
        assert dataset.volume_sigma.attrs["scale_factor"] == abs(factor)
        assert "add_offset" not in dataset.volume_sigma.attrs
        assert type(dataset.volume.attrs["_FillValue"]) is np.int16
    with xr.open_dataset(path, engine="psc") as dataset:
        expected = np.where(values == 7, np.nan, values * float(factor) + 3)
        np.testing.assert_allclose(dataset.volume.values, expected, rtol=1e-6)


def test_methods_work_on_every_store(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace
) -> None:
    folder = coded(tmp_path / "a.psc.zarr", values, make)
    packed = coded(tmp_path / "a.psc.zarr.zip", values, make)
    coded(f"memory://{tmp_path.name}/a.psc.zarr", values, make)
    stores: list[tuple[Any, dict[str, Any]]] = [
        (folder, {}),
        (packed, {}),
        (f"memory://{tmp_path.name}/a.psc.zarr", {"storage_options": {}}),
        (zarr.storage.LocalStore(folder, read_only=True), {}),
    ]
    for target, how in stores:
        with xr.open_dataset(target, engine="psc", **how) as dataset:
            assert list(dataset.psc.verify(deep=True)) == []
            assert dataset.isel(z=0).psc.info()["mode"] == "lossless"
            assert dataset.psc.mode == "lossless" and "psc_mode" not in dataset.attrs
        assert dataset.psc.info()["mode"] == "lossless"  # also when it was closed


def test_no_coordinate_takes_the_place_of_another(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values((4, 20, 24))
    numbers = np.arange(4.0)
    given = [
        PlainCoordinate("time_counter", ("time_counter",), numbers, {"units": "days"}),
        PlainCoordinate("time", ("time_counter",), numbers, {"units": "hours"}),
        PlainCoordinate("label", ("time_counter",), np.array(["a", "b", "", "é"]), {}),
    ]
    dims = ("time_counter", "y", "x")
    spec = make.spec(values, dims=dims, affine=None, spacing_mm=None)
    path = tmp_path / "a.psc.zarr"
    writer = ArchiveWriter.create(
        path, mode="lossless", variables=[spec], beside=Beside({"volume": given})
    )
    make.write_bricks(writer, {"volume": values})
    writer.seal()
    with xr.open_dataset(path, engine="psc", decode_times=False) as dataset:
        assert set(dataset.coords) == {"time_counter", "time", "label"}
        assert dataset["time"].attrs["units"] == "hours"
        assert dataset.label.values.tolist() == ["a", "b", "", "é"]


def test_different_names_have_different_nodes() -> None:
    names = ["a b", "a_b", "a%20b", "%61", "a", "source", "%73ource", "c", "%63", "x/c", "__x"]
    names += [".x", "%2Ex", "..", "a\\b", "a%5Cb", "温度", "zarr.json", "tiles", "x/tiles", "a\nb"]
    names += ["n" * 300, "n" * 301, "%" * 90, "x" * 200, "x" * 201, "é" * 100, "é" * 101]
    nodes = [node_path(name) for name in names]
    assert len(set(nodes)) == len(names)
    for name, node in zip(names, nodes, strict=True):
        assert all(0 < len(part.encode()) <= 255 for part in node.split("/"))
        assert not {"c", "zarr.json", "..", "."} & set(node.split("/"))
        assert node.count("/") == name.count("/") and "\\" not in node
    assert node_path("温度") == "温度" and node_path("a b") == "a b"
    assert node_path("x/tiles") == "x/tiles" and node_path("tiles") == "%74iles"
