"""Decisions and the mixing of their probabilities, for every coder of decisions.

Part of the format (SPEC sections 15.4 and 15.5). Writing and reading are one code path, as in
`entropy.range_coder`. The functions count no references, all memory is the caller's; the small ones
are compiled into their caller, which doubles the speed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from psc_volumetric.entropy.binary_tables import COUNT_LIMIT, LOGIT_LIMIT
from psc_volumetric.entropy.range_coder import (
    DECODE,
    FAILED,
    LOW,
    STATE_SIZE,
    Words,
    compiled,
    end,
    inlined,
    inner,
    plain_bits,
    scale_of,
    start,
    take,
)

__all__ = [
    "CONSTANT_INPUT",
    "DECODE",
    "FAILED",
    "NEW_COUNTER",
    "STATE_SIZE",
    "Words",
    "bit_mixer",
    "compiled",
    "finish",
    "floor_quotient",
    "inlined",
    "inner",
    "note",
    "plain_bit",
    "plain_bits",
    "quotient",
    "start",
]

CONSTANT_INPUT = 256
NEW_COUNTER = 1 << 30  # probability one half in 22 bits, then a count of nine
PROBABILITY_MARGIN = 8  # of 65536
LEARNING_SHIFT = 20
WEIGHT_LIMIT = 1 << 20


@inner(inline="always")
def quotient(a, b):  # type: ignore[no-untyped-def]
    """``a // b`` for 0 <= a < 2^53 and b > 0, through double precision, which is faster.

    IEEE division rounds once, and a / b reaches the next integer only where a >= 2^53.
    """
    return int(a / b)


@inner(inline="always")
def floor_quotient(a, b):  # type: ignore[no-untyped-def]
    """``a // b`` for |a| < 2^53 and b > 0; exact as `quotient` is."""
    return math.floor(a / b)


@inner(inline="always")
def plain_bit(w, bit, probability):  # type: ignore[no-untyped-def]
    """Code one bit that is 1 with ``probability`` / 65536, 1 .. 65535."""
    scale = scale_of(w, 16)
    zero = scale * np.uint64(65536 - probability)
    one = scale * np.uint64(probability)
    if w.coder[DECODE]:
        low = np.uint64(w.coder[LOW])
        bit = np.int64(low >= zero)
        w.coder[FAILED] |= np.int64(low >= zero + one)
    chosen = np.uint64(bit)  # no branch: nobody can foresee it
    take(w, zero * chosen, zero + chosen * (one - zero))
    return bit


@inlined
def _teach_weight(m, at, step):  # type: ignore[no-untyped-def]
    m.weights[at] = min(max(m.weights[at] + step, -WEIGHT_LIMIT), WEIGHT_LIMIT)


@inlined
def _teach_counters(m, bit, node, counters):  # type: ignore[no-untyped-def]
    """Move the counters of a decision, one in each context, towards the bit."""
    target = bit * 0x3FFFFF
    for i in range(counters):
        state = int(m.counters[m.slots[i] + node])
        count = state & 511
        probability = state >> 9
        probability += ((target - probability) * int(m.rate[count])) >> 16
        m.counters[m.slots[i] + node] = (probability << 9) | min(count + 1, COUNT_LIMIT)


def bit_mixer(given: int, counters: int, *, sets: int = 1, fresh: bool = False) -> Any:
    """Make the function that codes one bit with several opinions and teaches those who gave them.

    The opinions are logits: ``given`` of them stand in ``m.inputs`` already, then come those of
    counters, then a constant.

    Parameters
    ----------
    given : int
        Opinions that the caller puts into ``m.inputs``.
    counters : int
        Contexts; the counters of each begin at ``m.slots``.
    sets : int
        1, or 2 where the weights are the mean of two sets.
    fresh : bool
        Whether a counter that was never asked, which is 0, begins at what the caller says.

    Returns
    -------
    compiled function
        ``(m, bit, node, first, second, share, speed) -> bit``: ``node`` is the decision inside
        each context, ``first`` and ``second`` are the places of the weights, ``share`` is the
        16-bit probability at which fresh counters begin, ``speed`` the rate at which weights learn.
    """
    inputs, shift = given + counters + 1, 15 + sets

    @inlined
    def mixed_bit(m, bit, node, first, second, share, speed):  # type: ignore[no-untyped-def]
        for i in range(counters):
            at = m.slots[i] + node
            if fresh and m.counters[at] == 0:
                m.counters[at] = share << 15
            m.inputs[given + i] = m.stretch[m.counters[at] >> 19]
        total = 0
        for i in range(inputs):
            weight = int(m.weights[first + i])
            if sets == 2:
                weight += int(m.weights[second + i])
            total += weight * m.inputs[i]
        p = int(m.squash[min(max(total >> shift, -LOGIT_LIMIT), LOGIT_LIMIT) + LOGIT_LIMIT])
        p = min(max(p, PROBABILITY_MARGIN), 65536 - PROBABILITY_MARGIN)
        bit = plain_bit(m.words, bit, p)
        error = ((bit << 16) - p) * speed
        for i in range(inputs):
            step = (m.inputs[i] * error + (1 << (LEARNING_SHIFT - 1))) >> LEARNING_SHIFT
            _teach_weight(m, first + i, step)
            if sets == 2:
                _teach_weight(m, second + i, step)
        _teach_counters(m, bit, node, counters)
        return bit

    return mixed_bit


@inner(inline="always")
def note(w, value):  # type: ignore[no-untyped-def]
    """Add a value to the check that ends a stream."""
    w.check[0] = (w.check[0] * 40503 + value + 1) & 0xFFFF


@compiled
def finish(w):  # type: ignore[no-untyped-def]
    """End a stream with the 16 bits of its check; its length, or -1 if damaged or too long."""
    given = w.check[0]
    if plain_bits(w, given, 16) != given:
        w.coder[FAILED] = 1
    return end(w)
