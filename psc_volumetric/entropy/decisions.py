"""A value as binary decisions of the context coder. Part of the format (SPEC section 15.9).

A value is an offset from the rounded prediction: first the number of digits of its magnitude,
then its sign, then the digits below the first. Each of three distributions says how likely the
values on either side of a decision are. What is known of them stays in local variables: machine
code keeps those in registers, which arrays that might overlap cannot be.
"""

from __future__ import annotations

import numpy as np

from psc_volumetric.entropy.binary import (
    DECODE,
    LEARNING_SHIFT,
    PROBABILITY_MARGIN,
    WEIGHT_LIMIT,
    compiled,
    inlined,
    plain_bit,
    plain_bits,
    quotient,
)
from psc_volumetric.entropy.binary_tables import CDF_HALF, COUNT_LIMIT, FRACTION, LOGIT_LIMIT

__all__ = ["INPUTS", "NODES", "bit_length", "code_value"]

INPUTS = 6  # three distributions, two counters, a constant

HALF = 1 << (FRACTION - 1)
SIZE_DOWN = 40  # nodes: sizes asked upwards from 1, downwards from 41, signs, second digits
SIGN = 80
DIGIT = 88
NODES = 104
STEEPEST = 320  # largest logit of a third digit; far from the mean the tails are flatter
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
def _below(m, offset, down, inverse, distance):  # type: ignore[no-untyped-def]
    """30-bit probability that a distribution lies below ``distance`` from the centre."""
    moved = min(max((distance + offset) >> down, -FARTHEST), FARTHEST)
    place = min(max(((moved * inverse) >> 23) + CDF_HALF, 0), 2 * CDF_HALF)
    return int(m.cdf[np.uint64(place)])


@inlined
def _logit(m, part, whole):  # type: ignore[no-untyped-def]
    return int(m.stretch[np.uint64(quotient((part + 1) << 12, whole + 2))])


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
def _modelled_bit(m, bit, node, slots, mixer, speed, x0, x1, x2):  # type: ignore[no-untyped-def]
    """Code one bit by what the distributions say, and teach those who had an opinion."""
    a, b = slots[0] + node, slots[1] + node
    x3 = int(m.stretch[np.uint64(m.counters[np.uint64(a)] >> 19)])
    x4 = int(m.stretch[np.uint64(m.counters[np.uint64(b)] >> 19)])
    w, at = m.weights, mixer * INPUTS
    total = w[np.uint64(at)] * x0 + w[np.uint64(at + 1)] * x1 + w[np.uint64(at + 2)] * x2
    total += w[np.uint64(at + 3)] * x3 + w[np.uint64(at + 4)] * x4 + w[np.uint64(at + 5)] * 256
    logit = min(max(total >> 16, -LOGIT_LIMIT), LOGIT_LIMIT) + LOGIT_LIMIT
    p = int(m.squash[np.uint64(logit)])
    p = min(max(p, PROBABILITY_MARGIN), 65536 - PROBABILITY_MARGIN)
    bit = plain_bit(m, bit, p)
    error = ((bit << 16) - p) * speed
    _weighed(m, at, error, x0)
    _weighed(m, at + 1, error, x1)
    _weighed(m, at + 2, error, x2)
    _weighed(m, at + 3, error, x3)
    _weighed(m, at + 4, error, x4)
    _weighed(m, at + 5, error, 256)
    _counted(m, a, bit)
    _counted(m, b, bit)
    return bit


@compiled
def _code_low_digits(m, known, magnitude, rest):  # type: ignore[no-untyped-def]
    """Digits that nothing is known about, eight at a time."""
    while rest > 0:
        count = min(rest, 8)
        rest -= count
        part = (magnitude >> rest) & ((1 << count) - 1)
        known = (known << count) + plain_bits(m, part, count)
    return known


@inlined
def code_value(m, value, least, most, means, scale, slots, group, speed):  # type: ignore[no-untyped-def]
    """Code one value of ``least`` .. ``most``; returns it.

    ``means`` are the centres of the distributions, ``slots`` where the counters of both contexts
    begin. When reading damaged bytes the result may lie outside.
    """
    # long: what is known of the distributions stays in local variables
    base = min(max((means[0] + HALF) >> FRACTION, least), most)
    centre = base << FRACTION
    down = max(bit_length(scale) - 14, 0)
    inverse = quotient(1 << 30, scale >> down)
    o0, o1, o2 = centre - means[0], centre - means[1], centre - means[2]
    first, end = (least << FRACTION) - HALF - centre, (most << FRACTION) + HALF - centre
    a0, d0 = _below(m, o0, down, inverse, first), _below(m, o0, down, inverse, end)
    a1, d1 = _below(m, o1, down, inverse, first), _below(m, o1, down, inverse, end)
    a2, d2 = _below(m, o2, down, inverse, first), _below(m, o2, down, inverse, end)
    b0 = b1 = b2 = c0 = c1 = c2 = 0  # a, b: left of the decision; c, d: right of it
    magnitude = 0 if m.coder[DECODE] else abs(value - base)
    size = bit_length(magnitude)
    low, high = 0, bit_length(max(base - least, most - base))
    probe = min(max(bit_length(scale >> FRACTION), 1), high)
    nodes = 0
    while low < high:
        edge = ((1 << probe) >> 1 << FRACTION) - HALF
        l0 = max(_below(m, o0, down, inverse, -edge), a0)
        r0 = min(_below(m, o0, down, inverse, edge), d0)
        l1 = max(_below(m, o1, down, inverse, -edge), a1)
        r1 = min(_below(m, o1, down, inverse, edge), d1)
        l2 = max(_below(m, o2, down, inverse, -edge), a2)
        r2 = min(_below(m, o2, down, inverse, edge), d2)
        x0 = _logit(m, d0 - a0 - r0 + l0, d0 - a0 - c0 + b0)
        x1 = _logit(m, d1 - a1 - r1 + l1, d1 - a1 - c1 + b1)
        x2 = _logit(m, d2 - a2 - r2 + l2, d2 - a2 - c2 + b2)
        bit = 1 if size >= probe else 0
        mixer = 3 * group + min(probe - 1, 1)
        if _modelled_bit(m, bit, nodes + probe, slots, mixer, speed, x0, x1, x2):
            low = probe
            probe += 1
            b0, c0, b1, c1, b2, c2 = l0, r0, l1, r1, l2, r2
        else:
            high = probe - 1
            probe -= 1
            if low < high:
                nodes = SIZE_DOWN
            a0, d0, a1, d1, a2, d2 = l0, r0, l1, r1, l2, r2
    size = low
    if size == 0:
        return base
    mixer = 3 * group + 2
    smallest = (1 << size) >> 1
    sign = 1 if value > base else 0
    if base + smallest > most:
        sign = 0
    elif base - smallest < least:
        sign = 1
    else:
        x0 = _logit(m, d0 - c0, d0 - c0 + b0 - a0)
        x1 = _logit(m, d1 - c1, d1 - c1 + b1 - a1)
        x2 = _logit(m, d2 - c2, d2 - c2 + b2 - a2)
        sign = _modelled_bit(m, sign, SIGN + min(size, 7), slots, mixer, speed, x0, x1, x2)
    side = 2 * sign - 1  # products with signs and bits are no branches: nobody can foresee those
    if size < 2:
        return base + side
    n0, f0 = b0 + sign * (c0 - b0), a0 + sign * (d0 - a0)
    n1, f1 = b1 + sign * (c1 - b1), a1 + sign * (d1 - a1)
    n2, f2 = b2 + sign * (c2 - b2), a2 + sign * (d2 - a2)
    edge = side * ((3 << (size - 2) << FRACTION) - HALF)
    m0 = min(max(_below(m, o0, down, inverse, edge), min(n0, f0)), max(n0, f0))
    m1 = min(max(_below(m, o1, down, inverse, edge), min(n1, f1)), max(n1, f1))
    m2 = min(max(_below(m, o2, down, inverse, edge), min(n2, f2)), max(n2, f2))
    x0 = _logit(m, abs(f0 - m0), abs(f0 - n0))
    x1 = _logit(m, abs(f1 - m1), abs(f1 - n1))
    x2 = _logit(m, abs(f2 - m2), abs(f2 - n2))
    bit = (magnitude >> (size - 2)) & 1
    bit = _modelled_bit(m, bit, DIGIT + min(size, 15), slots, mixer, speed, x0, x1, x2)
    known = 2 + bit
    if size > 2:
        n0 += bit * (m0 - n0)
        f0 += (1 - bit) * (m0 - f0)
        edge = ((2 * known + 1) << (size - 3) << FRACTION) - HALF
        m0 = _below(m, o0, down, inverse, side * edge)
        m0 = min(max(m0, min(n0, f0)), max(n0, f0))
        logit = min(max(_logit(m, abs(f0 - m0), abs(f0 - n0)), -STEEPEST), STEEPEST)
        p = int(m.squash[np.uint64(logit + LOGIT_LIMIT)])
        known = 2 * known + plain_bit(m, (magnitude >> (size - 3)) & 1, p)
        known = _code_low_digits(m, known, magnitude, size - 3)
    return base + side * known
