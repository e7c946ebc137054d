"""How the online predictors of the context coder learn. Part of the format (SPEC section 15)."""

from __future__ import annotations

import numpy as np

from psc_volumetric.coders.context.layout import FAST_AT, LANES, SLOW_AT
from psc_volumetric.entropy.binary import floor_quotient, inlined

__all__ = ["learn_online"]

FAST, SLOW = 12, 17  # shifts of the two online predictors; smaller learns faster
LIMIT = 1 << 24
SMALL_LIMIT, SMALL_SQUARE = np.int32(LIMIT), 2.0**61


@inlined
def _learn_lanes(w, fast, slow, begin, end):  # type: ignore[no-untyped-def]
    for j in range(begin, end):
        part = w[np.uint64(j)]
        weight = w[np.uint64(FAST_AT + j)] + ((fast * part) >> FAST)
        w[np.uint64(FAST_AT + j)] = min(max(weight, -LIMIT), LIMIT)
        weight = w[np.uint64(SLOW_AT + j)] + ((slow * part) >> SLOW)
        w[np.uint64(SLOW_AT + j)] = min(max(weight, -LIMIT), LIMIT)


@inlined
def _learn_small(w, fast, slow, begin, end):  # type: ignore[no-untyped-def]
    """The same where products of differences fit into 32 bits: vectors of twice as many."""
    quick, calm = np.int32(fast), np.int32(slow)
    for j in range(begin, end):
        part = np.int32(w[np.uint64(j)])
        step = np.int32(np.int32(quick * part) >> FAST)
        weight = np.int32(np.int32(w[np.uint64(FAST_AT + j)]) + step)
        w[np.uint64(FAST_AT + j)] = min(max(weight, -SMALL_LIMIT), SMALL_LIMIT)
        step = np.int32(np.int32(calm * part) >> SLOW)
        weight = np.int32(np.int32(w[np.uint64(SLOW_AT + j)]) + step)
        w[np.uint64(SLOW_AT + j)] = min(max(weight, -SMALL_LIMIT), SMALL_LIMIT)


@inlined
def learn_online(m, exact, fitted, shift, energy, lanes, given):  # type: ignore[no-untyped-def]
    """Normalised least mean squares for both online predictors."""
    size = energy * 128 + 4096
    limit = 1 << 24
    off = min(max((exact - m.guesses[fitted]) >> shift, -limit), limit)
    fast = floor_quotient(off << 28, size)
    off = min(max((exact - m.guesses[fitted + 1]) >> shift, -limit), limit)
    slow = floor_quotient(off << 28, size)
    largest = float(max(abs(fast), abs(slow)))
    if largest * largest * energy < SMALL_SQUARE:  # no difference is above the root of the energy
        _learn_small(m.work, fast, slow, 0, lanes)
        _learn_small(m.work, fast, slow, LANES, LANES + given)
    else:
        _learn_lanes(m.work, fast, slow, 0, lanes)
        _learn_lanes(m.work, fast, slow, LANES, LANES + given)
