"""What a number of steps costs where it stands: its own bits, and those of its neighbours.

Encoder only. The coder expects a magnitude of every coefficient from those before it.
What a magnitude costs where so much is expected is counted in the brick itself. A number that
changes moves what is expected of up to twenty others, so it is charged for their bits, too: a
single 1 among zeros costs about a bit more than its own. Small shares of the expectation (below a
hundredth) are left out.
"""

from __future__ import annotations

import math

from psc_volumetric.entropy.binary import compiled, inlined, inner
from psc_volumetric.entropy.decisions import bit_length
from psc_volumetric.methods.wavelet.kernel import (
    BEFORE,
    BEFORE_CROSS,
    BITS,
    FAR_BEFORE,
    FAR_WEST,
    LEAST,
    NORTH,
    NORTH_EAST,
    PARENT,
    WEST,
)

__all__ = ["COLOURS", "LEVELS", "PRICED", "choose", "count_prices", "expect"]

COLOURS = 8  # of coefficients, strewn: those of one colour are chosen together
LEVELS = 96  # of what is expected, four an octave
PRICED = 4  # prices of a level: of 0, of 1, of 2, of one more
LOUDEST = 255  # steps of a magnitude that move what is expected
SIGN = 0.85  # bits
BELIEF = 8.0  # numbers that a guess of a level's prices counts for
RAREST, RAREST_MORE = 1e-4, 1e-5


@inlined
def _level(expected):  # type: ignore[no-untyped-def]
    digits = bit_length(expected)
    return min(4 * digits + ((expected >> max(digits - 3, 0)) & 3), LEVELS - 1)


@inlined
def _bits(m, level, size):  # type: ignore[no-untyped-def]
    if size < PRICED - 1:
        return m.prices[level, size]
    return m.prices[level, 2] + m.prices[level, 3] * (size - 2)


@inner
def _neighbour(m, z, y, x, move, stays):  # type: ignore[no-untyped-def]
    """Bits that a coefficient costs more where ``move`` more is expected; moved if it stays."""
    expected = m.expected[z, y, x]
    if stays:
        m.expected[z, y, x] = expected + move
        return 0.0
    before, after = _level(expected), _level(expected + move)
    if before == after:
        return 0.0
    size = abs(int(m.steps[z, y, x]))
    return _bits(m, after, size) - _bits(m, before, size)


@inner
def _others(m, band, z, y, x, change, stays):  # type: ignore[no-untyped-def]
    """Bits that all others cost more where one magnitude is so much larger; moved if it stays."""
    z1, y0, y1, x0, x1 = m.boxes[band, 1:]
    bits = 0.0
    if x + 1 < x1:
        bits += _neighbour(m, z, y, x + 1, WEST * change, stays)
    if x + 2 < x1:
        bits += _neighbour(m, z, y, x + 2, FAR_WEST * change, stays)
    if y + 1 < y1:
        bits += _neighbour(m, z, y + 1, x, NORTH * change, stays)
        if x > x0:
            bits += _neighbour(m, z, y + 1, x - 1, NORTH_EAST * change, stays)
    if z + 1 < z1:
        bits += _neighbour(m, z + 1, y, x, BEFORE * change, stays)
        if z + 2 < z1:
            bits += _neighbour(m, z + 2, y, x, FAR_BEFORE * change, stays)
        if y > y0:
            bits += _neighbour(m, z + 1, y - 1, x, BEFORE_CROSS * change, stays)
        if y + 1 < y1:
            bits += _neighbour(m, z + 1, y + 1, x, BEFORE_CROSS * change, stays)
        if x > x0:
            bits += _neighbour(m, z + 1, y, x - 1, BEFORE_CROSS * change, stays)
        if x + 1 < x1:
            bits += _neighbour(m, z + 1, y, x + 1, BEFORE_CROSS * change, stays)
    finer = m.children[band]
    if finer >= 0:
        y_halved, x_halved = m.halved[finer, 0], m.halved[finer, 1]
        first, left = (
            m.boxes[finer, 2] + ((y - y0) << y_halved),
            m.boxes[finer, 4] + ((x - x0) << x_halved),
        )
        for b in range(first, min(first + 1 + y_halved, m.boxes[finer, 3])):
            for c in range(left, min(left + 1 + x_halved, m.boxes[finer, 5])):
                bits += _neighbour(m, z, b, c, PARENT * change, stays)
    for k in range(2):
        later = m.later[band, k]
        if later >= 0:
            b, c = m.boxes[later, 2] + y - y0, m.boxes[later, 4] + x - x0
            if b < m.boxes[later, 3] and c < m.boxes[later, 5]:
                bits += _neighbour(m, z, b, c, m.shares[band, k] * change, stays)
    return bits


@compiled
def expect(m):  # type: ignore[no-untyped-def]
    """Find what is expected of every coefficient."""
    for z in range(m.expected.shape[0]):
        for y in range(m.expected.shape[1]):
            for x in range(m.expected.shape[2]):
                m.expected[z, y, x] = LEAST
    for band in range(len(m.boxes)):
        z0, z1, y0, y1, x0, x1 = m.boxes[band]
        for z in range(z0, z1):
            for y in range(y0, y1):
                for x in range(x0, x1):
                    size = abs(int(m.steps[z, y, x]))
                    if size:
                        _others(m, band, z, y, x, min(size, LOUDEST), True)


@compiled
def count_prices(m, counts):  # type: ignore[no-untyped-def]
    """Prices from how often magnitudes are where so much is expected; ``counts`` begin as 0."""
    for z in range(m.steps.shape[0]):
        for y in range(m.steps.shape[1]):
            for x in range(m.steps.shape[2]):
                level, size = _level(m.expected[z, y, x]), abs(int(m.steps[z, y, x]))
                counts[level, min(size, 2)] += 1
                counts[level, 3] += max(size - 2, 0)
    for level in range(LEVELS):
        expected = (4.5 + (level & 3)) * 2.0 ** ((level >> 2) - 3 - BITS)
        more = expected / (1 + expected)  # as a first guess, whatever the size is already
        zero, one, two, rest = counts[level]
        zero = (zero + BELIEF * (1 - more)) / (zero + one + two + BELIEF)
        last = (one + BELIEF * more * (1 - more)) / (one + two + BELIEF * more)
        beyond = (rest + BELIEF * more**3) / (rest + two + BELIEF * more**2 * (1 + more))
        zero = min(max(zero, RAREST_MORE), 1 - RAREST_MORE)
        last = min(max(last, RAREST), 1 - RAREST)
        beyond = min(max(beyond, RAREST), 1 - RAREST_MORE)
        above = SIGN - math.log2(1 - zero)
        m.prices[level, 0] = -math.log2(zero)
        m.prices[level, 1] = above - math.log2(last)
        m.prices[level, 2] = above - math.log2(1 - last) - math.log2(1 - beyond)
        m.prices[level, 3] = -math.log2(beyond)


@inlined
def _chosen(m, band, z, y, x, aim, price):  # type: ignore[no-untyped-def]
    """The number of steps for a coefficient that had best be at ``aim``, by error and bits."""
    number, level = int(m.steps[z, y, x]), _level(m.expected[z, y, x])
    size, nearest = abs(number), int(abs(aim) + 0.5)
    heard = min(size, LOUDEST)
    least, chosen = aim * aim + price * m.prices[level, 0], 0
    if size:
        least += price * _others(m, band, z, y, x, -heard, False)
    for other in (nearest - 1, nearest):
        if other > 0:
            cost = (abs(aim) - other) ** 2 + price * _bits(m, level, other)
            change = min(other, LOUDEST) - heard
            if change and cost < least + price:
                cost += price * _others(m, band, z, y, x, change, False)
            if cost < least:
                least, chosen = cost, other
    return chosen if aim > 0 else -chosen


@compiled
def choose(m, away, changes, colour, coarsest, price):  # type: ignore[no-untyped-def]
    """Choose numbers of steps anew; what they grow by is added to ``changes``.

    ``away`` is how far from its number each coefficient had best be. Only those of one colour, of
    bands with at most ``coarsest`` splits, are chosen; of all where the colour is negative.
    """
    for band in range(len(m.boxes)):
        if m.scales[band] > coarsest:
            continue
        z0, z1, y0, y1, x0, x1 = m.boxes[band]
        for z in range(z0, z1):
            for y in range(y0, y1):
                for x in range(x0, x1):
                    strewn = ((z * 73856093) ^ (y * 19349663) ^ (x * 83492791)) >> 4
                    if colour >= 0 and (strewn & (COLOURS - 1)) != colour:
                        continue
                    number = int(m.steps[z, y, x])
                    aim = number + float(away[z, y, x])
                    if number == 0 and abs(aim) < 0.5:
                        continue
                    chosen = _chosen(m, band, z, y, x, aim, price)
                    if chosen != number:
                        change = min(abs(chosen), LOUDEST) - min(abs(number), LOUDEST)
                        if change:
                            _others(m, band, z, y, x, change, True)
                        m.steps[z, y, x] = chosen
                        changes[z, y, x] += chosen - number
