"""Integer tables of mixing and of decisions. Part of the format (SPEC section 15.3).

Made by exact rules: everything follows from powers of one rounded constant, so that any language
gives the same integers; nothing here is a float.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRACTION", "Tables", "decision_tables"]

FRACTION = 8  # bits of a prediction
DECAY_BITS = 31
DECAY = 2139111403  # round(2^31 exp(-1 / 256))
LOGIT_STEPS = 256  # logit units per unit of natural logarithm
LOGIT_LIMIT = 3071  # largest magnitude of a logit, 256 per unit
CDF_HALF = 2048  # the table spans 16 scale units on either side
CDF_BITS = 30
COUNT_LIMIT = 400  # observations after which a counter adapts no slower


class Tables(NamedTuple):
    """Lookup tables of the kernels, all int32, read only.

    ``squash``: probability of a logit, 16 bits, index logit + 3071.
    ``stretch``: logit of a probability, index its upper 12 of 16 bits.
    ``cdf``: logistic distribution, 30 bits, index 128 x + 2048.
    ``rate``: adaptation rate after n observations, 16 bits.
    """

    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    cdf: NDArray[np.int32]
    rate: NDArray[np.int32]


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
    high = [_logistic(decays[2 * i], CDF_BITS) for i in range(CDF_HALF + 1)]
    cdf = [(1 << CDF_BITS) - p for p in high[:0:-1]] + high
    rate = [(2 << 16) // (2 * n + 3) for n in range(COUNT_LIMIT + 1)]
    return Tables(*(np.array(t, np.int32) for t in (squash, stretch, cdf, rate)))
