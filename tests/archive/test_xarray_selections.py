"""Selections through xarray: any of them equals the array's own, and decodes its own bricks."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from psc_volumetric import xarray_arrays
from psc_volumetric.archive import ArchiveReader, Quota
from psc_volumetric.errors import LimitExceededError

SHAPE = (40, 100, 130)  # in bricks of 8, 32, 32
# points on a way through all of it, in any order
TRACK = [
    xr.DataArray([[0, size - 1, 1], [size // 2, size // 3, -1]], dims=("a", "b")) for size in SHAPE
]


def _part(size: int, rng: np.random.Generator) -> Any:
    """An index along one axis, of any kind that xarray takes."""
    kind = rng.integers(7)
    if kind == 0:
        return slice(None, None, int(rng.choice([-1, -3, 17, -40, 200])))
    if kind == 1:
        return int(rng.integers(-size, size))
    if kind == 2:
        return rng.integers(-size, size, rng.integers(6))
    if kind == 3:
        return rng.random(size) < 0.1
    if kind == 4:
        return slice(*sorted(rng.integers(-size, size, 2).tolist()))
    return [0, size - 1, 0] if kind == 5 else slice(None)


def _points(size: int, count: int, rng: np.random.Generator) -> Any:
    if rng.random() < 0.3:
        return slice(None, None, -1)
    return xr.DataArray(rng.integers(-size, size, count), dims="point")


def test_any_selection_equals_that_of_the_array(tmp_path: Path, make: SimpleNamespace) -> None:
    values = make.values(SHAPE)
    make.build(tmp_path / "a.psc.zarr", values)
    expected = xr.DataArray(values, dims=("z", "y", "x"))
    rng = np.random.default_rng(5)
    for _ in range(60):
        count = int(rng.integers(1, 5))
        keys = tuple(_part(size, rng) for size in SHAPE)
        points = tuple(_points(size, count, rng) for size in SHAPE)
        for key in (keys, points):
            with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc", uncertainty=True) as found:
                part = found.volume[key]
                assert part.shape == expected[key].shape
                np.testing.assert_array_equal(part.values, expected[key].values)
                assert not found.volume_sigma[key].values.any()


@pytest.mark.parametrize(
    ("selection", "bricks"),
    [
        ({"z": [0, -1]}, 2 * 4 * 5),
        ({"z": slice(None, None, -39)}, 2 * 4 * 5),
        ({"z": 3, "y": [0, -1], "x": [-1, 0]}, 4),
        ({"z": 3, "y": xr.DataArray([0, 99], dims="p"), "x": xr.DataArray([0, 129], dims="p")}, 2),
        ({"z": slice(3, 5), "y": TRACK[1], "x": TRACK[2]}, 4),
        ({"z": TRACK[0], "y": 50, "x": TRACK[2]}, 4),
        ({"z": TRACK[0], "y": TRACK[1], "x": TRACK[2]}, 4),
        ({"z": 3, "y": 50, "x": np.arange(130) > 120}, 2),
        ({"z": slice(0, 9), "y": 0, "x": 0}, 2),
    ],
)
@pytest.mark.parametrize("options", [{}, {"skip_damaged": True}, {"chunks": {}}])
def test_a_selection_decodes_its_own_bricks(
    selection: dict[str, Any],
    bricks: int,
    options: dict[str, Any],
    tmp_path: Path,
    make: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = set()
    real = ArchiveReader.read_brick

    def counting(self: ArchiveReader, name: str, position: tuple[int, ...], *a: Any, **k: Any):  # type: ignore[no-untyped-def]
        asked.add(position)
        return real(self, name, position, *a, **k)

    values = make.values(SHAPE)
    make.build(tmp_path / "a.psc.zarr", values)
    monkeypatch.setattr(ArchiveReader, "read_brick", counting)
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc", **options) as dataset:
        found = dataset.volume.isel(selection).values
    expected = xr.DataArray(values, dims=("z", "y", "x")).isel(selection)
    np.testing.assert_array_equal(found, expected.values)
    assert len(asked) == bricks


@pytest.mark.parametrize(
    "selection",
    [
        {"z": 40},
        {"z": [0, 40]},
        {"z": [0, -41]},
        {"z": [0, 39], "y": [1, 100]},
        {"z": xr.DataArray([0, 39], dims="p"), "x": xr.DataArray([0, 130], dims="p")},
        {"z": xr.DataArray([0, -41], dims="p"), "x": xr.DataArray([0, 1], dims="p")},
        {"z": np.ones(41, bool)},
    ],
)
def test_what_is_outside_is_an_error(
    selection: dict[str, Any], tmp_path: Path, make: SimpleNamespace
) -> None:
    make.build(tmp_path / "a.psc.zarr", make.values(SHAPE))
    with (
        xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as dataset,
        pytest.raises(IndexError),
    ):
        dataset.volume.isel(selection).load()


def test_a_quota_is_held_to_the_selection_as_a_whole(tmp_path: Path, make: SimpleNamespace) -> None:
    make.build(tmp_path / "a.psc.zarr", make.values(SHAPE))
    few = Quota(decoded_bytes=3 * 100 * 130 * 2)
    with (
        xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc", quota=few) as dataset,
        pytest.raises(LimitExceededError),
    ):
        dataset.volume[[0, 10, 20, 39]].load()


def test_paths_are_kept_as_by_other_engines(
    kept: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers of Dask may stand in another folder."""
    monkeypatch.setenv("HOME", str(kept.parent))
    for name in (kept.name, f"./{kept.name}", f"~/{kept.name}"):
        monkeypatch.chdir(kept.parent)
        with xr.open_dataset(name) as dataset:
            data = pickle.dumps(dataset)
            assert dataset.encoding["source"] == str(kept)
        monkeypatch.chdir(tmp_path)
        xarray_arrays._of_process.clear()
        np.testing.assert_array_equal(pickle.loads(data).volume.values, values)
