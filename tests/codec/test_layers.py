"""Layers in the header and in reading: segments, levels, what is read, what is chosen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from psc_volumetric.bitstream.constants import MAX_HEADER_SIZE, MAX_SEGMENTS
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.layer_fields import MANY_SEGMENTS, default_segment
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    decode_brick,
    encode_brick,
)
from psc_volumetric.conformance.damage import split
from psc_volumetric.errors import ChecksumError, FormatError
from psc_volumetric.layers.segments import SPARSE_SEGMENT
from psc_volumetric.methods.registry import read_index
from psc_volumetric.tiling import TileGrid

SHAPE = (40, 150, 140)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    noise = np.random.default_rng(0).integers(-9, 9, SHAPE)
    return (1000 + 3 * x + 2 * y + z + noise).astype("<i2")


@pytest.fixture(scope="module")
def both(values: np.ndarray) -> bytes:
    """At most 4 away, then the stored bits, neither needing the other."""
    guarantee = Guarantee("lossless", 4.0, "none", ("jpegls",))
    return brick(values, guarantee, tile_shape=(8, 64, 64)).data


def brick(values: np.ndarray, guarantee: Guarantee, **options):
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=(40, 192, 192),
        mapping=None,
        prior=None,
        parameters=CodecParameters(),
        guarantee=guarantee,
        options=BrickOptions(**options),
    )


def decode(data: bytes, **options):
    return decode_brick(
        lambda at, n: data[at : at + n], **{"selection": (slice(None),) * 3, **options}
    )


class Recorder:
    """Ranged reads of bytes, and what was read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.ranges = data, []

    def __call__(self, start: int, length: int) -> bytes:
        self.ranges.append((start, length))
        return self.data[start : start + length]


def index_of(data: bytes) -> BrickIndex:
    return read_index(lambda start, length: data[start : start + length], len(data))


def test_levels_and_bytes_add_up(both: bytes) -> None:
    index = index_of(both)
    assert index.coding == "none+bounded:jpegls+lossless:jpegls"
    assert (index.levels, index.base_levels, index.is_exact) == (2, 0, True)
    assert index.level_nbytes(0) < index.level_nbytes(1) == index.nbytes == len(both)
    ends = [index.segment(n, k) for n in (0, 1) for k in range(len(index.layers[n].sizes))]
    places = [(s.offset, s.nbytes) for s in ends]
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(places))
    assert places[-1][0] + places[-1][1] == len(both)


def test_a_region_reads_the_segments_it_touches(both: bytes, values: np.ndarray) -> None:
    index = index_of(both)
    read = Recorder(both)
    region = (slice(17, 20), slice(129, 140), slice(3, 9))
    decoded = decode_brick(read, selection=region, index=index)
    assert np.array_equal(decoded.values, values[region])
    (touched,) = TileGrid(index.valid, index.layers[1].segment).covering(region)
    section = index.segment(1, touched)
    assert read.ranges == [(section.offset, section.nbytes)]
    bounded = decode_brick(read, selection=region, index=index, level=0)
    assert np.abs(bounded.values.astype(int) - values[region]).max() <= 4


def test_neighbouring_segments_are_one_read(both: bytes, values: np.ndarray) -> None:
    index, read = index_of(both), Recorder(both)
    whole = (slice(None), slice(None), slice(None))
    assert np.array_equal(decode_brick(read, selection=whole, index=index).values, values)
    assert read.ranges == [(index.segment(1, 0).offset, index.layers[1].nbytes)]


def test_damage_is_named_by_its_segment_and_spares_the_others(both: bytes, values) -> None:
    index = index_of(both)
    broken = bytearray(both)
    broken[index.segment(1, 3).offset + 40] ^= 1
    read = Recorder(bytes(broken))
    grid = TileGrid(index.valid, index.layers[1].segment)
    with pytest.raises(ChecksumError, match=r"lossless\[3\]") as caught:
        decode_brick(read, selection=grid.box(3), index=index)
    assert caught.value.kind == "section-checksum"
    assert np.array_equal(decode_brick(read, selection=grid.box(2)).values, values[grid.box(2)])
    with pytest.raises(FormatError) as caught:
        cut = Recorder(both[:-1])
        decode_brick(cut, selection=grid.box(len(grid) - 1), index=index)
    assert caught.value.kind == "truncated"


def test_every_tile_is_recorded(values: np.ndarray) -> None:
    encoded = brick(values, Guarantee("bounded", 4.0, coders=("jpegls",)), tile_shape=(8, 64, 64))
    assert len(encoded.records) == 5 * 3 * 3
    assert all(0 < record.max_error[0] <= 4 for record in encoded.records)
    assert len({record.sha256 for record in encoded.records}) == len(encoded.records)
    index = index_of(encoded.data)
    counted = sum(record.nbytes[0] for record in encoded.records)
    assert index.layers[0].nbytes - len(encoded.records) <= counted <= index.layers[0].nbytes


def test_the_smallest_coder_wins_and_is_named(values: np.ndarray) -> None:
    crop = np.ascontiguousarray(values[:4, :60, :60])
    sizes = {}
    for coder in ("zstd", "jpegls", "pcodec", "jpeg2000"):
        encoded = brick(crop, Guarantee("lossless", coders=(coder,)))
        assert encoded.method == f"none+lossless:{coder}"
        sizes[coder] = len(encoded.data)
    best = brick(crop, Guarantee("lossless", coders=tuple(sizes)))
    assert len(best.data) == min(sizes.values())
    assert best.method.split(":")[1] == min(sizes, key=sizes.__getitem__)


def test_a_box_kept_exactly_costs_the_bytes_of_its_voxels(values: np.ndarray) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[12:14, 70:79, 70:75] = True
    guarantee = Guarantee("bounded", 4.0, coders=("zstd",))
    encoded = brick(values, guarantee, exact_mask=mask)
    index = index_of(encoded.data)
    assert index.coding == "none+bounded:zstd+lossless:zstd" and not index.is_exact
    layer = index.layers[1]
    assert layer.cover == (slice(12, 14), slice(70, 79), slice(70, 75))
    assert len(layer.sizes) == 1 and layer.nbytes < 2 * 90 + 40


def test_scattered_voxels_kept_exactly_use_small_segments(values: np.ndarray) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = mask[39, 139, 139] = True
    encoded = brick(values, Guarantee("bounded", 4.0, coders=("zstd",)), exact_mask=mask)
    layer = index_of(encoded.data).layers[1]
    assert layer.segment == SPARSE_SEGMENT and sum(1 for size in layer.sizes if size) == 2


@pytest.mark.parametrize(("coder", "boxes"), [("zstd", 12), ("context", 5)])
def test_any_selection_of_a_partly_exact_brick(values: np.ndarray, coder: str, boxes: int) -> None:
    rng = np.random.default_rng(5)
    guarantee = Guarantee("bounded", 9.0, coders=(coder,))
    below = brick(values, guarantee).last
    assert below is not None

    def some_box() -> tuple[slice, ...]:
        starts = [int(rng.integers(0, n)) for n in SHAPE]
        return tuple(
            slice(a, int(rng.integers(a, n)) + 1) for a, n in zip(starts, SHAPE, strict=True)
        )

    for scattered in (False, True):
        mask = np.zeros(SHAPE, bool)
        mask[some_box()] = True
        if scattered:
            mask &= rng.random(SHAPE) < 1e-4
            mask[3, 4, 5] = True
        encoded = brick(values, guarantee, exact_mask=mask)
        whole = decode(encoded.data).values
        assert np.array_equal(whole[mask], values[mask])
        if not scattered:
            assert np.array_equal(whole[~mask], below[~mask])
        for box in [some_box() for _ in range(boxes)]:
            assert np.array_equal(decode(encoded.data, selection=box).values, whole[box])


@pytest.mark.parametrize(
    "valid",
    [(1, 1, 1), (1, 1, 1 << 26), (1 << 26, 1, 1), (64, 1024, 1024), (1, 8192, 8192), (9, 7, 5)],
)
def test_segments_stay_few_and_headers_small(valid: tuple[int, int, int]) -> None:
    for segment in (default_segment(valid), default_segment(valid, SPARSE_SEGMENT)):
        assert all(1 <= s <= v for s, v in zip(segment, valid, strict=True))
        assert len(TileGrid(valid, segment)) <= MANY_SEGMENTS < MAX_SEGMENTS
    assert 2 * MAX_SEGMENTS * (5 + 4) < MAX_HEADER_SIZE


@pytest.mark.parametrize(
    ("valid", "segment"),
    [
        ((32, 256, 256), (32, 64, 64)),
        ((48, 320, 83), (48, 64, 83)),
        ((64, 256, 250), (32, 64, 63)),
        ((24, 256, 90), (24, 128, 90)),
        ((40, 9, 70), (40, 9, 70)),
    ],
)
def test_segments_follow_the_depth_of_a_brick(
    valid: tuple[int, int, int], segment: tuple[int, int, int]
) -> None:
    assert default_segment(valid) == segment


def test_too_many_segments_are_refused_before_they_are_counted_out(both: bytes) -> None:
    parts = split(both).with_layer(0, segment=(1, 1, 1))
    with pytest.raises(FormatError) as caught:
        index_of(parts.join())
    assert caught.value.kind == "limit"
    assert math.prod(SHAPE) > MAX_SEGMENTS


def test_a_reference_is_taken_only_where_it_saves(values: np.ndarray) -> None:
    crop = np.ascontiguousarray(values[:8, :64, :64])
    encoded = brick(crop, Guarantee("lossless", 3.0, "auto", ("zstd",)))
    plain = brick(crop, Guarantee("lossless", 3.0, "none", ("zstd",)))
    layer = split(encoded.data).layers[1][0]
    assert layer.on_base and len(encoded.data) < len(plain.data)
    assert not split(plain.data).layers[1][0].on_base
