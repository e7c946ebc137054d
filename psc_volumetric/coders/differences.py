"""Coordinates, bounds and what else is smooth, as differences. Part of the format (SPEC 11.5).

What lies beside the volumes of a climate file is mostly computed: latitudes along a curve, corners
that neighbouring cells share, times that rise by a day. Their floats, read as integers in the same
order, are differenced along rows and columns; a slice that is another one moved by a cell is
differenced with that. Zstandard codes what is left. Reading is sums alone. A range is its start
and its step; grids are predicted where that is smaller (`coders.predicted`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import DTYPES
from psc_volumetric.bitstream.frames import pack_frame, unpack_frame
from psc_volumetric.coders.moved_slices import SHIFTS, check_parents, moved
from psc_volumetric.coders.predicted import Grid, decode_predicted, encode_predicted
from psc_volumetric.errors import FormatError

__all__ = ["decode_differences", "encode_differences", "suits_differences"]

Values = NDArray[np.generic]
Integers = NDArray[np.unsignedinteger]
Triple = tuple[int, int, int]

MOST_ORDER = 3  # differences of differences of differences
MOST_IN_RANGE = 1 << 24
MOST_ULPS = 16  # that the step of a range is looked for around its mean
FARTHEST = 28  # slices between a slice and the one it is taken from, so that a byte says which
HEAD = 4  # bytes before the frame
PREDICTED, RANGE = 2, 4  # in the first of them
LEVEL = 19

# What the encoder tries.
ORDERS = [(rows, columns) for rows in (0, 1, 2) for columns in (0, 1, 2)]
CORNERS = 16  # slices of which each is compared with earlier ones, moved; others with the last one
LOOKED_BACK = 4
ALIKE = 0.5  # share of equal numbers
SAMPLE = 1 << 16  # numbers on which orders are compared
SAMPLE_LEVEL = 3


class _Plan(NamedTuple):
    """How a chunk is differenced.

    Attributes
    ----------
    last_first : bool
        The last axis comes first, so that corners or ends are slices.
    dropped : int
        Low bits that are zero in all numbers.
    rows, columns : int
        How often differences are taken along y and x.
    """

    last_first: bool
    dropped: int
    rows: int
    columns: int


def suits_differences(dtype: np.dtype[np.generic]) -> bool:
    """Whether arrays of a dtype can be coded: numbers that bricks can hold, too."""
    return dtype.kind in "iuf" and dtype.newbyteorder("<") in DTYPES.values()


def encode_differences(values: Values) -> bytes:
    """Code an array of any shape with at least one number; see `suits_differences`.

    Notes
    -----
    Every bit is kept, those of NaN and of negative zero too. Rows and columns are the last two
    axes, or the two before a last one of up to `CORNERS`.
    """
    shape: tuple[int, ...] = values.shape
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1)
    step = _step_of_range(flat)
    if step is not None:
        return bytes([RANGE]) + np.array([flat[0], step], "<f8").tobytes()
    bits: Integers = flat.view(f"<u{values.dtype.itemsize}").reshape(shape)
    found = []
    for last_first in (False, True):
        corners = len(shape) > 1 and 1 < shape[-1] <= CORNERS
        if last_first > corners or (corners and not last_first and values.size > SAMPLE):
            continue
        turned = np.moveaxis(bits, -1, 0) if last_first else bits
        ordered = turned.reshape(_extents(shape, last_first))
        found += _encoded(ordered, last_first, flat.dtype)
    return min(found, key=len)


def _step_of_range(flat: Values) -> float | None:
    """The step with which numbers are a range, rounded as they are; None if there is none."""
    if flat.dtype.kind != "f" or not 3 <= flat.size <= MOST_IN_RANGE:
        return None
    first, last = float(flat[0]), float(flat[-1])
    if not (math.isfinite(first) and math.isfinite(last)):
        return None
    mean = (last - first) / (flat.size - 1)
    near = [mean + ulps * math.ulp(mean) for ulps in range(-MOST_ULPS, MOST_ULPS + 1)]
    short = [float(f"{mean:.{digits}g}") for digits in range(1, 16)]
    for step in [float(flat[1]) - first, *short, *near]:
        if _range(first, step, flat.size, flat.dtype).tobytes() == flat.tobytes():
            return step
    return None


def _range(first: float, step: float, size: int, dtype: np.dtype[np.generic]) -> Values:
    """``first + step n`` for n = 0, 1 ..., each operation rounded once in IEEE double."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: Values = (first + step * np.arange(size, dtype=np.float64)).astype(dtype)
    return found


def _encoded(bits: Integers, last_first: bool, dtype: np.dtype[np.generic]) -> list[bytes]:
    """A chunk as differences, and predicted where that can be."""
    is_float = dtype.kind == "f"
    dropped = _zero_bits(bits)
    keys = _turned(bits >> bits.dtype.type(dropped), dropped, is_float=is_float)
    parents = _parents(keys)
    left = keys.copy()
    for z, parent in enumerate(parents):
        if parent:
            left[z] -= moved(keys, z, int(parent))
    rows, columns = _orders(left, dropped)
    planes = _planes(_folded(_differenced(left, rows, columns), dropped))
    frame = pack_frame(parents.tobytes() + planes, LEVEL)
    found = [bytes(_Plan(last_first, dropped, rows, columns)) + frame]
    predicted = encode_predicted(keys, parents, Grid(dtype, dropped, (rows, columns)))
    if predicted is not None:
        found.append(bytes([PREDICTED + last_first, dropped]) + predicted)
    return found


def decode_differences(
    data: bytes, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, what: str
) -> Values:
    """Inverse of :func:`encode_differences`.

    Raises
    ------
    FormatError
        The bytes are none of this shape and dtype (kind ``"bad-payload"``).
    """
    dtype = dtype.newbyteorder("<")
    width = dtype.itemsize
    if data[:1] == bytes([RANGE]):
        if dtype.kind != "f" or len(data) != 1 + 2 * 8 or math.prod(shape) > MOST_IN_RANGE:
            raise _bad(what, f"{len(data)} bytes of a range of {dtype} {shape!r}")
        first, step = np.frombuffer(data, "<f8", offset=1).tolist()
        return _range(first, step, math.prod(shape), dtype).reshape(shape)
    plan = _Plan(*data[:HEAD]) if len(data) > HEAD else _Plan(True, 255, 0, 0)
    is_predicted = plan.last_first in (PREDICTED, PREDICTED + 1)
    if is_predicted:
        plan = plan._replace(last_first=plan.last_first == PREDICTED + 1)
    if (
        not suits_differences(dtype)
        or plan.last_first > (len(shape) > 0)
        or plan.dropped >= 8 * width
        or max(plan.rows, plan.columns) > MOST_ORDER
    ):
        raise _bad(what, f"a head {data[:HEAD].hex()} for {dtype} {shape!r}")
    extents = _extents(shape, bool(plan.last_first))
    if is_predicted:
        grid = Grid(dtype, plan.dropped, (plan.rows, plan.columns))
        keys = decode_predicted(data[HEAD:], extents, grid, what=what)
        return _values_of(keys, plan, shape, dtype)
    content = unpack_frame(data[HEAD:], extents[0] + math.prod(shape) * width, what)
    parents = np.frombuffer(content, np.uint8, extents[0])
    check_parents(parents, what)
    planes = np.frombuffer(content, np.uint8, offset=extents[0]).reshape(width, -1)
    folded = np.ascontiguousarray(planes.T).view(f"<u{width}").reshape(extents)
    keys = _summed(_unfolded(folded, plan.dropped), plan.rows, plan.columns)
    for z, parent in enumerate(parents):
        if parent:
            keys[z] += moved(keys, z, int(parent))
    keys &= _mask(keys.dtype, plan.dropped)
    return _values_of(keys, plan, shape, dtype)


def _values_of(
    keys: Integers, plan: _Plan, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> Values:
    """The numbers of a chunk from their keys."""
    bits = _turned(keys, plan.dropped, is_float=dtype.kind == "f") << keys.dtype.type(plan.dropped)
    first = (shape[-1], *shape[:-1]) if plan.last_first else shape
    values: Values = bits.view(dtype).reshape(first)
    return np.ascontiguousarray(np.moveaxis(values, 0, -1)) if plan.last_first else values


def _extents(shape: tuple[int, ...], last_first: bool) -> Triple:
    """Slices, rows and columns; slices are all axes before the last two."""
    *before, y, x = (1, 1, *((shape[-1], *shape[:-1]) if last_first else shape))
    return math.prod(before), y, x


def _zero_bits(bits: Integers) -> int:
    """How many of the lowest bits are zero everywhere."""
    used = int(np.bitwise_or.reduce(bits, axis=None))
    return (used & -used).bit_length() - 1 if used else 0


def _turned(bits: Integers, dropped: int, *, is_float: bool) -> Integers:
    """Bit patterns of floats in the order of the numbers; its own inverse.

    Patterns without their dropped bits; those with the sign bit have the others inverted.
    """
    if not is_float:
        return bits
    top = bits.dtype.type(8 * bits.dtype.itemsize - dropped - 1)
    one = bits.dtype.type(1)
    return bits ^ ((bits >> top) * ((one << top) - one))


def _parents(keys: Integers) -> NDArray[np.uint8]:
    """For each slice which earlier one most of it equals, as a byte; 0 for none."""
    parents = np.zeros(len(keys), np.uint8)
    few = len(keys) <= CORNERS
    for z in range(1, len(keys)):
        backs = range(min(z, LOOKED_BACK) if few else 1)
        shifts = range(len(SHIFTS)) if few else [SHIFTS.index((0, 0))]
        alike = {
            (parent := 1 + back * len(SHIFTS) + shift): np.mean(keys[z] == moved(keys, z, parent))
            for back in backs
            for shift in shifts
        }
        best = max(alike, key=lambda parent: alike[parent])
        parents[z] = best if alike[best] > ALIKE else 0
    return parents


def _differenced(keys: Integers, rows: int, columns: int) -> Integers:
    zero = keys.dtype.type(0)
    for axis, times in ((1, rows), (2, columns)):
        for _ in range(times):
            keys = np.diff(keys, axis=axis, prepend=zero)
    return keys


def _summed(left: Integers, rows: int, columns: int) -> Integers:
    """Inverse of :func:`_differenced`."""
    for axis, times in ((2, columns), (1, rows)):
        for _ in range(times):
            left = np.cumsum(left, axis=axis, dtype=left.dtype)
    return left


def _folded(left: Integers, dropped: int) -> Integers:
    """Differences modulo 2^w, w the bits that are not dropped, with small ones of both signs small.

    With d the difference read as a signed number of w bits: 2 d for d >= 0, -2 d - 1 otherwise.
    """
    signed = (left << left.dtype.type(dropped)).view(f"<i{left.dtype.itemsize}")
    signed >>= signed.dtype.type(dropped)
    sign = signed >> signed.dtype.type(8 * signed.dtype.itemsize - 1)
    folded: Integers = ((signed << signed.dtype.type(1)) ^ sign).view(left.dtype)
    return folded & _mask(left.dtype, dropped)


def _unfolded(folded: Integers, dropped: int) -> Integers:
    """Inverse of :func:`_folded`, modulo 2^w."""
    one = folded.dtype.type(1)
    return (folded >> one) ^ (~(folded & one) + one)


def _mask(dtype: np.dtype[np.unsignedinteger], dropped: int) -> np.unsignedinteger:
    return dtype.type(np.iinfo(dtype.str).max >> dropped)


def _planes(folded: Integers) -> bytes:
    """Byte j of all numbers, then byte j + 1, the least significant first."""
    items = folded.reshape(-1).view(np.uint8).reshape(-1, folded.dtype.itemsize)
    return np.ascontiguousarray(items.T).tobytes()


def _orders(left: Integers, dropped: int) -> tuple[int, int]:
    """How often to take differences along rows and columns: the best for a part."""
    _, y, x = left.shape
    columns = min(x, max(256, SAMPLE // y))
    rows = min(y, max(1, SAMPLE // columns))
    top, start = (y - rows) // 2, (x - columns) // 2
    slices = max(1, SAMPLE // (rows * columns))
    part = left[:slices, top : top + rows, start : start + columns]
    sizes = {
        order: len(pack_frame(_planes(_folded(_differenced(part, *order), dropped)), SAMPLE_LEVEL))
        for order in ORDERS
        if order[0] < y and order[1] < x
    }
    return min(sizes, key=lambda order: sizes[order])


def _bad(what: str, problem: str) -> FormatError:
    return FormatError(
        f"{what}: an array of differences cannot be read ({problem})",
        kind="bad-payload",
        hint="the chunk is damaged, run `psc-archive verify`",
    )
