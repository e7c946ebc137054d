"""Archives of exact levels: read at any level and region, described, and checked tile by tile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from psc_volumetric.archive import ArchiveReader, ArchiveWriter, verify_archive
from psc_volumetric.codec import BrickOptions, CodecParameters, Guarantee, encode_brick
from psc_volumetric.layers.segment_decoder import SegmentDecoder
from psc_volumetric.methods.registry import read_index

pytestmark = pytest.mark.filterwarnings("ignore:Object at")

BRICK, TILE = (16, 64, 256), (8, 64, 64)
METHOD = "none+bounded:jpegls+lossless:jpegls"
SIGMA = np.float32(5) / np.float32(3**0.5)


@pytest.fixture(scope="module")
def values(make: SimpleNamespace) -> np.ndarray:
    return make.values((20, 64, 254), seed=3)


@pytest.fixture(scope="module")
def layered(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, make: SimpleNamespace
) -> Path:
    """At most 5 away, then the stored bits; the second brick is cut by the array's edge."""
    path = tmp_path_factory.mktemp("layers") / "scan.psc.zarr"
    return _sealed(path, values, make, Guarantee("lossless", 5.0, "none", ("jpegls",)))


def _sealed(path: Path, values: np.ndarray, make: SimpleNamespace, guarantee: Guarantee) -> Path:
    spec = make.spec(values, brick_shape=BRICK, tile_shape=TILE)
    writer = ArchiveWriter.create(path, mode="lossless", variables=[spec])
    for position in writer.pending("volume"):
        part = values[spec.box(position)]
        brick = encode_brick(
            part,
            position=position,
            shape=BRICK,
            mapping=None,
            prior=None,
            parameters=CodecParameters(),
            guarantee=guarantee,
            options=BrickOptions(tile_shape=TILE),
        )
        writer.write_brick("volume", position, brick, values=part)
    make.finish(writer)
    return path


def test_every_level_and_region(layered: Path, values: np.ndarray) -> None:
    region = (slice(3, 18), slice(10, 20), slice(100, 140))
    with ArchiveReader.open(layered) as reader:
        bounded = reader.read("volume", level=0)
        assert 0 < np.abs(bounded.astype(int) - values).max() <= 5
        assert np.array_equal(reader.read("volume", region, level=0), bounded[region])
        for level in (None, 1, 7):
            assert np.array_equal(reader.read("volume", region, level=level), values[region])
        assert (reader.read("volume", region, level=0, spread=True) == SIGMA).all()
        assert not reader.read("volume", region, spread=True).any()


def test_a_level_stands_on_what_was_read_of_the_one_below(
    tmp_path: Path, values: np.ndarray, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer that goes from level to level decodes each once."""
    differences = Guarantee("lossless", 5.0, "base", ("zstd",))
    path = _sealed(tmp_path / "scan.psc.zarr", values, make, differences)
    decoded: list[str] = []
    real = SegmentDecoder._fill

    def counting(self: SegmentDecoder, *found: Any) -> None:
        decoded.append(self._fields.kind)
        real(self, *found)

    monkeypatch.setattr(SegmentDecoder, "_fill", counting)
    region = (slice(3, 5), slice(10, 20), slice(100, 140))
    with ArchiveReader.open(path) as reader:
        for level, kind in ((0, "bounded"), (1, "lossless"), (None, None), ("lossless", None)):
            found = reader.read("volume", region, level=level, spread=True)
            assert set(decoded) == ({kind} if kind else set())
            assert (found == SIGMA).all() if level == 0 else not found.any()
            decoded.clear()
        assert np.array_equal(reader.read("volume", region), values[region])
        assert set(decoded) == {"lossless"}


def test_tables_name_the_method_and_record_every_tile(layered: Path) -> None:
    with ArchiveReader.open(layered) as reader:
        table, found = reader.tile_table("volume"), reader.info()["variables"]["volume"]
    assert table.codes == {METHOD: 0}
    assert found["methods"] == {METHOD: 3 * 1 * 4}
    bounded, exact = found["levels"]
    assert 0 < bounded["max_error"] <= 5 and exact["max_error"] == exact["rmse"] == 0
    assert bounded["bytes"] < exact["bytes"] == found["bytes"]
    assert np.isfinite(table.digest).all()
    assert (table.bytes > 0).all() and table.bytes.shape == (2, 3, 1, 4)


def test_zarr_and_xarray_read_the_best_level(layered: Path, values: np.ndarray) -> None:
    array = zarr.open_array(str(layered), path="volume", mode="r")
    assert np.array_equal(array[...], values)
    assert np.array_equal(array[2:19, 5:9, 120:131], values[2:19, 5:9, 120:131])
    with xr.open_dataset(layered, engine="psc", mask_and_scale=False) as dataset:
        assert np.array_equal(dataset["volume"].values, values)
    with xr.open_dataset(layered, engine="psc", level=0, mask_and_scale=False) as dataset:
        assert 0 < np.abs(dataset["volume"].values.astype(int) - values).max() <= 5


def test_a_damaged_segment_costs_the_tiles_it_holds(layered: Path, values: np.ndarray) -> None:
    brick = layered / "volume" / "c" / "0" / "0" / "0"
    good = brick.read_bytes()
    index = read_index(lambda start, length: good[start : start + length], len(good))
    assert index.layers[1].segment == (16, 64, 127)
    broken = bytearray(good)
    broken[index.segment(1, 1).offset + 99] ^= 8  # x from 127 on
    try:
        brick.write_bytes(broken)
        findings = [f for f in verify_archive(layered, deep=True) if f.tile is not None]
        assert {f.kind for f in findings} == {"section-checksum"}
        assert {f.tile for f in findings} == {(z, 0, x) for z in (0, 1) for x in (1, 2, 3)}
        assert findings[0].roi == ((0, 8), (0, 64), (64, 128))
        with ArchiveReader.open(layered) as reader:
            spared = (slice(0, 16), slice(0, 64), slice(0, 127))
            assert np.array_equal(reader.read("volume", spared), values[spared])
            assert np.abs(reader.read("volume", level=0).astype(int) - values).max() <= 5
    finally:
        brick.write_bytes(good)
    assert list(verify_archive(layered, deep=True)) == []
