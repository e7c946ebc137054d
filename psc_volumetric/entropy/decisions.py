"""A value as binary decisions of the residual coder. Part of the format (SPEC section 15.9).

A value is an offset from the rounded prediction: first the number of digits of its magnitude,
then its sign, then the digits below the first. Each distribution says how likely the values on
either side of a decision are.
"""

from __future__ import annotations

from psc_volumetric.entropy.binary import (
    DECODE,
    bit_mixer,
    compiled,
    plain_bit,
    plain_bits,
    quotient,
)
from psc_volumetric.entropy.binary_tables import CDF_HALF, FRACTION, LOGIT_LIMIT

__all__ = ["COUNTERS", "DISTRIBUTIONS", "INPUTS", "NODES", "bit_length", "code_value"]

DISTRIBUTIONS = 3
COUNTERS = 2
INPUTS = DISTRIBUTIONS + COUNTERS + 1

HALF = 1 << (FRACTION - 1)
SIZE_DOWN = 40  # nodes: sizes asked upwards from 1, downwards from 41, signs, second digits
SIGN = 80
DIGIT = 88
NODES = 104
STEEPEST = 320  # largest logit of a third digit; far from the mean the tails are flatter
FARTHEST = 1 << 20


@compiled(inline="always")
def bit_length(value):  # type: ignore[no-untyped-def]
    """Number of binary digits of a non-negative integer below 2^62."""
    count = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value >> step:
            value >>= step
            count += step
    return count + value


@compiled(inline="always")
def _below(m, k, distance):  # type: ignore[no-untyped-def]
    """30-bit probability that distribution k lies below ``distance`` from the centre."""
    moved = min(max((distance + m.offset[k]) >> m.scale[1], -FARTHEST), FARTHEST)
    return int(m.cdf[min(max(((moved * m.scale[2]) >> 23) + CDF_HALF, 0), 2 * CDF_HALF)])


@compiled(inline="always")
def _logit(m, part, whole):  # type: ignore[no-untyped-def]
    return int(m.stretch[quotient((part + 1) << 12, whole + 2)])


_mixed_bit = bit_mixer(DISTRIBUTIONS, COUNTERS)


@compiled(inline="always")
def _modelled_bit(m, bit, node, mixer, speed):  # type: ignore[no-untyped-def]
    """Code one bit; ``m.inputs`` begins with what the distributions say."""
    return _mixed_bit(m, bit, node, mixer * INPUTS, 0, 0, speed)


@compiled(inline="always")
def _centre(m, centre, last):  # type: ignore[no-untyped-def]
    """Place the distributions around ``centre`` and cut them to the values 0 .. ``last``."""
    m.scale[1] = max(bit_length(m.scale[0]) - 14, 0)
    m.scale[2] = quotient(1 << 30, m.scale[0] >> m.scale[1])
    for k in range(DISTRIBUTIONS):
        m.offset[k] = centre - m.means[k]
        m.outer_left[k] = _below(m, k, -centre - HALF)
        m.outer_right[k] = _below(m, k, last + HALF - centre)
        m.inner_left[k] = 0
        m.inner_right[k] = 0


@compiled(inline="always")
def _code_size(m, size, high, group, speed):  # type: ignore[no-untyped-def]
    """Number of digits of the magnitude, 0 .. ``high``, asked from the expected one onwards."""
    low = 0
    probe = min(max(bit_length(m.scale[0] >> FRACTION), 1), high)
    nodes = 0
    while low < high:
        edge = ((1 << probe) >> 1 << FRACTION) - HALF
        for k in range(DISTRIBUTIONS):
            m.left[k] = max(_below(m, k, -edge), m.outer_left[k])
            m.right[k] = min(_below(m, k, edge), m.outer_right[k])
            whole = m.outer_right[k] - m.outer_left[k]
            m.inputs[k] = _logit(
                m,
                whole - m.right[k] + m.left[k],
                whole - m.inner_right[k] + m.inner_left[k],
            )
        bit = 1 if size >= probe else 0
        bit = _modelled_bit(m, bit, nodes + probe, 3 * group + min(probe - 1, 1), speed)
        if bit:
            low = probe
            probe += 1
            for k in range(DISTRIBUTIONS):
                m.inner_left[k], m.inner_right[k] = m.left[k], m.right[k]
        else:
            high = probe - 1
            probe -= 1
            if low < high:
                nodes = SIZE_DOWN
            for k in range(DISTRIBUTIONS):
                m.outer_left[k], m.outer_right[k] = m.left[k], m.right[k]
    return low


@compiled(inline="always")
def _code_sign(m, sign, size, group, speed):  # type: ignore[no-untyped-def]
    for k in range(DISTRIBUTIONS):
        up = m.outer_right[k] - m.inner_right[k]
        down = m.inner_left[k] - m.outer_left[k]
        m.inputs[k] = _logit(m, up, up + down)
    return _modelled_bit(m, sign, SIGN + min(size, 7), 3 * group + 2, speed)


@compiled(inline="always")
def _code_digits(m, magnitude, size, sign, group, speed):  # type: ignore[no-untyped-def]
    """Digits of the magnitude below the first, from the upper down; returns the magnitude."""
    if size < 2:
        return size
    side = 2 * sign - 1  # products with signs and bits are no branches: nobody can foresee those
    edge = (3 << (size - 2) << FRACTION) - HALF
    for k in range(DISTRIBUTIONS):
        near = m.inner_left[k] + sign * (m.inner_right[k] - m.inner_left[k])
        far = m.outer_left[k] + sign * (m.outer_right[k] - m.outer_left[k])
        middle = _below(m, k, side * edge)
        m.left[k] = min(max(middle, min(near, far)), max(near, far))
        m.inputs[k] = _logit(m, abs(far - m.left[k]), abs(far - near))
    bit = (magnitude >> (size - 2)) & 1
    bit = _modelled_bit(m, bit, DIGIT + min(size, 15), 3 * group + 2, speed)
    known = 2 + bit
    if size < 3:
        return known
    near = m.inner_left[0] + sign * (m.inner_right[0] - m.inner_left[0])
    far = m.outer_left[0] + sign * (m.outer_right[0] - m.outer_left[0])
    near += bit * (m.left[0] - near)
    far += (1 - bit) * (m.left[0] - far)
    edge = ((2 * known + 1) << (size - 3) << FRACTION) - HALF
    middle = _below(m, 0, side * edge)
    middle = min(max(middle, min(near, far)), max(near, far))
    logit = _logit(m, abs(far - middle), abs(far - near))
    p = int(m.squash[min(max(logit, -STEEPEST), STEEPEST) + LOGIT_LIMIT])
    known = 2 * known + plain_bit(m, (magnitude >> (size - 3)) & 1, p)
    rest = size - 3
    while rest > 0:
        count = min(rest, 8)
        rest -= count
        part = (magnitude >> rest) & ((1 << count) - 1)
        known = (known << count) + plain_bits(m, part, count)
    return known


@compiled(inline="always")
def code_value(m, value, top, group, speed):  # type: ignore[no-untyped-def]
    """Code one value of 0 .. ``top`` around ``m.means``; returns it.

    When reading damaged bytes the result may lie outside 0 .. ``top``.
    """
    base = min(max((m.means[0] + HALF) >> FRACTION, 0), top)
    _centre(m, base << FRACTION, top << FRACTION)
    magnitude = 0 if m.coder[DECODE] else abs(value - base)
    size = _code_size(m, bit_length(magnitude), bit_length(max(base, top - base)), group, speed)
    if size == 0:
        return base
    smallest = (1 << size) >> 1
    sign = 1 if value > base else 0
    if base + smallest > top:
        sign = 0
    elif base - smallest < 0:
        sign = 1
    else:
        sign = _code_sign(m, sign, size, group, speed)
    magnitude = _code_digits(m, magnitude, size, sign, group, speed)
    return base + (2 * sign - 1) * magnitude
