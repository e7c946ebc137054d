"""The compiled range coder is that of the library: the same bytes, and either reads the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from psc_volumetric.entropy.range_coder import (
    DECODE,
    FAILED,
    LOW,
    Words,
    compiled,
    end,
    plain_bits,
    scale_of,
    start,
    take,
)
from psc_volumetric.entropy.symbols import SymbolReader, SymbolWriter, categorical

PRECISION = 24


@compiled
def code_symbols(w: Any, symbols: Any, bounds: Any) -> Any:
    """Code ``symbols`` in place, with cumulative frequencies ``bounds`` of 24 bits."""
    start(w)
    for i in range(len(symbols)):
        scale = scale_of(w, PRECISION)
        if w.coder[DECODE]:
            place = np.int64(np.uint64(w.coder[LOW]) // scale)
            symbols[i] = np.searchsorted(bounds, place, side="right") - 1
        first, last = np.uint64(bounds[symbols[i]]), np.uint64(bounds[symbols[i] + 1])
        take(w, scale * first, scale * (last - first))
    return end(w)


@compiled
def code_numbers(w: Any, numbers: Any, bits: Any) -> Any:
    start(w)
    for i in range(len(numbers)):
        numbers[i] = plain_bits(w, numbers[i], bits[i])
    return end(w)


def table(frequencies: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)


def written(symbols: list[int], frequencies: list[int]) -> tuple[bytes, bytes]:
    """By the library, and by the loops."""
    library = SymbolWriter()
    library.exchange(np.array(symbols, np.int32), len(symbols), categorical(np.array(frequencies)))
    library.mark()
    room = np.zeros(4 * len(symbols) + 16, np.uint8)
    size = code_symbols(Words.over(room, decode=False), np.array(symbols), table(frequencies))
    assert size >= 0
    return library.finish()[0], room[:size].tobytes()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**22), min_size=2, max_size=9), st.data())
def test_loops_write_and_read_what_the_library_does(weights: list[int], data: Any) -> None:
    size, total = len(weights), 1 << PRECISION
    frequencies = [1 + w * (total - size) // (sum(weights) + 1) for w in weights]
    frequencies[0] += total - sum(frequencies)
    symbols = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=300))
    theirs, ours = written(symbols, frequencies)
    assert ours == theirs
    read = np.zeros(len(symbols), np.int64)
    words = Words.over(np.frombuffer(theirs, np.uint8).copy(), decode=True)
    assert code_symbols(words, read, table(frequencies)) == len(theirs)
    assert read.tolist() == symbols
    reader, model = SymbolReader(ours), categorical(np.array(frequencies))
    assert reader.exchange(None, len(symbols), model).tolist() == symbols


@pytest.mark.parametrize("frequencies", [[1, (1 << 24) - 2, 1], [(1 << 24) - 2, 1, 1]])
def test_carries_run_through_words_that_are_held_back(frequencies: list[int]) -> None:
    """Rare symbols at either end of the range make runs of words that wait for a carry."""
    rng = np.random.default_rng(5)
    for rare in (0.001, 0.05, 0.5):
        odds = np.where(np.array(frequencies) == 1, rare / 2, 1 - rare)
        symbols = rng.choice(3, 3000, p=odds / odds.sum()).tolist()
        theirs, ours = written(symbols, frequencies)
        assert ours == theirs
    for tail in range(40):  # the last symbol just below the middle, then a carry or none
        symbols = [1] * 50 + [2] * tail + [0, 1, 2]
        theirs, ours = written(symbols, frequencies)
        assert ours == theirs


def test_plain_bits_take_their_width_and_an_end() -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(1, 17, 5000)
    numbers = rng.integers(0, 1 << bits)
    room = np.zeros(2 * len(bits) + 16, np.uint8)
    size = code_numbers(Words.over(room, decode=False), numbers.copy(), bits)
    assert abs(8 * size - int(bits.sum())) <= 64
    read = np.zeros_like(numbers)
    code_numbers(Words.over(room[:size].copy(), decode=True), read, bits)
    np.testing.assert_array_equal(read, numbers)


def test_streams_are_used_up_and_no_longer() -> None:
    bits, numbers = np.full(40, 8), np.arange(40)
    room = np.zeros(100, np.uint8)
    size = code_numbers(Words.over(room, decode=False), numbers.copy(), bits)
    accepted = []
    for length in range(len(room)):
        words = Words.over(room[:length].copy(), decode=True)
        code_numbers(words, np.zeros(40, np.int64), bits)
        accepted += [] if words.coder[FAILED] else [length]
    assert size in accepted  # a last word of zeros may be there or not
    assert len(accepted) == 2
    assert accepted[1] - accepted[0] == 4


def test_a_room_too_small_is_told() -> None:
    bits, numbers = np.full(40, 8), np.arange(40)
    assert code_numbers(Words.over(np.zeros(30, np.uint8), decode=False), numbers, bits) == -1
