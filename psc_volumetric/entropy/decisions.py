"""A value as binary decisions of the context coder. Part of the format (SPEC section 15.9).

A value is looked for between two edges: first on which side of the prediction it lies, then how
far out, then where between the last two edges. Each of three distributions says how likely it lies
above an edge. They are logistic, and have one width, so that this takes no division, and one table
entry for each edge and distribution. What is known of the last two edges stays in local variables:
machine code keeps those in registers, which arrays that might overlap cannot be.
"""

from __future__ import annotations

import numpy as np

from psc_volumetric.entropy.binary import (
    LEARNING_SHIFT,
    PROBABILITY_MARGIN,
    WEIGHT_LIMIT,
    inlined,
    inner,
    plain_bit,
    plain_bits,
    quotient,
)
from psc_volumetric.entropy.binary_tables import COUNT_LIMIT, ENDS, FRACTION, LOGIT_LIMIT

__all__ = ["INPUTS", "NODES", "bit_length", "code_value", "digits_of"]

INPUTS = 6  # three distributions, two counters, a constant

HALF = 1 << (FRACTION - 1)
WIDTH = 18  # sixteenths of the scale; the first edges outwards are about so far away
# Nodes: the side, steps outwards on either, and the first half of what is left, each by digits.
MOST_DIGITS = 15
STEPS, HALVES, NODES = 16, 80, 112
STEEPEST = 1400  # largest logit of a half that only one distribution speaks of
FARTHEST = 1 << 20


@inlined
def bit_length(value):  # type: ignore[no-untyped-def]
    """Number of binary digits of a non-negative integer below 2^62."""
    count = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value >> step:
            value >>= step
            count += step
    return count + value


@inlined
def digits_of(value):  # type: ignore[no-untyped-def]
    """Number of binary digits of a non-negative integer below 2^53: the exponent of a double."""
    return max((np.float64(value).view(np.int64) >> 52) - 1022, 0)


@inlined
def _distance(distance, down, inverse):  # type: ignore[no-untyped-def]
    """A distance in logits of the distributions' width."""
    return (min(max(distance >> down, -FARTHEST), FARTHEST) * inverse) >> 22


@inlined
def _bend(m, x):  # type: ignore[no-untyped-def]
    """ln(1 + exp(x)), in logits as x is."""
    return max(x, 0) + int(m.bend[np.uint64(min(abs(x), ENDS - 1))])


@inlined
def _edge(m, value, view):  # type: ignore[no-untyped-def]
    """The edge below a value: its place, and what the distributions say of it."""
    centre, second, third, down, inverse, is_light = view
    x = _distance((value << FRACTION) - centre, down, inverse)
    bend = _bend(m, x)
    if is_light:
        return x, bend, 0, 0
    return x, bend, _bend(m, x + second), _bend(m, x + third)


@inlined
def _shared(m, low, edge, high):  # type: ignore[no-untyped-def]
    """What the logits of an edge between two others have in common."""
    below = int(m.rise[np.uint64(min(edge - low, ENDS - 1))])
    above = int(m.rise[np.uint64(min(high - edge, ENDS - 1))])
    return high - edge + below - above


@inlined
def _logit(shared, low, high):  # type: ignore[no-untyped-def]
    return min(max(shared + low - high, -LOGIT_LIMIT), LOGIT_LIMIT)


@inlined
def _weighed(m, at, error, opinion):  # type: ignore[no-untyped-def]
    """Move the weight of an opinion by what it had to do with an error."""
    step = (opinion * error + (1 << (LEARNING_SHIFT - 1))) >> LEARNING_SHIFT
    place = np.uint64(at)
    m.weights[place] = min(max(m.weights[place] + step, -WEIGHT_LIMIT), WEIGHT_LIMIT)


@inlined
def _counted(m, at, bit):  # type: ignore[no-untyped-def]
    """Move a counter towards the bit."""
    place = np.uint64(at)
    state = int(m.counters[place])
    count, probability = state & 511, state >> 9
    probability += ((bit * 0x3FFFFF - probability) * int(m.rate[np.uint64(count)])) >> 16
    m.counters[place] = (probability << 9) | min(count + 1, COUNT_LIMIT)


@inlined
def _decision(m, bit, ends, node, mixer, voxel, is_light):  # type: ignore[no-untyped-def]
    """Code whether a value lies above an edge, and teach those who had an opinion."""
    low, edge, high = ends
    one, two, speed = voxel
    a, b = one + node, two + node
    shared = _shared(m, low[0], edge[0], high[0])
    x0 = _logit(shared, low[1], high[1])
    x3 = int(m.stretch[np.uint64(m.counters[np.uint64(a)] >> 19)])
    x4 = int(m.stretch[np.uint64(m.counters[np.uint64(b)] >> 19)])
    x1, x2 = 0, 0
    w, at = m.weights, mixer * INPUTS
    total = w[np.uint64(at)] * x0 + w[np.uint64(at + 3)] * x3 + w[np.uint64(at + 4)] * x4
    total += w[np.uint64(at + 5)] * 256
    if not is_light:
        x1, x2 = _logit(shared, low[2], high[2]), _logit(shared, low[3], high[3])
        total += w[np.uint64(at + 1)] * x1 + w[np.uint64(at + 2)] * x2
    logit = min(max(total >> 16, -LOGIT_LIMIT), LOGIT_LIMIT) + LOGIT_LIMIT
    p = int(m.squash[np.uint64(logit)])
    p = min(max(p, PROBABILITY_MARGIN), 65536 - PROBABILITY_MARGIN)
    bit = plain_bit(m.words, bit, p)
    error = ((bit << 16) - p) * speed
    _weighed(m, at, error, x0)
    _weighed(m, at + 3, error, x3)
    _weighed(m, at + 4, error, x4)
    _weighed(m, at + 5, error, 256)
    if not is_light:
        _weighed(m, at + 1, error, x1)
        _weighed(m, at + 2, error, x2)
    _counted(m, a, bit)
    _counted(m, b, bit)
    return bit


@inner
def _code_even(w, rest, digits):  # type: ignore[no-untyped-def]
    """A number of so many digits that nothing is known about, eight at a time."""
    known = 0
    while digits > 0:
        count = min(digits, 8)
        digits -= count
        part = (rest >> digits) & ((1 << count) - 1)
        known = (known << count) + plain_bits(w, part, count)
    return known


@inner(inline="always")
def code_value(m, value, least, most, means, scale, voxel, group, is_light):  # type: ignore[no-untyped-def]
    """Code one value of ``least`` .. ``most``, of which there are two or more; returns it.

    ``means`` are the centres of the distributions, ``scale`` is their width, ``voxel`` says where
    the counters of both contexts begin and how fast weights learn.
    """
    # long: what is known of the last two edges stays in local variables
    down = max(digits_of(scale) - 14, 0)
    inverse = quotient(1 << 30, scale >> down)
    second = _distance(means[0] - means[1], down, inverse)
    third = _distance(means[0] - means[2], down, inverse)
    view = means[0] + HALF, second, third, down, inverse, is_light
    low, high = _edge(m, least, view), _edge(m, most + 1, view)
    width, digits = digits_of((scale * WIDTH) >> (FRACTION + 4)), digits_of(most - least)
    side, mixer = 1, 3 * group
    if digits > width:
        centre = min(max((means[0] >> FRACTION) + 1, least + 1), most)
        edge = _edge(m, centre, view)
        bit = 1 if value >= centre else 0
        node = min(width, MOST_DIGITS)
        side = _decision(m, bit, (low, edge, high), node, mixer, voxel, is_light)
        if side:
            low, least = edge, centre
        else:
            high, most = edge, centre - 1
        step, at = 0, centre + ((2 * side - 1) << width)
        while least < at <= most:
            edge = _edge(m, at, view)
            bit = 1 if value >= at else 0
            node = STEPS + 32 * side + 2 * min(width + step, MOST_DIGITS) + min(step, 1)
            bit = _decision(m, bit, (low, edge, high), node, mixer + 1, voxel, is_light)
            if bit:
                low, least = edge, at
            else:
                high, most = edge, at - 1
            if bit != side:
                break
            step += 1
            at = centre + ((2 * side - 1) << (width + step))
        digits = width + max(step - 1, 0)
    node, halves = HALVES + 16 * side + min(digits, MOST_DIGITS), 0
    while least < most:
        if halves > 1 and most - least + 1 == 1 << digits:
            return least + _code_even(m.words, value - least, digits)
        digits -= 1
        at = least + (1 << digits) if side else most + 1 - (1 << digits)
        if least < at <= most:
            edge = _edge(m, at, view)
            bit = 1 if value >= at else 0
            if halves == 0 and not is_light:
                bit = _decision(m, bit, (low, edge, high), node, mixer + 2, voxel, is_light)
            else:
                shared = _shared(m, low[0], edge[0], high[0])
                logit = min(max(_logit(shared, low[1], high[1]), -STEEPEST), STEEPEST)
                bit = plain_bit(m.words, bit, int(m.squash[np.uint64(logit + LOGIT_LIMIT)]))
            if bit:
                low, least = edge, at
            else:
                high, most = edge, at - 1
            halves += 1
    return least
