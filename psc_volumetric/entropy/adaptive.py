"""Backward-adaptive integer models. Part of the format (SPEC section 7.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.symbols import SymbolPort, categorical
from psc_volumetric.entropy.tables import PRECISION

__all__ = ["AdaptiveModel", "AdaptiveScale"]

TOTAL = 1 << PRECISION


class AdaptiveModel:
    """Frequencies of a small alphabet, learned from the symbols already coded.

    Every symbol starts with weight 1 and gains 8 when seen; the frequency of symbol ``i`` is
    ``1 + weight_i * (2^24 - size) // total weight``, the remainder goes to symbol 0.
    """

    def __init__(self, size: int) -> None:
        self._weights = np.ones(size, np.int64)

    def frequencies(self) -> NDArray[np.int64]:
        """Current frequencies; they sum to 2^24."""
        size = len(self._weights)
        frequencies: NDArray[np.int64] = 1 + self._weights * (TOTAL - size) // self._weights.sum()
        frequencies[0] += TOTAL - frequencies.sum()
        return frequencies

    def code(self, port: SymbolPort, symbol: int | None) -> int:
        """Write or read one symbol and learn from it."""
        given = None if symbol is None else np.array([symbol], np.int32)
        coded = int(port.exchange(given, 1, categorical(self.frequencies()))[0])
        self._weights[coded] += 8
        return coded


class AdaptiveScale:
    """Scale bin of residuals in one context, from the mean magnitude seen so far.

    The state is a sum of magnitudes and a count, both halved when the count reaches 256. A
    Laplace residual of mean magnitude m has scale about 1.4 m; the bin is read off
    ``round(8 * log2)`` of the mean by comparing with powers of two and their quarter steps.
    """

    __slots__ = ("_count", "_total")

    # floor(2^(k/4) * 2^8), k = 0..3
    QUARTERS = (256, 304, 362, 430)
    BIN_OF_UNIT_MEAN = 14  # scale 1.41: 12 + 4 * log2(1.41)

    def __init__(self, total: int, count: int) -> None:
        self._total, self._count = total, count

    def scale_bin(self) -> int:
        """Bin for the next residual."""
        mean = (self._total << 16) // self._count + 1  # 16 fraction bits, at least 1
        octave = mean.bit_length() - 1
        mantissa = (mean << 8) >> octave
        quarter = sum(mantissa >= q for q in self.QUARTERS) - 1
        return max(0, self.BIN_OF_UNIT_MEAN + 4 * (octave - 16) + quarter)

    def learn(self, magnitude: int) -> None:
        """Count one residual."""
        self._total += magnitude
        self._count += 1
        if self._count >= 256:
            self._total >>= 1
            self._count >>= 1
