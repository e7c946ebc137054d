"""Segments of our own coders are decoded as far as they are wanted, and go on from there."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from psc_volumetric.archive.unfinished import UnfinishedSegments
from psc_volumetric.codec import (
    CodecParameters,
    Guarantee,
    decode_brick,
    decode_with,
    encode_brick,
)
from psc_volumetric.coders.registry import EXACT_CODERS, LIGHT_CODERS
from psc_volumetric.coders.slicewise import SLICEWISE, SliceDecoder
from psc_volumetric.conformance.damage import split
from psc_volumetric.errors import FormatError
from psc_volumetric.layers import planning
from psc_volumetric.layers.segment_decoder import SegmentDecoder
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.registry import read_index
from psc_volumetric.of_process import of_this_process

SHAPE = (7, 21, 30)
DTYPES = ["u1", "i2", "u4", "i8", "u8", "f4", "f8"]
REFINED = Guarantee("lossless", 2.0, coders=("context", "refinement"))
FORESEEN = Guarantee("lossless", 2.0, coders=("neural", "neural-refinement"))


def field(dtype: str, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    smooth = (
        60 + 30 * np.sin(x / 7 + z / 3) * np.cos(y / 9) + np.random.default_rng(1).random(shape)
    )
    scale = 1 if dtype in ("u1", "f4", "f8") else 200
    if dtype in ("i8", "u8"):
        scale = 1 << 33
    values = (scale * smooth).astype(f"<{dtype}")
    if dtype[0] == "f":
        values[3, 4, 5] = np.nan
    return values


def reference_of(name: str, values: np.ndarray) -> np.ndarray:
    """A level below: other values for the context coder, both ends for a refinement."""
    if name in ("context", "neural"):
        return np.roll(values, 1, axis=2)
    if values.dtype.kind == "f":
        ends = [np.where(np.isnan(values), values, values + off) for off in (-0.75, 0.5)]
    else:
        ends = [values - 3, values + 2]
    return np.stack(ends).astype(values.dtype)


@pytest.mark.parametrize("steps", [(7,), (1, 2, 3, 4, 5, 6, 7), (3, 4, 7), (6, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SLICEWISE)
def test_in_steps_as_at_once(name: str, dtype: str, steps: tuple[int, ...]) -> None:
    values = field(dtype)
    near, refines = reference_of(name, values), SLICEWISE[name][0]
    data = EXACT_CODERS[name].encode(values, near)
    decoder = SliceDecoder(data, SHAPE, values.dtype, coder=name, what="test")
    found = []
    for end in steps:
        first = max(decoder.done - 1, 0)
        seen = SliceDecoder.sees(end, SHAPE[0], values.dtype, refines=refines)
        found.append(decoder.slices(end, near[..., first:seen, :, :], first))
    assert np.concatenate(found).tobytes() == values.tobytes()
    assert decoder.nbytes <= 8 * values.size  # what coded it is gone


@pytest.mark.parametrize(
    ("coders", "name"),
    [(EXACT_CODERS, "context"), (LIGHT_CODERS, "context"), (EXACT_CODERS, "neural")],
)
def test_alone_in_steps(coders: dict, name: str) -> None:
    for dtype in DTYPES:
        values = field(dtype)
        data = coders[name].encode(values, None)
        decoder = SliceDecoder(data, SHAPE, values.dtype, coder=name, what="test")
        found = [decoder.slices(end, None, 0) for end in (2, 3, 7)]
        assert np.concatenate(found).tobytes() == values.tobytes()


def brick(values: np.ndarray, guarantee: Guarantee) -> bytes:
    return encode_brick(
        values, position=(0, 0, 0), shape=values.shape, mapping=None, prior=None,
        parameters=CodecParameters(), guarantee=guarantee,
    ).data  # fmt: skip


def boxes(shape: tuple[int, int, int]) -> list[tuple[slice, slice, slice]]:
    """Slices as somebody looks through a volume, then whatever."""
    random, (_, y, x) = np.random.default_rng(4), shape
    found = [(slice(z, z + 1), slice(0, y), slice(0, x)) for z in (3, 4, 2, 20)]
    for _ in range(8):
        low = [int(random.integers(0, n)) for n in shape]
        found.append(tuple(slice(a, int(random.integers(a, n)) + 1) for a, n in zip(low, shape)))  # noqa: B905
    return [*found, (slice(0, shape[0]), slice(0, y), slice(0, x))]


@pytest.mark.parametrize(
    "guarantee",
    [
        REFINED,
        FORESEEN,
        Guarantee("lossless", coders=("context",)),
        Guarantee("bounded", 2.0, coders=("context",)),
    ],
)
@pytest.mark.parametrize("limit", [0, 2_000_000, 1 << 27])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_every_region_equals_the_slice_of_the_whole(
    guarantee: Guarantee, limit: int, dtype: str
) -> None:
    values = field(dtype, (22, 30, 200))  # two segments
    values[3:5, 6:9, 60:70] = 32000  # which a bounded level keeps exactly
    data = brick(values, guarantee)

    def read(at: int, n: int) -> bytes:
        return data[at : at + n]

    index, every = read_index(read, len(data)), (slice(None),) * 3
    kept = UnfinishedSegments(limit)
    wholes = [
        decode_brick(read, selection=every, level=n, spread=True) for n in range(index.levels)
    ]
    random = np.random.default_rng(5)
    for box in boxes(values.shape):
        level = int(random.integers(0, index.levels))
        found = decode_with(
            read, Resources(), selection=box, level=level, spread=True, kept=kept.of("brick")
        )
        np.testing.assert_array_equal(found.values, wholes[level].values[box])
        np.testing.assert_array_equal(found.spread, wholes[level].spread[box])
        assert kept.nbytes <= limit
    assert (limit == 0) == (kept.nbytes == 0)


def test_others_may_go_on_with_a_segment_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = field("i2", (22, 12, 30))
    data = brick(values, REFINED)
    kept = UnfinishedSegments().of("brick")

    def decode(z: int) -> None:
        box = (slice(z, z + 1), slice(0, 12), slice(0, 30))
        found = decode_with(
            lambda at, n: data[at : at + n], Resources(), selection=box, kept=kept
        ).values
        np.testing.assert_array_equal(found, values[box])

    decode(2)
    end = planning.Part.end

    def overtaken(part: planning.Part, segment: int) -> int:
        """What another thread may do in between."""
        monkeypatch.setattr(planning.Part, "end", end)
        decode(19)
        return end(part, segment)

    monkeypatch.setattr(planning.Part, "end", overtaken)
    decode(5)


@pytest.mark.parametrize("guarantee", [REFINED, Guarantee("bounded", 2.0, coders=("context",))])
@pytest.mark.parametrize("limit", [0, 60_000, 1 << 27])
def test_many_threads_in_any_order(guarantee: Guarantee, limit: int) -> None:
    values = field("i2", (22, 30, 40))
    data, every = brick(values, guarantee), (slice(None),) * 3

    def read(at: int, n: int) -> bytes:
        return data[at : at + n]

    levels = read_index(read, len(data)).levels
    wholes = [decode_brick(read, selection=every, level=n, spread=True) for n in range(levels)]
    kept = UnfinishedSegments(limit)

    def look(seed: int) -> None:
        random = np.random.default_rng(seed)
        found = boxes(values.shape)
        for number in random.permutation(len(found)):
            box, level = found[number], int(random.integers(0, levels))
            one = decode_with(
                read, Resources(), selection=box, level=level, spread=True, kept=kept.of("brick")
            )
            np.testing.assert_array_equal(one.values, wholes[level].values[box])
            np.testing.assert_array_equal(one.spread, wholes[level].spread[box])

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(look, range(6)))
    finally:
        sys.setswitchinterval(before)
    assert kept.nbytes <= limit


class Shrinking:
    """What is kept of a segment that another thread comes to the end of."""

    error = None
    sizes = 100

    @property
    def nbytes(self) -> int:
        self.sizes -= 10
        return self.sizes


def test_what_others_go_on_with_can_be_dropped() -> None:
    kept = UnfinishedSegments(0)
    for segment in range(3):
        kept.keep(("brick", 0, segment), Shrinking())  # type: ignore[arg-type]
    kept.trim()
    assert kept.nbytes == 0


def test_threads_of_a_process_share_what_is_kept() -> None:
    known = {os.getpid() + 1: "a parent's"}

    def make() -> str:
        known[os.getpid()] = "of another thread"  # which came first
        return "mine"

    assert of_this_process(known, make) == "of another thread"
    assert known == {os.getpid(): "of another thread"}


def test_the_next_slice_takes_no_bytes_and_one_slice() -> None:
    values = field("i2", (22, 40, 50))
    data, read_bytes = brick(values, REFINED), []
    index = read_index(lambda at, n: data[at : at + n], len(data))

    def read(at: int, n: int) -> bytes:
        read_bytes.append(n)
        return data[at : at + n]

    kept = UnfinishedSegments().of("brick")
    for z in (5, 6, 7):
        box = (slice(z, z + 1), slice(3, 9), slice(1, 44))
        before = len(read_bytes)
        found = decode_with(read, Resources(), selection=box, index=index, kept=kept)
        np.testing.assert_array_equal(found.values, values[box])
        assert (len(read_bytes) == before) == (z > 5)
        done = [kept.find(layer, 0).done for layer in (0, 1)]
        assert done == [z + 2, z + 1]  # the level below is looked at one slice ahead


def damaged(values: np.ndarray) -> bytes:
    """A brick whose last bits are wrong, and whose checksums are right."""
    parts = split(brick(values, Guarantee("lossless", coders=("context",))))
    ((fields, segments),) = parts.layers
    wrong = bytearray(segments[0])
    wrong[-11] ^= 0x41
    parts = parts.__class__(**{**parts.__dict__, "layers": ((fields, (bytes(wrong),)),)})
    return parts.join()


def test_damage_behind_a_region_is_found_when_the_rest_is_decoded() -> None:
    values = field("i2", (22, 40, 50))
    data = damaged(values)
    kept = UnfinishedSegments().of("brick")

    def decode(stop: int) -> np.ndarray:
        return decode_with(
            lambda at, n: data[at : at + n], Resources(),
            selection=(slice(0, stop), slice(0, 40), slice(0, 50)), kept=kept,
        ).values  # fmt: skip

    np.testing.assert_array_equal(decode(9), values[:9])
    for _ in range(2):
        with pytest.raises(FormatError, match="check bits"):
            decode(22)
    np.testing.assert_array_equal(decode(4), values[:4])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Layer, first slice and end of all that is decoded of a segment."""
    found: list[tuple[str, int, int]] = []
    real = SegmentDecoder._decode_slices

    def counting(self: SegmentDecoder, end: int, reference: Any, first: int) -> None:
        found.append((self._fields.kind, self.done, end))
        real(self, end, reference, first)

    monkeypatch.setattr(SegmentDecoder, "_decode_slices", counting)
    return found


def plane(values: np.ndarray, z: int) -> tuple[slice, slice, slice]:
    return slice(z, z + 1), slice(0, values.shape[1]), slice(0, values.shape[2])


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_levels_of_a_slice_decode_no_slice_twice(dtype: str, decoded: list) -> None:
    values = field(dtype, (22, 40, 300))  # two segments
    values[3:5, 6:9, 60:70] = 32000
    data, reads = brick(values, REFINED), []
    index = read_index(lambda at, n: data[at : at + n], len(data))
    assert [layer.coder for layer in index.layers] == ["context", "refinement"]
    assert len(index.layers[0].sizes) == 2
    assert (index.section("special").nbytes > 0) == (dtype == "f4")

    def read(at: int, n: int) -> bytes:
        reads.append(n)
        return data[at : at + n]

    kept, seen = UnfinishedSegments().of("brick"), []
    for z in (12, 13, 20, 21, 3):  # the last but one takes all of the level below
        for level in (0, 1):
            found = decode_with(
                read, Resources(), selection=plane(values, z), level=level, index=index, kept=kept,
                spread=True,
            )  # fmt: skip
            off = found.values.astype(float) - values[plane(values, z)]
            assert np.nanmax(np.abs(off)) <= (2 if level == 0 else 0)
            special = ~np.isfinite(values[plane(values, z)])
            np.testing.assert_array_equal(~np.isfinite(found.values), special)
            assert found.spread is not None and not found.spread[special].any()
            seen.append((z, level, [n for n in reads if n], sorted(decoded)))
            reads.clear()
            decoded.clear()
    steps = {(z, level): rest for z, level, *rest in seen}
    assert steps[12, 0][1] == [("bounded", 0, 13)] * 2
    assert steps[12, 1][1] == [("bounded", 13, 14)] * 2 + [("lossless", 0, 13)] * 2
    assert steps[13, 1][1] == [("bounded", 14, 15)] * 2 + [("lossless", 13, 14)] * 2
    assert steps[20, 1][1] == [("bounded", 21, 22)] * 2 + [("lossless", 14, 21)] * 2
    assert steps[21, 1][1] == [("lossless", 21, 22)] * 2
    assert all(not steps[z, level][1] for z, level in ((13, 0), (21, 0), (3, 0), (3, 1)))
    assert [place for place, (taken, _) in steps.items() if taken] == [(12, 0), (12, 1)]


def test_a_jump_to_the_last_slice_but_one_keeps_the_level_below(decoded: list) -> None:
    values = field("i2", (22, 40, 50))
    data, reads = brick(values, REFINED), []
    index = read_index(lambda at, n: data[at : at + n], len(data))

    def read(at: int, n: int) -> bytes:
        reads.append(n)
        return data[at : at + n]

    kept = UnfinishedSegments().of("brick")
    for z, level in ((20, 1), (21, 1), (21, 0), (3, 0)):
        decode_with(
            read, Resources(), selection=plane(values, z), level=level, index=index, kept=kept
        )
        assert kept.has(index, 0, plane(values, 0)) and kept.has(index, 1, plane(values, 21))
    assert decoded == [("bounded", 0, 22), ("lossless", 0, 21), ("lossless", 21, 22)]
    assert len(reads) == 2  # a segment of each level


def test_whole_reads_decode_each_slice_once_and_keep_nothing(decoded: list) -> None:
    values = field("i2", (22, 40, 300))
    data = brick(values, REFINED)
    every = (slice(0, 22), slice(0, 40), slice(0, 300))
    kept = UnfinishedSegments()
    found = decode_with(
        lambda at, n: data[at : at + n], Resources(), selection=every, kept=kept.of("brick")
    )
    np.testing.assert_array_equal(found.values, values)
    assert sorted(decoded) == [("bounded", 0, 22)] * 2 + [("lossless", 0, 22)] * 2
    assert kept.nbytes == 0


def test_what_is_kept_without_the_level_below_takes_bytes() -> None:
    values = field("i2", (22, 40, 50))
    data = brick(values, REFINED)
    index = read_index(lambda at, n: data[at : at + n], len(data))
    kept = UnfinishedSegments()
    decode_with(
        lambda at, n: data[at : at + n], Resources(), selection=plane(values, 5), index=index,
        kept=kept.of("brick"),
    )  # fmt: skip
    assert kept.of("brick").has(index, 1, plane(values, 9))
    del kept._kept["brick", 0, 0]  # as if others needed the room
    assert kept.of("brick").has(index, 1, plane(values, 5))
    assert not kept.of("brick").has(index, 1, plane(values, 6))
