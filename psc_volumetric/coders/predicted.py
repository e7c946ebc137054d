"""Grids of coordinates and what else is computed, each number predicted. Part of the format.

SPEC section 11.5. Differences of floats magnify the rounding of every number they are made of. Here
the neighbours are continued as real numbers, the result is rounded as the number itself was, and
only the units of the last place between the two are coded, by the context coder. Numbers far away
are listed; a value that fills what was not computed (land in an ocean grid) is a mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.exact_places import read_places, write_places
from psc_volumetric.coders.moved_slices import check_parents, moved
from psc_volumetric.errors import FormatError

__all__ = ["Grid", "decode_predicted", "encode_predicted", "suits_predicted"]

Integers = NDArray[np.unsignedinteger]
Signed = NDArray[np.int64]
Triple = tuple[int, int, int]
Order = tuple[int, int]

LEAST_EXTENT = 8  # rows and columns
MOST_STEPS = 1 << 14  # anti-diagonals of all slices: so many steps a reader takes

# What the encoder tries.
ORDERS: tuple[Order, ...] = ((2, 2), (1, 1))
LEAST_SIZE = 1 << 12  # numbers; fewer are not worth compiled loops
LEAST_AT_ONCE = 16  # numbers of an anti-diagonal, on average: long grids take too many steps
LIMITS = (255, 4095)  # units in the last place beyond which a number is listed
HOLES = 0.02  # share of numbers that may be holes
SAMPLE = 1 << 18  # numbers on which orders are compared


class Grid(NamedTuple):
    """What numbers of a chunk are.

    Attributes
    ----------
    dtype : numpy.dtype
        Little-endian.
    dropped : int
        Low bits that are zero in all numbers.
    order : (rows, columns)
        Degree of the polynomial that continues the neighbours along y and x, plus one.
    """

    dtype: np.dtype[Any]
    dropped: int
    order: Order

    @property
    def top(self) -> int:
        """Bits of a number without those that are dropped, less one."""
        return 8 * self.dtype.itemsize - self.dropped - 1

    @property
    def is_float(self) -> bool:
        """Whether neighbours are continued as real numbers, not modulo 2^w."""
        return self.dtype.kind == "f"


def suits_predicted(extents: Triple) -> bool:
    """Whether a chunk of slices, rows and columns can be coded so."""
    slices, rows, columns = extents
    return min(rows, columns) >= LEAST_EXTENT and slices * (rows + columns) <= MOST_STEPS


def encode_predicted(keys: Integers, parents: NDArray[np.uint8], grid: Grid) -> bytes | None:
    """Code a chunk; None where it is too small.

    Parameters
    ----------
    keys : (slices, y, x) unsigned integers
        Numbers in their order, without dropped bits.
    parents : (slices,) uint8
        As in `coders.differences`.
    grid : Grid
        Its order is not looked at.
    """
    slices, y, x = keys.shape
    few = keys.size < max(LEAST_SIZE, LEAST_AT_ONCE * slices * (y + x))
    if few or not suits_predicted((slices, y, x)):
        return None
    rows = max(LEAST_EXTENT, SAMPLE // (keys.shape[0] * keys.shape[2]))
    top = max(0, (keys.shape[1] - rows) // 2)
    sample = keys[:, top : top + rows]
    ways = list(itertools.product(ORDERS, {None, _hole(keys)}))
    costs = []
    for order, hole in ways:
        walk = _Walk(grid._replace(order=order), parents, sample.shape, hole)
        left = np.abs(walk.coded(sample).astype(np.float64))
        costs.append(float(np.log2(1 + left).sum()))
    order, hole = ways[costs.index(min(costs))]
    grid = grid._replace(order=order)
    left = _Walk(grid, parents, keys.shape, hole).coded(keys)
    found = [_packed(left, keys, hole, grid, parents, limit) for limit in LIMITS]
    return bytes(order) + min(found, key=len)


def _hole(keys: Integers) -> int | None:
    """The number that many are, if there is one."""
    values, counts = np.unique(keys, return_counts=True)
    most = int(counts.argmax())
    return int(values[most]) if counts[most] >= HOLES * keys.size else None


def _packed(
    left: Signed,
    keys: Integers,
    hole: int | None,
    grid: Grid,
    parents: NDArray[np.uint8],
    limit: int,
) -> bytes:
    """What stands behind the order."""
    from psc_volumetric.coders.context.coder import encode_integers

    far = np.abs(left) > limit
    out = FieldWriter()
    out.raw(parents.tobytes())
    out.pack("B", hole is not None)
    if hole is not None:
        out.raw(np.array(hole, keys.dtype).tobytes())
        mask = encode_integers((keys == hole).astype(np.int64))
        out.varint(len(mask))
        out.raw(mask)
    write_places(out, left.astype("<i8"), far)
    out.raw(encode_integers(np.where(far, 0, left)))
    return out.getvalue()


def decode_predicted(data: bytes, extents: Triple, grid: Grid, *, what: str) -> Integers:
    """Inverse of `encode_predicted`; FormatError where the bytes are something else."""
    from psc_volumetric.coders.context.coder import decode_integers

    if not suits_predicted(extents):
        raise FormatError(f"{what}: {extents} numbers cannot be predicted", kind="bad-payload")
    fields = FieldReader(data, what=what)
    parents = np.frombuffer(fields.raw(extents[0]), np.uint8)
    check_parents(parents, what)
    (has_holes,) = fields.unpack("B")
    hole, mask = None, None
    if has_holes > 1:
        raise FormatError(f"{what}: holes {has_holes}", kind="bad-payload")
    if has_holes:
        stored = np.frombuffer(fields.raw(grid.dtype.itemsize), f"<u{grid.dtype.itemsize}")
        hole = int(stored[0]) & ((1 << grid.top + 1) - 1)
        size = fields.varint(limit=len(data), name="length of the holes")
        mask = decode_integers(fields.raw(size), extents, what=what) == 1
    places, listed = read_places(fields, math.prod(extents), np.dtype("<i8"), what=what)
    left = decode_integers(fields.raw(len(data) - fields.offset), extents, what=what)
    left.reshape(-1)[places] = listed
    return _Walk(grid, parents, extents, hole).read(left, mask)


@dataclass
class _Walk:
    """Goes through a chunk, slice by slice, in the one order in which neighbours are known.

    Anti-diagonals of a slice are coded at once: all neighbours of a number lie before its own.
    """

    grid: Grid
    parents: NDArray[np.uint8]
    extents: tuple[int, ...]
    hole: int | None

    def coded(self, keys: Integers) -> Signed:
        """What is left of every number; 0 in holes."""
        holes = None if self.hole is None else keys == self.hole
        return self._through(keys, None, holes)[1]

    def read(self, left: Signed, holes: NDArray[np.bool_] | None) -> Integers:
        """The numbers again."""
        keys = np.zeros(self.extents, f"<u{self.grid.dtype.itemsize}")
        return self._through(keys, left, holes)[0]

    @np.errstate(over="ignore", invalid="ignore")
    def _through(
        self, keys: Integers, left: Signed | None, holes: NDArray[np.bool_] | None
    ) -> tuple[Integers, Signed]:
        decodes = left is not None
        found = np.zeros(self.extents, np.int64) if left is None else left
        known = np.zeros(self.extents, np.float64 if self.grid.is_float else keys.dtype)
        for z, parent in enumerate(self.parents):
            own = None if holes is None else holes[z]
            if parent:
                guess = self._key_of(moved(known, z, int(parent)))
                self._step(keys[z], found[z], known[z], guess, own, decodes)
            else:
                self._plane(keys[z], found[z], known[z], own, decodes)
        return keys, found

    def _plane(
        self, keys: Any, left: Any, known: Any, holes: NDArray[np.bool_] | None, decodes: bool
    ) -> None:
        """One slice that is taken from none before it; row s of a skewed array is y + x = s.

        Its columns are the shorter one of both axes.
        """
        rows, columns = known.shape
        by_rows = rows <= columns
        y, x = np.indices(known.shape)
        skewed = (y + x, y if by_rows else x)
        shape = (rows + columns - 1, min(rows, columns))
        planes = [np.zeros(shape, a.dtype) for a in (keys, left, known)]
        for plane, given in zip(planes, (keys, left, known), strict=True):
            plane[skewed] = given
        gaps = None
        if holes is not None:
            gaps = np.zeros(shape, bool)
            gaps[skewed] = holes
        order_along = self.grid.order if by_rows else self.grid.order[::-1]
        for s, part, found in _parts(min(rows, columns), max(rows, columns), order_along):
            order = found if by_rows else found[::-1]
            guess = self._key_of(_continued(planes[2], s, part, order, by_rows))
            here = None if gaps is None else gaps[s, part]
            if here is not None and here.any():
                plain = (min(order[0], 1), min(order[1], 1))
                over = self._key_of(_continued(planes[2], s, part, plain, by_rows))
                guess = np.where(here, over, guess)
            own, rest, value = (plane[s, part] for plane in planes)
            self._step(own, rest, value, guess, here, decodes)
        for plane, given in zip(planes, (keys, left, known), strict=True):
            given[...] = plane[skewed]

    def _step(
        self,
        keys: Any,
        left: Any,
        known: Any,
        guess: Integers,
        holes: NDArray[np.bool_] | None,
        decodes: bool,
    ) -> None:
        """Code or decode some numbers at once, given what they are thought to be."""
        if decodes:
            keys[...] = self._cut(guess + left.astype(guess.dtype))
        else:
            left[...] = self._signed(self._cut(keys - guess))
        value = keys
        if holes is not None:
            value = np.where(holes, guess, keys)  # holes are continued, so that both sides fit
            if decodes:
                keys[holes] = self.hole
            else:
                left[holes] = 0
        known[...] = self._value_of(value)

    def _cut(self, keys: Integers) -> Integers:
        return keys & keys.dtype.type((1 << self.grid.top + 1) - 1)

    def _signed(self, keys: Integers) -> Signed:
        """Numbers modulo 2^w, read as signed ones of w bits."""
        shift = np.int64(63 - self.grid.top)
        return (keys.astype(np.uint64) << np.uint64(shift)).view(np.int64) >> shift

    def _key_of(self, value: Any) -> Integers:
        """The number nearest to a value, as a key."""
        if not self.grid.is_float:
            return self._cut(value)
        dtype, dropped = self.grid.dtype, self.grid.dropped
        with np.errstate(over="ignore", invalid="ignore"):
            bits: Integers = (
                np.where(np.isfinite(value), value, 0.0).astype(dtype).view(f"<u{dtype.itemsize}")
            )
        kind = bits.dtype.type
        sign = bits >> kind(8 * dtype.itemsize - 1)
        size = bits & kind((1 << 8 * dtype.itemsize - 1) - 1)
        if dropped:
            most = kind((1 << self.grid.top) - 1)
            size = np.minimum((size + kind(1 << dropped - 1)) >> kind(dropped), most)
        return _ordered(sign << kind(self.grid.top) | size, self.grid.top)

    def _value_of(self, keys: Integers) -> Any:
        if not self.grid.is_float:
            return keys
        bits = _ordered(keys, self.grid.top) << keys.dtype.type(self.grid.dropped)
        return bits.view(self.grid.dtype).astype(np.float64)


def _ordered(bits: Integers, top: int) -> Integers:
    """Patterns of floats in the order of the numbers; its own inverse."""
    kind = bits.dtype.type
    found: Integers = bits ^ ((bits >> kind(top)) * kind((1 << top) - 1))
    return found


def _parts(rows: int, columns: int, order: Order) -> Iterator[tuple[int, slice, Order]]:
    """Pieces of anti-diagonals whose numbers are continued alike: at edges by what there is."""
    for s in range(rows + columns - 1):
        first, last = max(0, s - columns + 1), min(rows - 1, s) + 1
        low, high = max(first, order[0]), min(last, s - order[1] + 1)
        if low >= high:
            low = high = last
        for y in itertools.chain(range(first, low), range(high, last)):
            yield s, slice(y, y + 1), (min(order[0], y), min(order[1], s - y))
        if low < high:
            yield s, slice(low, high), order


@cache
def _stencil(order: Order) -> list[tuple[int, int, int]]:
    """Rows above, columns before and weight of each neighbour, in the order of the sum."""
    rows, columns = order
    return [
        (j, i, -((-1) ** (j + i)) * math.comb(rows, j) * math.comb(columns, i))
        for j in range(rows + 1)
        for i in range(columns + 1)
        if j + i
    ]


def _continued(known: Any, s: int, part: slice, order: Order, by_rows: bool) -> Any:
    """The polynomial through the neighbours of some numbers of anti-diagonal ``s``.

    ``part`` counts rows if ``by_rows``, else columns.
    """
    total = np.zeros(part.stop - part.start, known.dtype)
    for j, i, weight in _stencil(order):
        back = j if by_rows else i
        near = known[s - j - i, part.start - back : part.stop - back]
        if known.dtype.kind == "f":
            total = total + near * float(weight)
        else:
            total = total + near * known.dtype.type(weight % (1 << 8 * known.dtype.itemsize))
    return total
