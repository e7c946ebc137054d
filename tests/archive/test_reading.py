"""Reading parts: the bytes that are fetched, the requests, what is decoded twice, many at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import psc_volumetric.codec
from psc_volumetric.archive import ArchiveReader, ArchiveWriter
from psc_volumetric.archive.decoded import DecodedRegion, DecodedRegions, decoded_regions
from psc_volumetric.archive.levels import level_number
from psc_volumetric.bitstream.constants import HEADER_READ_AHEAD
from psc_volumetric.bitstream.sections import joined
from psc_volumetric.codec import BrickOptions, CodecParameters, Guarantee, encode_brick
from psc_volumetric.needed import byte_ranges
from psc_volumetric.prior import load_prior
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.zarr_checked import CheckedCodec
from psc_volumetric.zarr_codec import PscCodec

pytest.importorskip("aiohttp")

zarr.registry.register_codec("psc_archive.psc", PscCodec)
zarr.registry.register_codec("psc_archive.checked", CheckedCodec)

Serve = Callable[..., AbstractContextManager[Any]]
SHAPE, BRICK = (8, 64, 120), (8, 64, 64)


@pytest.fixture(scope="module")
def volume(make: SimpleNamespace) -> np.ndarray:
    return make.values(SHAPE)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, volume: np.ndarray, make: Any) -> Path:
    """An archive of psc bricks with exact layers: six levels, tiles, segments."""
    path = tmp_path_factory.mktemp("large") / "scan.psc.zarr"
    prior = load_prior("test-tiny")
    spec = make.spec(
        volume, brick_shape=BRICK, tile_shape=prior.tile_shape, prior=prior.digest, unit=None
    )
    writer = ArchiveWriter.create(path, mode="lossless", variables=[spec])
    for position in spec.positions():
        brick = encode_brick(
            volume[spec.box(position)],
            position=position,
            shape=BRICK,
            mapping=IntensityMapping(-320.0, 320.0),
            parameters=CodecParameters(effort=1, step=0.3),
            prior=prior,
            guarantee=Guarantee("lossless", 2.0, coders=("jpegls", "zstd"), reference="none"),
            options=BrickOptions(base="psc"),
        )
        writer.write_brick("volume", position, brick, values=volume[spec.box(position)])
    writer.write_prior(prior)
    writer.seal()
    return path


def priors(running: Any) -> list[str]:
    """Files of networks that were asked for, once for a process."""
    paths = [path.partition(".psc.zarr/")[2] for _, path, _ in running.requests]
    return [path for path in paths if path.startswith("priors/")]


@pytest.mark.parametrize("level", [0, 2, "bounded", "lossless"])
@pytest.mark.parametrize(
    "region",
    [
        (slice(3, 5), slice(10, 56), slice(30, 110)),
        (slice(0, 8), slice(60, 61), slice(0, 120)),
        (slice(4, 5), slice(50, 51), slice(100, 101)),
    ],
)
def test_a_region_takes_its_index_its_levels_and_its_tiles(
    serve: Serve, large: Path, volume: np.ndarray, region: Any, level: int | str
) -> None:
    with (
        ArchiveReader.open(large) as local,
        serve(large.parent) as running,
        ArchiveReader.open(f"{running.url}/{large.name}") as reader,
    ):
        expected, asked, bricks = local.read("volume", region, level=level), 0, 0
        for position, inside, _ in local.parts(local.spec("volume"), region):
            index = local.brick_index("volume", position)
            ranges = byte_ranges(index, inside, level_number(index, level))
            taken = {n for start, length in ranges for n in range(start, start + length)}
            asked += max(index.header_size, HEADER_READ_AHEAD) + len(taken)
            bricks += 1
        running.restart()
        np.testing.assert_array_equal(reader.read("volume", region, level=level), expected)
        sent = running.sent - sum(reader.manifest.entries[key].size for key in priors(running))
        assert sent < 1.2 * asked, (sent, asked)
        assert len(running.requests) <= 4 * bricks + len(priors(running))
        assert all(wanted is not None for _, _, wanted in running.requests)


def test_levels_one_after_another_take_the_bytes_of_the_last(
    serve: Serve, tmp_path: Path, volume: np.ndarray, make: Any
) -> None:
    values, region = volume[:, :, :64], (slice(3, 4), slice(0, 64), slice(0, 64))
    guarantee = Guarantee("lossless", 2.0, coders=("zstd",), reference="base")
    brick = encode_brick(
        values,
        position=(0, 0, 0),
        shape=BRICK,
        mapping=IntensityMapping(-320.0, 320.0),
        parameters=CodecParameters(),
        prior=None,
        guarantee=guarantee,
    )
    path = tmp_path / "steps.psc.zarr"
    writer = ArchiveWriter.create(
        path, mode="lossless", variables=[make.spec(values, brick_shape=BRICK, unit=None)]
    )
    writer.write_brick("volume", (0, 0, 0), brick, values=values)
    writer.seal()
    sent = []
    with serve(tmp_path) as running:
        for levels in ((1,), (0, 1)):
            with ArchiveReader.open(f"{running.url}/{path.name}") as reader:
                running.restart()
                for level in levels:
                    found = reader.read("volume", region, level=level)
                np.testing.assert_array_equal(found, values[region])
                sent.append(running.sent)
    at_once, stepwise = sent
    assert stepwise <= at_once, sent


def test_neighbours_are_joined_and_others_are_not() -> None:
    assert joined([]) == joined([(5, 0)]) == []
    assert joined([(100, 50), (0, 100)]) == [(0, 150)]
    assert joined([(0, 100), (110, 100)]) == [(0, 210)]
    assert joined([(0, 100), (130, 100)]) == [(0, 100), (130, 100)]
    assert joined([(0, 100), (20, 10), (90, 60)]) == [(0, 150)]
    far = joined([(n * 120, 100) for n in range(100)])
    assert sum(length for _, length in far) <= 1.1 * 100 * 100


def test_requests_of_a_region_run_at_once(serve: Serve, kept: Path) -> None:
    """Each answer takes a while; all together take hardly longer."""
    with (
        serve(kept.parent) as running,
        ArchiveReader.open(f"{running.url}/{kept.name}") as reader,
    ):
        running.pause, running.most = 0.1, 0
        reader.read("volume")
        assert running.most >= 6


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The boxes that were decoded."""
    found: list[Any] = []
    real = psc_volumetric.codec.decode_with

    def counting(*arguments: Any, **options: Any) -> Any:
        found.append(options["selection"])
        return real(*arguments, **options)

    monkeypatch.setattr(psc_volumetric.codec, "decode_with", counting)
    return found


def opened(way: str, url: str) -> Callable[[int, int], Any]:
    """One voxel of slice 5, each time it is asked for."""
    if way == "reader":
        reader = ArchiveReader.open(url)
        return lambda y, x: reader.read("volume", (slice(5, 6), slice(y, y + 1), slice(x, x + 1)))
    if way == "zarr":
        array: Any = zarr.open(url, mode="r")["volume"]
        return lambda y, x: array[5, y, x]
    chunks = {"chunks": {}} if way == "dask" else {"cache": False}
    dataset = xr.open_dataset(url, engine="psc", **chunks)
    return lambda y, x: dataset.volume[5, y, x].values


@pytest.mark.parametrize("way", ["reader", "xarray", "dask", "zarr"])
def test_ten_moves_of_a_cursor_decode_a_tile_once(
    serve: Serve, kept: Path, values: np.ndarray, decodings: list[Any], way: str
) -> None:
    with serve(kept.parent) as running:
        read = opened(way, f"{running.url}/{kept.name}")
        for move in range(10):
            assert (
                np.ravel(read(2 + move // 2, 40 + move))[0] == values[5, 2 + move // 2, 40 + move]
            )
            if move == 0:
                running.restart()
        assert len(decodings) == 1
        assert running.requests == []


def test_what_is_kept_has_a_limit() -> None:
    kept = DecodedRegions(limit=4000)
    box = (slice(0, 1), slice(0, 1), slice(0, 1))

    def region(whole: Any) -> DecodedRegion:
        return DecodedRegion(np.zeros([s.stop - s.start for s in whole], "i2"), None)

    for number in range(5):
        kept.get(number, box, units=lambda _: (slice(0, 10),) * 3, decode=region)
    assert kept.nbytes == 4000
    assert [kept.find(number, box) is not None for number in range(5)] == [False] * 3 + [True] * 2
    kept.get(9, box, units=lambda _: (slice(0, 20),) * 3, decode=region)
    assert kept.find(9, box) is None and kept.nbytes == 4000
    kept.get(3, (slice(0, 11),) * 3, units=lambda _: (slice(0, 12),) * 3, decode=region)
    assert kept.nbytes == 2 * 12**3 and kept.find(3, box) is not None
    kept.get(7, box, units=lambda whole: whole, decode=region)
    assert kept.find(7, box) is None  # it was decoded for its own sake


def test_whole_bricks_are_not_kept(kept: Path, values: np.ndarray) -> None:
    with ArchiveReader.open(kept) as reader:
        before = decoded_regions().nbytes
        found = reader.read("volume")
        found[...] = 0  # the caller's own
        assert decoded_regions().nbytes == before
        np.testing.assert_array_equal(reader.read("volume", (slice(3, 4),) * 3), values[3, 3, 3])


def test_readers_in_threads_get_what_one_gets(large: Path, volume: np.ndarray) -> None:
    random = np.random.default_rng(0)
    corners = [tuple(int(random.integers(0, n - 1)) for n in SHAPE) for _ in range(60)]
    boxes = [tuple(slice(c, min(c + 9, n)) for c, n in zip(z, SHAPE, strict=True)) for z in corners]
    with ArchiveReader.open(large) as reader, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda box: reader.read("volume", box), boxes)
        for box, values in zip(boxes, found, strict=True):
            np.testing.assert_array_equal(values, volume[box])
