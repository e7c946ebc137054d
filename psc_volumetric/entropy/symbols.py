"""Symbols through the range coder. Part of the format (SPEC sections 7.1 and 7.3).

One :class:`SymbolPort` per tile has the same two methods for writing and reading, so that
encoder and decoder run one loop: ``code`` takes the symbols when writing and returns them when
reading. Probabilities are integer frequencies; constriction is fed ``frequency - 1`` so that its
float arithmetic reproduces them exactly (cumulative sums are integers below 2^24 and its scale
factor is 1).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.tables import SCALE_BINS, symbol_frequencies, symbol_limit
from psc_volumetric.errors import FormatError

__all__ = ["SymbolPort", "SymbolReader", "SymbolWriter", "categorical", "uniform"]

Symbols = NDArray[np.int32]
LOOKAHEAD_WORDS = 2  # a range decoder's state is two words ahead of what it has consumed
BITS_PER_CHUNK = 16
MAX_ESCAPE_BITS = 24
MAGNITUDE_BITS = 30


def categorical(frequencies: NDArray[np.int64]) -> Any:
    """Model over 0..n-1 with exactly these frequencies (sum 2^24, each at least 1)."""
    return constriction.stream.model.Categorical(
        (frequencies - 1).astype(np.float64), perfect=False
    )


@functools.cache
def uniform(size: int) -> Any:
    """Model over 0..size-1, all equal; ``size`` at most 2^16."""
    return constriction.stream.model.Uniform(size)


@functools.cache
def _bin_model(scale_bin: int) -> Any:
    return categorical(symbol_frequencies(scale_bin))


class SymbolPort(ABC):
    """Where a tile's symbols go to or come from."""

    @abstractmethod
    def exchange(self, symbols: Symbols | None, count: int, model: Any) -> Symbols:
        """Write ``symbols``, or read ``count`` of them, with one model for all."""

    def code(self, symbols: Symbols | None, bins: NDArray[np.int64]) -> Symbols:
        """Code signed integers, each with the probability table of its scale bin.

        Parameters
        ----------
        symbols : (n,) int32 or None
            Values when writing, None when reading.
        bins : (n,) int64
            Scale bin of each; bins past the last table first shift low bits out.

        Returns
        -------
        (n,) int32
            The values, on either side.
        """
        out = np.zeros(len(bins), np.int32)
        for scale_bin in np.unique(bins):
            where = np.flatnonzero(bins == scale_bin)
            given = None if symbols is None else symbols[where]
            out[where] = self._code_bin(given, len(where), int(scale_bin))
        return out

    def _code_bin(self, symbols: Symbols | None, count: int, scale_bin: int) -> Symbols:
        shift = max(0, -(-(scale_bin - SCALE_BINS + 1) // 4))
        table = scale_bin - 4 * shift
        limit = symbol_limit(table)
        high = clipped = None
        if symbols is not None:
            high = symbols >> shift
            clipped = np.clip(high, -limit, limit) + limit
        coded = self.exchange(clipped, count, _bin_model(table)) - limit
        for i in np.flatnonzero(np.abs(coded) == limit):
            sign = 1 if coded[i] > 0 else -1
            beyond = None if high is None else abs(int(high[i])) - limit
            coded[i] = sign * (limit + self.escape(beyond))
        if np.abs(coded).max(initial=0) >> max(0, MAGNITUDE_BITS - shift):
            raise FormatError("a symbol is out of range", kind="bad-symbol")
        if shift:
            low = None if symbols is None else symbols & ((1 << shift) - 1)
            coded = (coded << shift) | self._raw(low, count, shift)
        return coded

    def escape(self, value: int | None) -> int:
        """Code a non-negative integer: Elias gamma of ``value + 1`` in equiprobable bits."""
        bit = uniform(2)
        length = None if value is None else (value + 1).bit_length() - 1
        zeros = 0
        while True:
            stop = None if length is None else np.array([zeros == length], np.int32)
            if self.exchange(stop, 1, bit)[0]:
                break
            zeros += 1
            if zeros > MAX_ESCAPE_BITS:
                raise FormatError("escape code is too long", kind="bad-symbol")
        tail = None if value is None else np.array([value + 1 - (1 << zeros)], np.int32)
        return (1 << zeros) - 1 + int(self._raw(tail, 1, zeros)[0])

    def _raw(self, symbols: Symbols | None, count: int, bits: int) -> Symbols:
        out = np.zeros(count, np.int32)
        for start in range(0, bits, BITS_PER_CHUNK):
            width = min(BITS_PER_CHUNK, bits - start)
            part = None if symbols is None else (symbols >> start) & ((1 << width) - 1)
            out |= self.exchange(part, count, uniform(1 << width)) << start
        return out


class SymbolWriter(SymbolPort):
    """Collects a tile's symbols; :meth:`mark` ends a level."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()
        self._marks: list[int] = []

    def exchange(self, symbols: Symbols | None, count: int, model: Any) -> Symbols:
        """Write symbols; returns them unchanged."""
        if symbols is None:
            raise TypeError("a writer needs symbols")
        if count:
            self._encoder.encode(np.ascontiguousarray(symbols, np.int32), model)
        return symbols

    def mark(self) -> None:
        """End a level here."""
        self._marks.append(int(self._encoder.pos()[0]) + LOOKAHEAD_WORDS)

    def finish(self) -> list[bytes]:
        """Words of each level as little-endian bytes; together they are the whole sequence."""
        words = self._encoder.get_compressed().astype("<u4")
        ends = [min(m, len(words)) for m in self._marks[:-1]] + [len(words)]
        starts = [0, *ends[:-1]]
        return [words[a:b].tobytes() for a, b in zip(starts, ends, strict=True)]


class SymbolReader(SymbolPort):
    """Takes symbols off a prefix of a tile's words."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise FormatError(
                f"range coder: expected whole 32-bit words, found {len(data)} bytes",
                kind="bad-payload",
            )
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def exchange(self, symbols: Symbols | None, count: int, model: Any) -> Symbols:
        """Read ``count`` symbols."""
        if not count:
            return np.zeros(0, np.int32)
        try:
            decoded = self._decoder.decode(model, count)
        except (AssertionError, ValueError) as error:
            raise FormatError(
                f"range coder: the words do not hold a symbol ({error})", kind="bad-symbol"
            ) from error
        return np.asarray(decoded, np.int32).reshape(count)
