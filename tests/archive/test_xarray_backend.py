"""``xr.open_dataset(..., engine="psc")``: lazy, picklable, decoded as from the source file."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from psc_volumetric.archive import ArchiveReader, ArchiveWriter, PlainCoordinate, Quota
from psc_volumetric.archive.decoded import DecodedRegion
from psc_volumetric.archive.skeleton import Beside
from psc_volumetric.errors import LimitExceededError, ParameterError, StorageError
from tests.forking import in_a_fork


def test_every_store_opens_and_equals_the_reader(
    target: str, values: np.ndarray, make: SimpleNamespace
) -> None:
    make.build(target, values, slope=0.5, intercept=-3.0)
    with xr.open_dataset(target, engine="psc") as dataset:
        np.testing.assert_array_equal(dataset.volume.values, values * 0.5 - 3)
        assert dataset.volume.dims == ("z", "y", "x")
        assert dataset.volume.attrs["units"] == "K"
    with xr.open_dataset(target, engine="psc", mask_and_scale=False) as dataset:
        np.testing.assert_array_equal(dataset.volume.values, values)
        assert dataset.volume.dtype == np.int16


def test_the_engine_is_guessed_from_the_name(kept: Path) -> None:
    with xr.open_dataset(kept) as dataset:
        assert dataset.psc.mode == "lossless"
        assert not dataset.psc.is_lossy
        assert dataset.psc.level is None
        assert dataset.psc.affine["volume"].shape == (4, 4)
        assert list(dataset.psc.verify(deep=True)) == []
        assert dataset.psc.info()["variables"]["volume"]["dims"] == ["z", "y", "x"]


def test_opening_reads_no_brick_and_a_region_reads_its_own(
    kept: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    real = ArchiveReader.read_brick

    def counting(self: ArchiveReader, variable: str, position: tuple[int, ...], *a, **k):  # type: ignore[no-untyped-def]
        asked.append(position)
        return real(self, variable, position, *a, **k)

    monkeypatch.setattr(ArchiveReader, "read_brick", counting)
    with xr.open_dataset(kept, engine="psc", uncertainty=True) as dataset:
        repr(dataset)
        assert asked == []
        part = dataset.volume.isel(z=9, y=slice(35, None), x=[66, 68])
        np.testing.assert_array_equal(part.values, values[9, 35:, [66, 68]].T)
        assert set(asked) == {(1, 1, 2)}


@pytest.mark.parametrize(
    "key",
    [
        {"z": slice(None, None, -1)},
        {"z": slice(8, 2, -3), "x": slice(1, 60, 7)},
        {"z": [3, 1, 1], "y": [0, 39]},
        {"z": -1, "y": -1, "x": -1},
        {"x": slice(5, 5)},
    ],
)
def test_indexing_like_numpy(kept: Path, values: np.ndarray, key: dict[str, object]) -> None:
    expected = xr.DataArray(values, dims=("z", "y", "x")).isel(key)
    with xr.open_dataset(kept, engine="psc") as dataset:
        np.testing.assert_array_equal(dataset.volume.isel(key).values, expected.values)


def test_dask_chunks_are_bricks_and_travel_between_processes(
    kept: Path, values: np.ndarray
) -> None:
    pytest.importorskip("dask")
    with xr.open_dataset(kept, engine="psc", chunks={}) as dataset:
        assert dataset.volume.chunks == ((8, 3), (32, 8), (32, 32, 6))
        total = dataset.volume.sum()
        assert int(total.compute(scheduler="processes", num_workers=1)) == int(values.sum())


def test_chunks_auto_never_cut_a_brick(tmp_path: Path, make: SimpleNamespace) -> None:
    """How many of them make a chunk is Dask's own choice, by its ``array.chunk-size``."""
    dask = pytest.importorskip("dask")
    make.build(tmp_path / "a.psc.zarr", np.zeros((32, 64, 96), "int16"))
    brick = (8, 32, 32)
    for bricks in (1, 2, 5, 100):
        with (
            dask.config.set({"array.chunk-size": bricks * math.prod(brick) * 2}),
            xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc", chunks="auto") as dataset,
        ):
            sides = [max(sizes) for sizes in dataset.volume.chunks]
            assert [side % b for side, b in zip(sides, brick, strict=True)] == [0, 0, 0]
            assert math.prod(sides) <= bricks * math.prod(brick)


def test_a_selection_from_a_large_chunk_decodes_its_own_bricks(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    """With ``chunks="auto"``, too: Dask hands the selection down where it comes first."""
    pytest.importorskip("dask")
    make.build(tmp_path / "a.psc.zarr", make.values((32, 64, 96)))
    one = Quota(decoded_bytes=8 * 32 * 32 * 2)
    with xr.open_dataset(
        tmp_path / "a.psc.zarr", engine="psc", chunks="auto", quota=one
    ) as dataset:
        assert dataset.volume.chunks == ((32,), (64,), (96,))
        assert dataset.volume[3, :32, 32:64].compute(scheduler="sync").shape == (32, 32)
        with pytest.raises(LimitExceededError):
            (dataset.volume + 1)[3, :32, 32:64].compute(scheduler="sync")


def test_groups_are_a_tree(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values((3, 20, 24))
    specs = [
        make.spec(values, name=name, dims=("t", "y", "x"), affine=None, spacing_mm=None)
        for name in ("top", "model/run1/air", "model/run2/air")
    ]
    about = {"": {"title": "all"}, "model": {"grid": "G"}, "model/run2": {"seed": np.int32(2)}}
    writer = ArchiveWriter.create(
        tmp_path / "a.psc.zarr", mode="lossless", variables=specs, beside=Beside(groups=about)
    )
    make.write_bricks(writer, {spec.name: values + n for n, spec in enumerate(specs)})
    writer.seal()
    tree = xr.open_datatree(tmp_path / "a.psc.zarr", engine="psc", chunks={})
    assert set(tree.groups) == {"/", "/model", "/model/run1", "/model/run2"}
    np.testing.assert_array_equal(tree["model/run2/air"].values, values + 2)
    assert tree["model/run2/air"].chunks == ((3,), (20,), (24,))
    assert tree.attrs["title"] == "all"
    assert tree["model/run2"].attrs["seed"] == 2
    with xr.open_datatree(tmp_path / "a.psc.zarr", group="model") as below:  # guessed by its name
        assert set(below.groups) == {"/", "/run1", "/run2"}
        assert below.attrs["grid"] == "G"
    groups = xr.open_groups(tmp_path / "a.psc.zarr", engine="psc", mask_and_scale=False)
    assert set(groups) == set(tree.groups)
    plain = xr.open_datatree(tmp_path / "a.psc.zarr", engine="zarr")
    np.testing.assert_array_equal(plain["model/run1/air"].values, values + 1)
    with pytest.raises(ParameterError) as caught:
        xr.open_datatree(tmp_path / "a.psc.zarr", engine="psc", group="other")
    assert caught.value.kind == "unknown-group"
    with xr.open_datatree(tmp_path / "a.psc.zarr", engine="psc", level=0) as coarse:
        assert coarse.attrs["psc_level"] == 0


def test_a_pickled_dataset_opens_the_same_archive_only(
    folder: Path, values: np.ndarray, make: SimpleNamespace, tmp_path: Path
) -> None:
    with xr.open_dataset(folder, engine="psc") as dataset:
        data = pickle.dumps(dataset)
    np.testing.assert_array_equal(pickle.loads(data).volume.values, values)
    other = tmp_path / "other.psc.zarr"
    make.build(other, make.values((11, 40, 70), seed=5))
    folder.rename(tmp_path / "old")
    other.rename(folder)
    copy = pickle.loads(data)
    from psc_volumetric import xarray_arrays

    xarray_arrays._of_process.clear()
    with pytest.raises(StorageError) as caught:
        copy.volume.load()
    assert caught.value.kind == "archive-changed"


def test_uncertainty_and_level(kept: Path) -> None:
    with xr.open_dataset(kept, engine="psc", uncertainty=True, level=0) as dataset:
        assert set(dataset.data_vars) == {"volume", "volume_sigma"}
        assert dataset.psc.is_lossy
        assert dataset.psc.level == 0
        assert not dataset.volume_sigma.values.any()
        assert dataset.volume_sigma.attrs["units"] == "K"


def test_drop_variables(kept: Path) -> None:
    with xr.open_dataset(kept, engine="psc", drop_variables=["volume"]) as dataset:
        assert list(dataset.data_vars) == []


def test_cf_packing_decodes_as_from_netcdf(tmp_path: Path, make: SimpleNamespace) -> None:
    """The same packed variable through a NetCDF file and through an archive."""
    packed = make.values((3, 20, 24))
    packed[0, 0, :5] = -32768
    attrs = {
        "scale_factor": np.float32(0.01),
        "add_offset": np.float32(273.15),
        "_FillValue": np.int16(-32768),
        "units": "K",
        "long_name": "air temperature",
        "coordinates": "height",
    }
    coordinates = {
        "time": (("time",), np.arange(3), {"units": "hours since 2001-01-01"}),
        "lat": (("lat",), np.linspace(80, -80, 20, dtype=np.float32), {"units": "degrees_north"}),
        "lon": (("lon",), np.arange(24.0), {"units": "degrees_east"}),
        "height": ((), np.float64(2.0), {"units": "m"}),
    }
    dims = ("time", "lat", "lon")
    raw = xr.Dataset({"air": (dims, packed, attrs)}, coordinates)
    raw.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    spec = make.spec(packed, name="air", dims=dims, affine=None, spacing_mm=None, attrs=attrs)
    plain = [PlainCoordinate(n, d, np.asarray(v), a) for n, (d, v, a) in coordinates.items()]
    path = tmp_path / "a.psc.zarr"
    writer = ArchiveWriter.create(
        path, mode="lossless", variables=[spec], beside=Beside({"air": plain})
    )
    make.write_bricks(writer, {"air": packed})
    writer.seal()
    with (
        xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as expected,
        xr.open_dataset(path, engine="psc") as found,
    ):
        xr.testing.assert_equal(found, expected)
        assert found.air.dtype == expected.air.dtype
        assert np.isnan(found.air.values[0, 0, :5]).all()
        assert found.time.dtype.kind == "M"
        assert found.air.attrs == expected.air.attrs
    with xr.open_zarr(path) as plainly:
        np.testing.assert_allclose(plainly.air.values, expected.air.values, rtol=1e-6)


def test_float_fill_values_survive(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values((3, 20, 24), "float32")
    values[1, 2, 3] = 1e20
    for number, fill in enumerate((np.float32(1e20), float("nan"), "NaN")):
        path = tmp_path / f"{number}.psc.zarr"
        make.build(path, values, attrs={"_FillValue": fill})
        with xr.open_dataset(path, engine="psc") as dataset:
            found = dataset.volume.values
            assert np.isnan(found[1, 2, 3]) == (number == 0)
            np.testing.assert_array_equal(found[0], values[0])


def test_datasets_of_one_archive_share_what_they_decode(
    kept: Path, folder: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = ArchiveReader.read_brick

    def counting(self: ArchiveReader, *arguments: Any, **options: Any) -> DecodedRegion:
        asked.append(self.name)
        return real(self, *arguments, **options)

    def read(place: Path, **options: Any) -> None:
        with xr.open_dataset(place, engine="psc", **options) as dataset:
            np.testing.assert_array_equal(dataset.volume[2].values, values[2])

    monkeypatch.setattr(ArchiveReader, "read_brick", counting)
    with xr.open_dataset(kept, engine="psc") as first:
        np.testing.assert_array_equal(first.volume[2].values, values[2])
        alone = len(asked)
        assert alone > 0
        read(kept, level="lossless")
        read(Path(os.path.relpath(kept)))
        assert len(asked) == alone
        read(folder)  # a copy is read from its own bytes
        read(kept, skip_damaged=True)
        assert len(asked) >= 3 * alone
    before = len(asked)
    read(kept)  # and so is one that nobody has open any more
    assert len(asked) == before + alone


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_archives_while_its_parent_does(
    kept: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, answers = xr.open_dataset(kept, engine="psc"), []
    dataset.close()
    real = ArchiveReader.open

    def reads() -> bool:
        with xr.open_dataset(kept, engine="psc") as another:
            found = another.volume[1].values, dataset.volume[2].values
        return all(np.array_equal(a, b) for a, b in zip(found, values[1:3], strict=True))

    def opening(*arguments: Any, **options: Any) -> ArchiveReader:
        monkeypatch.setattr(ArchiveReader, "open", real)
        answers.append(in_a_fork(reads))
        return real(*arguments, **options)

    monkeypatch.setattr(ArchiveReader, "open", opening)
    np.testing.assert_array_equal(dataset.volume[0].values, values[0])
    assert answers == [True]
