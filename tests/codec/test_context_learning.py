"""Shorter ways of the context coder's loop to numbers that the format fixes."""

from __future__ import annotations

import numpy as np
import pytest

from psc_volumetric.coders.context.layout import FAST_AT, LANES, SLOW_AT, WORK_SIZE
from psc_volumetric.coders.context.learning import (
    LIMIT,
    SMALL_SQUARE,
    _learn_lanes,
    _learn_small,
)
from psc_volumetric.entropy.binary import compiled
from psc_volumetric.entropy.decisions import bit_length, digits_of


@compiled
def learn(w, fast, slow, is_small):  # type: ignore[no-untyped-def]
    if is_small:
        _learn_small(w, fast, slow, 0, LANES)
    else:
        _learn_lanes(w, fast, slow, 0, LANES)


@compiled
def lengths(values, longest, short):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        longest[i] = bit_length(values[i])
        short[i] = digits_of(values[i])


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_vectors_of_32_bits_learn_what_those_of_64_do(dtype: type) -> None:
    random = np.random.default_rng(3)
    for number in range(400):
        w = np.zeros(WORK_SIZE, dtype)
        size = 1 << int(random.integers(0, 16))
        w[:LANES] = random.integers(-size, size, LANES) if number % 9 else 0
        for at in (FAST_AT, SLOW_AT):
            w[at : at + LANES] = random.integers(-LIMIT, LIMIT + 1, LANES)
        energy = int((w[:LANES].astype(np.int64) ** 2).sum())
        most = int((SMALL_SQUARE / max(energy, 1)) ** 0.5)  # what the loop goes up to
        fast, slow = (int(random.integers(-most, most + 1)) for _ in range(2))
        fast = (most, -most, fast)[number % 3]
        wide, small = w.copy(), w.copy()
        learn(wide, fast, slow, False)
        learn(small, fast, slow, True)
        np.testing.assert_array_equal(wide, small)


def test_digits_are_those_of_integers() -> None:
    powers = [1 << n for n in range(53)]
    values = np.array(
        [0, *powers, *(n - 1 for n in powers), *(n + 1 for n in powers), (1 << 53) - 1]
    )
    longest, short = np.zeros_like(values), np.zeros_like(values)
    lengths(values, longest, short)
    assert longest.tolist() == [int(value).bit_length() for value in values]
    np.testing.assert_array_equal(short, longest)
