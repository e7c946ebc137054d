"""Which integers occur: the first part of a context stream. Part of the format (SPEC section 15).

Values lie on ``lowest + divisor * i``; long runs of ``i`` that never occur are left out, so that
padding far below the data, fill values and not-a-numbers do not spread the alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["MAX_LOWEST", "MAX_SPAN", "REFERENCE_BITS", "Levels", "present_in"]

Integers = NDArray[np.int64]
MAX_SPAN = (1 << 32) - 1
MAX_LOWEST = 1 << 62
FARTHEST = 1 << 40
MAX_GAPS = 64
COUNTABLE = 1 << 16
SMALLEST_GAP = 32
GAP_SHARE = 64  # encoder only: a gap is left out if it is at least this part of what remains
REFERENCE_BITS = 4


@dataclass(frozen=True)
class Levels:
    """A map between values and the integers 0 .. ``top`` that are coded.

    Attributes
    ----------
    lowest : int
        Smallest value.
    divisor : int
        Values are ``lowest`` plus multiples of it.
    top : int
        Largest coded integer.
    gaps : tuple of (int, int)
        Rising (start, length): ``length`` absent multiples before coded integer ``start``.
    """

    lowest: int
    divisor: int
    top: int
    gaps: tuple[tuple[int, int], ...]

    @classmethod
    def find(cls, values: NDArray[np.integer]) -> tuple[Levels, Integers]:
        """Levels of ``values``, and the integers to be coded in their place.

        Raises
        ------
        ParameterError
            Values too large or too far apart.
        """
        lowest, highest = int(values.min()), int(values.max())
        if highest - lowest > MAX_SPAN or max(-lowest, highest) > MAX_LOWEST:
            raise ParameterError(
                f"values must span less than 2^32 within +-2^62, found {lowest} .. {highest}",
                kind="bad-values",
                hint="split wider integers into words",
            )
        index = values.astype(np.int64) - lowest
        present = present_in(index)
        divisor = max(1, int(np.gcd.reduce(present)))
        if divisor > 1:
            index //= divisor
            present //= divisor
        longest = _long_gaps(present)
        gaps, gone = [], 0
        for i in longest:
            length = int(present[i + 1] - present[i]) - 1
            gaps.append((int(present[i]) + 1 - gone, length))
            gone += length
        levels = cls(lowest, divisor, int(present[-1]) - gone, tuple(gaps))
        if not gaps:
            return levels, index
        ends = present[longest + 1]
        removed = np.cumsum([0, *(length for _, length in gaps)])
        return levels, index - removed[np.searchsorted(ends, index, side="right")]

    def values(self, index: Integers) -> Integers:
        """Values of coded integers."""
        if not self.gaps:
            plain: Integers = index * self.divisor + self.lowest
            return plain
        starts = [start for start, _ in self.gaps]
        added = np.cumsum([0, *(length for _, length in self.gaps)])
        full = index + added[np.searchsorted(starts, index, side="right")]
        out: Integers = full * self.divisor + self.lowest
        return out

    def mapped(self, reference: NDArray[np.integer]) -> Integers:
        """A prediction of values, 4 fraction bits, as one of coded integers with 8.

        The prediction is within 32 bits. What falls into a gap becomes its end below; the result
        lies in 0 .. ``top``.
        """
        lowest = min(max(self.lowest, -FARTHEST), FARTHEST)  # beyond it all results are clipped
        shifted = reference.astype(np.int64) - (lowest << REFERENCE_BITS)
        out = (shifted << (FRACTION - REFERENCE_BITS)) // self.divisor
        for start, length in self.gaps:
            edge = (start - 1) << FRACTION
            past = out - (length << FRACTION)
            out = np.where(past > edge, past, np.minimum(out, edge))
        return np.asarray(np.clip(out, 0, self.top << FRACTION), np.int64)

    def count_below(self, values: Integers) -> Integers:
        """How many of the values that may occur are smaller, for each of ``values``."""
        whole = self.top + sum(length for _, length in self.gaps)
        full = np.clip(-((self.lowest - values) // self.divisor), 0, whole + 1)
        gone = np.zeros_like(full)
        before = 0
        for start, length in self.gaps:
            gone += np.clip(full - (start + before), 0, length)
            before += length
        return np.asarray(full - gone, np.int64)

    def write(self, out: FieldWriter) -> None:
        """Append the fields."""
        out.pack("q", self.lowest)
        out.varint(self.divisor)
        out.varint(self.top)
        out.varint(len(self.gaps))
        for start, length in self.gaps:
            out.varint(start)
            out.varint(length)

    @classmethod
    def read(cls, fields: FieldReader, what: str) -> Levels:
        """Take the fields and check that every value they allow fits."""
        (lowest,) = fields.unpack("q")
        divisor = fields.varint(limit=MAX_SPAN, name="divisor")
        top = fields.varint(limit=MAX_SPAN, name="largest integer")
        gaps: list[tuple[int, int]] = []
        for _ in range(fields.varint(limit=MAX_GAPS, name="gaps")):
            start = fields.varint(limit=MAX_SPAN, name="start of a gap")
            gaps.append((start, fields.varint(limit=MAX_SPAN, name="length of a gap")))
        starts = [0, *(start for start, _ in gaps), top + 1]
        rising = all(a < b for a, b in pairwise(starts))
        span = (top + sum(length for _, length in gaps)) * divisor
        if not rising or divisor < 1 or span > MAX_SPAN or abs(lowest) > MAX_LOWEST:
            raise FormatError(
                f"{what}: impossible levels in a context stream (lowest {lowest}, divisor "
                f"{divisor}, largest integer {top}, {len(gaps)} gaps)",
                kind="bad-payload",
            )
        return cls(lowest, divisor, top, tuple(gaps))


def present_in(index: Integers) -> Integers:
    """The different integers in ``index``, rising; none is negative."""
    top = int(index.max())
    if top < max(index.size, COUNTABLE):
        return np.flatnonzero(np.bincount(index.reshape(-1))).astype(np.int64)
    return np.unique(index)


def _long_gaps(present: Integers) -> Integers:
    """Places in the rising ``present`` after which a large part of all integers is absent."""
    lengths = np.diff(present) - 1
    left = int(present[-1])
    kept = []
    for i in np.argsort(-lengths, kind="stable")[:MAX_GAPS]:
        if lengths[i] < max(SMALLEST_GAP, left // GAP_SHARE):
            break
        left -= int(lengths[i])
        kept.append(int(i))
    return np.sort(np.array(kept, np.int64))
