"""A list of the values that occur, for context streams. Part of the format (SPEC section 15).

Numbers that were scaled before they were stored (integers times a slope, decimals as floats) lie
far apart but not evenly: each is coded as its place in the list of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.context.occurring import MAX_LOWEST, MAX_SPAN, REFERENCE_BITS, present_in
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.errors import FormatError

__all__ = ["LevelTable"]

Integers = NDArray[np.int64]
MAX_TABLE = 1 << 17  # entries
VOXELS_PER_ENTRY = 8  # encoder only: fewer voxels do not pay for a list
SMALLEST_STEP = 3  # encoder only: median over voxels of the distance to the next in the list
MEDIAN_OF = 1 << 13  # encoder only: voxels that this is taken of


@dataclass(frozen=True)
class LevelTable:
    """A map between values and their places 0 .. ``top`` in a rising list.

    Attributes
    ----------
    table : (top + 1,) int64
        The values, rising strictly.
    """

    table: Integers

    @property
    def top(self) -> int:
        """Largest coded integer."""
        return len(self.table) - 1

    @classmethod
    def find(cls, values: NDArray[np.integer]) -> tuple[LevelTable, Integers] | None:
        """The list for ``values`` and their places in it; None if it would not pay.

        Only for values that :meth:`psc_volumetric.coders.context.occurring.Levels.find` accepts.
        """
        lowest = int(values.min())
        index = values.astype(np.int64) - lowest
        table = present_in(index)
        if not 2 < len(table) <= min(MAX_TABLE, index.size // VOXELS_PER_ENTRY):
            return None
        steps = np.diff(table, append=table[-1] + 1)
        some = index.reshape(-1)[:: max(1, index.size // MEDIAN_OF)]
        if float(np.median(steps[np.searchsorted(table, some)])) < SMALLEST_STEP:
            return None
        return cls(table + lowest), np.searchsorted(table, index)

    def values(self, index: Integers) -> Integers:
        """Values of coded integers."""
        return self.table[index]

    def mapped(self, reference: NDArray[np.integer]) -> Integers:
        """A prediction of values, 4 fraction bits, as one of places with 8."""
        shifted = reference.astype(np.int64)
        scaled = np.clip(self.table, -MAX_SPAN, MAX_SPAN) << REFERENCE_BITS
        below = np.clip(np.searchsorted(scaled, shifted, side="right") - 1, 0, self.top - 1)
        step = np.maximum(scaled[below + 1] - scaled[below], 1)
        part = np.clip(((shifted - scaled[below]) << FRACTION) // step, 0, 1 << FRACTION)
        return np.asarray((below << FRACTION) + part, np.int64)

    def count_below(self, values: Integers) -> Integers:
        """How many of the list are smaller, for each of ``values``."""
        return np.asarray(np.searchsorted(self.table, values, side="left"), np.int64)

    def write(self, out: FieldWriter, encode: Callable[[Integers], bytes]) -> None:
        """Append the list; ``encode`` codes the distances as a segment of one row."""
        stream = encode(np.diff(self.table)[None, None])
        out.pack("q", int(self.table[0]))
        out.varint(self.top)
        out.varint(len(stream))
        out.raw(stream)

    @classmethod
    def read(
        cls,
        fields: FieldReader,
        decode: Callable[[bytes, tuple[int, int, int]], Integers],
        what: str,
    ) -> LevelTable:
        """Take the list and check that it rises and fits."""
        (lowest,) = fields.unpack("q")
        top = fields.varint(limit=MAX_TABLE - 1, name="largest integer")
        length = fields.varint(limit=MAX_SPAN, name="bytes of the list")
        stream = fields.raw(length)
        if top < 2 or abs(lowest) > MAX_LOWEST:
            raise FormatError(f"{what}: impossible list of values", kind="bad-payload")
        steps = decode(stream, (1, 1, top))
        if int(steps.min()) < 1 or int(steps.max()) > MAX_SPAN or int(steps.sum()) > MAX_SPAN:
            raise FormatError(f"{what}: the list of values does not rise", kind="bad-payload")
        return cls(np.concatenate([[lowest], lowest + np.cumsum(steps.reshape(-1))]))
