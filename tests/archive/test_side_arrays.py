"""Arrays beside the volumes that are coded as differences: what every reader makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray

from psc_volumetric.archive import ArchiveWriter
from psc_volumetric.archive.plain import PlainArray
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.skeleton import Beside, PlainCoordinate
from psc_volumetric.errors import FormatError
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)

pytestmark = pytest.mark.filterwarnings("ignore:Object at")

INNER = [{"name": "psc_archive.differences", "configuration": {}}]
ROWS, COLUMNS = 60, 50


def arrays() -> dict[str, NDArray[Any]]:
    """Latitudes of a bent grid, corners of its cells, times; noise, and what Zarr alone keeps."""
    y, x = np.meshgrid(np.arange(ROWS) / 1.0, np.arange(COLUMNS) / 1.0, indexing="ij")
    latitude = (60 * np.sin(y / 30) + x * y / 100).astype("f4").astype("f8")
    latitude[0, :3] = np.nan, -0.0, np.inf
    corners = np.stack([np.roll(latitude, k, 1) for k in range(4)], -1)
    return {
        "latitude": latitude,
        "corners": corners,
        "time": np.arange(0, 4000, 2, dtype="i8"),
        "noise": np.random.default_rng(1).normal(size=(40, 40)),
        "half": np.linspace(0, 9, 500).astype("f2"),
        "short": np.array([1.0, 2.0, 4.0]),
    }


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    beside = Beside(
        arrays=[
            PlainCoordinate(name, tuple(f"{name}{n}" for n in range(array.ndim)), array)
            for name, array in arrays().items()
        ]
    )
    path = tmp_path / "side.psc.zarr"
    writer = ArchiveWriter.create(path, mode="lossless", variables=[], beside=beside)
    writer.write_source("netcdf", {}, {}, ())
    writer.seal()
    return path


def inner(archive: Path, name: str) -> Any:
    (codec,) = json.loads((archive / name / "zarr.json").read_text())["codecs"]
    return codec["configuration"]["codecs"]


def test_what_is_smooth_becomes_differences(archive: Path) -> None:
    by_us = {name for name in arrays() if inner(archive, name) == INNER}
    assert by_us == {"latitude", "corners", "time"}
    assert (archive / "time/c/0").stat().st_size < 50


def test_every_reader_gives_every_bit(archive: Path) -> None:
    group = zarr.open_group(archive, mode="r")
    with ArchiveReader.open(archive) as reader, xr.open_dataset(archive, engine="psc") as dataset:
        for name, array in arrays().items():
            plain = reader.plain(name)
            assert isinstance(plain, PlainArray)
            for found in (plain.values, group[name][...], dataset[name].values):
                assert found.dtype == array.dtype
                assert found.tobytes() == array.tobytes()
        box = (slice(3, 5), 7, slice(1, 3))
        np.testing.assert_array_equal(group["corners"][box], arrays()["corners"][box])


def test_an_edited_or_lost_chunk_is_noticed(archive: Path) -> None:
    shutil.copy(archive / "time/c/0", archive / "latitude/c/0/0")
    with ArchiveReader.open(archive) as reader, pytest.raises(FormatError):
        assert reader.plain("latitude").values.size
    with pytest.raises(FormatError):
        zarr.open_group(archive, mode="r")["latitude"][...]
    (archive / "corners/c/0/0/0").unlink()
    with pytest.raises(FormatError):
        zarr.open_group(archive, mode="r")["corners"][...]
