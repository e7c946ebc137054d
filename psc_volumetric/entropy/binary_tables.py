"""Integer tables of mixing and of decisions. Part of the format (SPEC section 15.3).

Made by exact rules: everything follows from powers of one rounded constant, so that any language
gives the same integers; nothing here is a float.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRACTION", "Tables", "decision_tables"]

FRACTION = 8  # bits of a prediction
DECAY_BITS = 31
DECAY = 2139111403  # round(2^31 exp(-1 / 256))
LOGIT_STEPS = 256  # logit units per unit of natural logarithm
LOGIT_LIMIT = 3071  # largest magnitude of a logit, 256 per unit
ENDS = 2048  # logits from which on a distribution has ended, and length of its tables
COUNT_LIMIT = 400  # observations after which a counter adapts no slower


class Tables(NamedTuple):
    """Lookup tables of the kernels, all int32, read only.

    ``squash``: probability of a logit, 16 bits, index logit + 3071.
    ``stretch``: logit of a probability, index its upper 12 of 16 bits.
    ``rate``: adaptation rate after n observations, 16 bits.
    ``bend``: ln(1 + exp(-x)) for x >= 0, in logits as x is.
    ``rise``: -ln(1 - exp(-x)), likewise; for x = 0 that of x = 1.
    """

    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    rate: NDArray[np.int32]
    bend: NDArray[np.int32]
    rise: NDArray[np.int32]


def _decays(count: int) -> list[int]:
    """``2^31 exp(-i / 256)`` for i below ``count``, each rounded from the one before."""
    values = [1 << DECAY_BITS]
    for _ in range(count - 1):
        values.append((values[-1] * DECAY + (1 << (DECAY_BITS - 1))) >> DECAY_BITS)
    return values


def _logistic(decay: int, bits: int) -> int:
    """``2^bits / (1 + decay)``, rounded down."""
    return (1 << (DECAY_BITS + bits)) // ((1 << DECAY_BITS) + decay)


@functools.cache
def decision_tables() -> Tables:
    """The tables, made once for each process."""
    decays = _decays(16 * LOGIT_STEPS + 1)
    upper = [min(_logistic(decays[i], 16), 65535) for i in range(LOGIT_LIMIT + 1)]
    squash = [65536 - p for p in upper[:0:-1]] + upper
    stretch, logit = [], -LOGIT_LIMIT
    for index in range(4096):
        while logit < LOGIT_LIMIT and squash[logit + LOGIT_LIMIT] < 16 * index + 8:
            logit += 1
        stretch.append(logit)
    rate = [(2 << 16) // (2 * n + 3) for n in range(COUNT_LIMIT + 1)]
    bend = [_logarithm(decays, _logistic(decays[i], DECAY_BITS)) for i in range(ENDS)]
    rise = [_logarithm(decays, decays[0] - decays[max(i, 1)]) for i in range(ENDS)]
    return Tables(*(np.array(t, np.int32) for t in (squash, stretch, rate, bend, rise)))


def _logarithm(decays: list[int], value: int) -> int:
    """Largest place in the falling ``decays`` whose number is ``value`` or more."""
    return bisect_right(decays, -value, key=lambda number: -number) - 1
