"""Contexts and decisions of the wavelet coder: the loop over coefficients.

Part of the format (SPEC sections 17 and 17.7). Encoder and decoder run the same function; ``m`` is
the :class:`psc_volumetric.methods.wavelet.coder.Model`. Numba checks no bounds: every index is
bounded by construction, whatever the bytes are.
"""

from __future__ import annotations

from psc_volumetric.entropy.binary import (
    CONSTANT_INPUT,
    FAILED,
    bit_mixer,
    compiled,
    inlined,
    note,
    plain_bit,
    quotient,
)
from psc_volumetric.entropy.decisions import bit_length

__all__ = [
    "CONTEXT_VALUES",
    "COUNTERS",
    "FIRST_WEIGHTS",
    "INPUTS",
    "LARGEST",
    "MIXERS",
    "NODES",
    "PARTS",
    "SIGN_INPUTS",
    "SIGN_SETS",
    "choose_counters",
    "code_band",
    "expected_magnitude",
    "first_sign_weights",
    "hear_signs",
    "level_of",
    "sign_set",
]

COUNTERS = 6
INPUTS = 1 + COUNTERS + 1  # what is expected, counters, a constant
FIRST_WEIGHTS = (45875, *(6554,) * COUNTERS, 0)  # of 65536
LEVELS = 32  # of a magnitude
MOST_BANDS = 256  # that are told apart
# the contexts one after the other: by level, by magnitudes of neighbours, by what is expected from
# other bands, by band and level, by what is expected from farther neighbours, by kind and level
SMALL, OTHER, BAND = LEVELS, LEVELS + 5**4, LEVELS + 5**4 + LEVELS**2
FARTHER = BAND + MOST_BANDS * LEVELS
KIND = FARTHER + LEVELS**2
CONTEXT_VALUES = KIND + 4 * LEVELS
UNARY = 12  # magnitudes below are counted step by step
NODES = 40  # steps, then digits of what is left
MIXERS = 4 * LEVELS
LARGEST = 1 << 26
MOST_DIGITS = 27
SPEED = 40
BITS = 12  # fraction bits of an expected magnitude
PARTS = 5  # of what is around: see `expected_magnitude`
# shares of the neighbours' magnitudes in the one expected, 12 fraction bits
WEST, FAR_WEST, NORTH, NORTH_WEST, NORTH_EAST = 1293, 180, 547, 6, 33
BEFORE, FAR_BEFORE, BEFORE_CROSS = 1285, 355, 23
PARENT, PARENT_CROSS, SIBLING, SIBLING_CROSS = 261, 8, 621, 36
LEAST = 44
# signs: their neighbours speak for themselves, each set of bands has weights that learn
SIGN_INPUTS = 12
SIGN_SETS = 24  # three scales, halves of z, kinds
SIGN_SPEED = 100
LOUDEST = 2  # steps of a neighbour that count
FIRST_SIGN_WEIGHT = 19661  # of the three nearest, in magnitude: 0.3
SIGN_WEIGHTS = MIXERS * INPUTS  # where they begin


@inlined
def _size(m, z, y, x):  # type: ignore[no-untyped-def]
    return abs(int(m.steps[z, y, x]))


@inlined
def _cross(m, box, z, y, x):  # type: ignore[no-untyped-def]
    """Summed magnitudes of the four neighbours in the plane that lie in a box."""
    total = 0
    if y > box[2]:
        total += _size(m, z, y - 1, x)
    if y + 1 < box[3]:
        total += _size(m, z, y + 1, x)
    if x > box[4]:
        total += _size(m, z, y, x - 1)
    if x + 1 < box[5]:
        total += _size(m, z, y, x + 1)
    return total


@inlined
def _around(m, box, z, y, x):  # type: ignore[no-untyped-def]
    """Summed magnitudes of the six neighbours that lie in a box."""
    total = _cross(m, box, z, y, x)
    if z > box[0]:
        total += _size(m, z - 1, y, x)
    if z + 1 < box[1]:
        total += _size(m, z + 1, y, x)
    return total


@inlined
def expected_magnitude(m, band, z, y, x):  # type: ignore[no-untyped-def]
    """Magnitude expected of a coefficient, 12 fraction bits, from those already known.

    ``m.parts`` receives the magnitudes to the west, to the north, in the plane before and of the
    parent, then what is expected from the parent, from the siblings and from farther neighbours.
    """
    box = m.boxes[band]
    west, far_west, north, diagonal, before, far_before, cross = 0, 0, 0, 0, 0, 0, 0
    if x > box[4]:
        west = _size(m, z, y, x - 1)
        if x > box[4] + 1:
            far_west = _size(m, z, y, x - 2)
    if y > box[2]:
        north = _size(m, z, y - 1, x)
        if x > box[4]:
            diagonal += NORTH_WEST * _size(m, z, y - 1, x - 1)
        if x + 1 < box[5]:
            diagonal += NORTH_EAST * _size(m, z, y - 1, x + 1)
    if z > box[0]:
        before = _size(m, z - 1, y, x)
        cross = _cross(m, box, z - 1, y, x)
        if z > box[0] + 1:
            far_before = _size(m, z - 2, y, x)
    parent, from_parent, from_siblings = 0, 0, 0
    other = m.parents[band]
    if other >= 0:
        base = m.boxes[other]
        b = min(base[2] + ((y - box[2]) >> m.halved[band, 0]), base[3] - 1)
        c = min(base[4] + ((x - box[4]) >> m.halved[band, 1]), base[5] - 1)
        parent = _size(m, z, b, c)
        from_parent = PARENT * parent + PARENT_CROSS * _around(m, base, z, b, c)
    for k in range(2):
        other = m.siblings[band, k]
        if other >= 0:
            base = m.boxes[other]
            b = min(base[2] + y - box[2], base[3] - 1)
            c = min(base[4] + x - box[4], base[5] - 1)
            from_siblings += SIBLING * _size(m, z, b, c)
            from_siblings += SIBLING_CROSS * _around(m, base, z, b, c)
    if m.siblings[band, 1] >= 0:
        from_siblings >>= 1
    farther = FAR_WEST * far_west + diagonal + FAR_BEFORE * far_before + BEFORE_CROSS * cross
    m.parts[0] = min(west, 4) * 125 + min(north, 4) * 25 + min(before, 4) * 5 + min(parent, 4)
    m.parts[1] = from_parent
    m.parts[2] = from_siblings
    m.parts[3] = farther
    near = WEST * west + NORTH * north + BEFORE * before
    return near + farther + from_parent + from_siblings + LEAST


@inlined
def level_of(value):  # type: ignore[no-untyped-def]
    """Two levels per octave of a magnitude with 12 fraction bits: 0 below 2^-9, 31 from 2^6."""
    if value < 8:
        return 0
    digits = bit_length(value)
    return min(2 * digits - 7 + ((value >> (digits - 2)) & 1), LEVELS - 1)


@inlined
def choose_counters(m, band, expected):  # type: ignore[no-untyped-def]
    """Choose the counters of a coefficient; returns the level for the mixers."""
    level = level_of(expected)
    m.slots[0] = level
    m.slots[1] = SMALL + m.parts[0]
    m.slots[2] = OTHER + level_of(m.parts[1]) * LEVELS + level_of(m.parts[2])
    m.slots[3] = BAND + min(band, MOST_BANDS - 1) * LEVELS + level
    m.slots[4] = FARTHER + level_of(m.parts[3]) * LEVELS + level
    m.slots[5] = KIND + m.kinds[band] * LEVELS + level
    for i in range(COUNTERS):
        m.slots[i] *= NODES
    return level


_mixed_bit = bit_mixer(1, COUNTERS, fresh=True)
_sign_bit = bit_mixer(SIGN_INPUTS, 0)


def sign_set(kind: int, y_splits: int, *, z_high: bool) -> int:
    """Set of weights for the signs of a band."""
    return 8 * min(max(y_splits, 1) - 1, 2) + 4 * int(z_high) + kind


def first_sign_weights(number: int) -> list[int]:
    """Weights of a set before anything was coded, with that of the constant, which is not used.

    What is low along an axis has like signs along it, what is high has changing ones.
    """
    kind, z_high = number % 4, number // 4 % 2
    weights = [0] * (SIGN_INPUTS + 1)
    weights[0] = FIRST_SIGN_WEIGHT if kind in (0, 1) else -FIRST_SIGN_WEIGHT
    weights[2] = FIRST_SIGN_WEIGHT if kind in (0, 2) else -FIRST_SIGN_WEIGHT
    weights[6] = -FIRST_SIGN_WEIGHT if z_high else FIRST_SIGN_WEIGHT
    return weights


@inlined
def _modelled_bit(m, bit, node, mixer, share):  # type: ignore[no-untyped-def]
    """Code one bit; ``share`` is its probability, 16 bits, as far as the neighbours tell.

    A counter that was never asked begins there.
    """
    m.inputs[0] = m.stretch[share >> 4]
    return _mixed_bit(m, bit, node, mixer * INPUTS, 0, share, SPEED)


@inlined
def _voice(m, box, z, y, x):  # type: ignore[no-untyped-def]
    """What a neighbour in a box says of the sign, as a logit; 0 outside."""
    if z < box[0] or y < box[2] or x < box[4] or x >= box[5] or y >= box[3]:
        return 0
    return CONSTANT_INPUT * min(max(int(m.steps[z, y, x]), -LOUDEST), LOUDEST)


@inlined
def hear_signs(m, band, z, y, x):  # type: ignore[no-untyped-def]
    """Put what the twelve neighbours say of a sign into ``m.inputs``."""
    box = m.boxes[band]
    m.inputs[0] = _voice(m, box, z, y, x - 1)
    m.inputs[1] = _voice(m, box, z, y, x - 2)
    m.inputs[2] = _voice(m, box, z, y - 1, x)
    m.inputs[3] = _voice(m, box, z, y - 2, x)
    m.inputs[4] = _voice(m, box, z, y - 1, x - 1)
    m.inputs[5] = _voice(m, box, z, y - 1, x + 1)
    m.inputs[6] = _voice(m, box, z - 1, y, x)
    m.inputs[7] = _voice(m, box, z - 2, y, x)
    m.inputs[8] = _voice(m, box, z - 1, y, x - 1)
    m.inputs[9] = _voice(m, box, z - 1, y, x + 1)
    m.inputs[10] = _voice(m, box, z - 1, y - 1, x)
    m.inputs[11] = _voice(m, box, z - 1, y + 1, x)


@inlined
def _code_sign(m, is_positive, band, z, y, x):  # type: ignore[no-untyped-def]
    hear_signs(m, band, z, y, x)
    m.inputs[SIGN_INPUTS] = 0
    first = SIGN_WEIGHTS + m.signs[band] * (SIGN_INPUTS + 1)
    bit = _sign_bit(m, is_positive, 0, first, 0, 32768, SIGN_SPEED)
    m.inputs[INPUTS - 1] = CONSTANT_INPUT
    return bit


@inlined
def _code_steps(m, number, band, expected, z, y, x):  # type: ignore[no-untyped-def]
    """Code a signed number of steps, at most ``LARGEST`` in magnitude."""
    level = choose_counters(m, band, expected)
    capped = min(expected, 1 << 36)
    share = min(max(quotient(capped << 16, capped + (1 << BITS)), 16), 65520)
    given = abs(number)
    size = 0
    while size < UNARY:
        bit = 1 if given > size else 0
        if not _modelled_bit(m, bit, size, min(size, 2) * LEVELS + level, share):
            break
        size += 1
    if size == UNARY:
        rest = given - UNARY + 1
        wanted = bit_length(rest)
        digits = 1
        while digits < MOST_DIGITS:
            bit = 1 if wanted > digits else 0
            if not _modelled_bit(m, bit, UNARY + digits - 1, 3 * LEVELS + level, 32768):
                break
            digits += 1
        known = 1
        for place in range(digits - 2, -1, -1):
            known = 2 * known + plain_bit(m.words, (rest >> place) & 1, 32768)
        size = known + UNARY - 1
    if size == 0:
        return 0
    return size if _code_sign(m, 1 if number > 0 else 0, band, z, y, x) else -size


@compiled
def code_band(m, band):  # type: ignore[no-untyped-def]
    """Code the numbers of steps of one band in place."""
    z0, z1, y0, y1, x0, x1 = m.boxes[band]
    for z in range(z0, z1):
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected = expected_magnitude(m, band, z, y, x)
                number = _code_steps(m, int(m.steps[z, y, x]), band, expected, z, y, x)
                if abs(number) > LARGEST:
                    m.words.coder[FAILED] = 1
                    number = 0
                m.steps[z, y, x] = number
                note(m.words, number)
            if m.words.coder[FAILED]:
                return
