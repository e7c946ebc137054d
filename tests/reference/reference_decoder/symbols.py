"""Section 7 of SPEC-v1.md: the range decoder, coded integers and adaptive models."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from reference_decoder.fields import require
from reference_decoder.tables import cumulative

MASK = (1 << 64) - 1


class RangeDecoder:
    """Section 7.1."""

    def __init__(self, data: bytes) -> None:
        require(len(data) % 4 == 0, "no whole number of words")
        self.words = np.frombuffer(data, "<u4").tolist()
        self.used, self.range = 0, MASK
        self.code = self._word() << 32 | self._word()

    def _word(self) -> int:
        self.used += 1
        return self.words[self.used - 1] if self.used <= len(self.words) else 0

    def symbol(self, bounds: list[int], precision: int = 24) -> int:
        """Decode with cumulative frequencies ``bounds``, from 0 to 2^precision."""
        found = bisect_right(bounds, self._quantile(precision)) - 1
        self._take(precision, bounds[found], bounds[found + 1])
        return found

    def number(self, count: int) -> int:
        """One of 2^count equally likely values, with as much precision."""
        found = self._quantile(count)
        self._take(count, found, found + 1)
        return found

    def _quantile(self, precision: int) -> int:
        quantile = self.code // (self.range >> precision)
        require(quantile < 1 << precision, "range coder: impossible words")
        return quantile

    def _take(self, precision: int, first: int, end: int) -> None:
        scale = self.range >> precision
        self.code, self.range = self.code - scale * first, scale * (end - first)
        if self.range < 1 << 32:
            self.code, self.range = self.code << 32 | self._word(), self.range << 32

    def bits(self, count: int) -> int:
        """One of 2^count equally likely values, count 1..16."""
        each = 1 << (24 - count)
        return self.symbol([each * i for i in range((1 << count) + 1)])

    def raw(self, numbers: int, width: int) -> list[int]:
        """Section 7.3: ``numbers`` unsigned integers of ``width`` bits, 16 bits at a time."""
        values = [0] * numbers
        for start in range(0, width, 16):
            for i in range(numbers):
                values[i] |= self.bits(min(16, width - start)) << start
        return values

    def escape(self) -> int:
        """Section 7.3: Elias gamma code, less one."""
        zeros = 0
        while self.bits(1) == 0:
            zeros += 1
            require(zeros <= 24, "escape code is too long")
        return (1 << zeros) - 1 + self.raw(1, zeros)[0]

    def integers(self, bins: list[int]) -> list[int]:
        """Section 7.3: signed integers, one scale bin each."""
        out = [0] * len(bins)
        for scale_bin in sorted(set(bins)):
            where = [i for i, b in enumerate(bins) if b == scale_bin]
            for i, value in zip(where, self._run(scale_bin, len(where)), strict=True):
                out[i] = value
        return out

    def _run(self, scale_bin: int, count: int) -> list[int]:
        shift = 0 if scale_bin <= 28 else (scale_bin - 28 + 3) // 4
        bounds = cumulative(scale_bin - 4 * shift)
        limit = (len(bounds) - 2) // 2
        values = [self.symbol(bounds) - limit for _ in range(count)]
        for i, value in enumerate(values):
            if abs(value) == limit:
                extra = self.escape()
                values[i] = value + extra if value > 0 else value - extra
        require(all(abs(v) < 1 << (30 - shift) for v in values), "a symbol is out of range")
        low = self.raw(count, shift)
        return [(v << shift) | bits for v, bits in zip(values, low, strict=True)]


class AdaptiveModel:
    """Section 7.4."""

    def __init__(self, size: int) -> None:
        self.weights = [1] * size

    def decode(self, coder: RangeDecoder) -> int:
        size, total = len(self.weights), sum(self.weights)
        frequencies = [1 + w * ((1 << 24) - size) // total for w in self.weights]
        frequencies[0] += (1 << 24) - sum(frequencies)
        found = coder.symbol([0, *accumulate(frequencies)])
        self.weights[found] += 8
        return found


class AdaptiveScale:
    """Section 7.4."""

    def __init__(self, total: int, count: int) -> None:
        self.total, self.count = total, count

    def scale_bin(self) -> int:
        mean = (self.total << 16) // self.count + 1
        octave = mean.bit_length() - 1
        mantissa = (mean << 8) >> octave
        quarter = sum(mantissa >= edge for edge in (304, 362, 430))
        return max(0, 14 + 4 * (octave - 16) + quarter)

    def learn(self, magnitude: int) -> None:
        self.total += magnitude
        self.count += 1
        if self.count >= 256:
            self.total >>= 1
            self.count >>= 1
