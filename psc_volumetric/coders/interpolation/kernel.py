"""Prediction, contexts and bins of the interpolation coder: the loop over the voxels of a pass.

Part of the format (SPEC section 16). Encoder and decoder run the same function; ``m`` is the
:class:`psc_volumetric.coders.interpolation.coder.Model`. Numba checks no bounds: every index is
bounded by construction, whatever the bytes are.
"""

from __future__ import annotations

from psc_volumetric.coders.interpolation.order import COARSEST, CONTEXT_NEIGHBOURS, REACH
from psc_volumetric.entropy.binary import (
    DECODE,
    FAILED,
    bit_mixer,
    compiled,
    inlined,
    note,
    plain_bit,
)
from psc_volumetric.entropy.decisions import bit_length

__all__ = [
    "CONTEXT_SIZE",
    "COUNTERS",
    "FIRST_WEIGHT",
    "INPUTS",
    "MIXERS",
    "NODES",
    "code_coefficients",
    "code_pass",
    "gather",
    "is_inner",
]

COUNTERS = 7
INPUTS = COUNTERS + 1
CONTEXT_SIZE = 1024  # values of each context
LEVELS = 16  # of an expected magnitude
NODES = 64  # sizes, then signs, then second digits
SIGN = 32
DIGIT = 40
KINDS, TURNS = 5, 32  # of decisions; passes that follow
MIXERS = KINDS * (LEVELS + TURNS)  # one by a level, one by the pass
NO_PASS = TURNS - 1
NEAREST, ROUGH = 6, 8  # neighbours near by: their errors, their differences
FIRST_WEIGHT = 20000  # of 65536
SPEED = 24


_bit = bit_mixer(0, COUNTERS, sets=2)


@inlined
def _mixed_bit(m, bit, node, kind, level, turn):  # type: ignore[no-untyped-def]
    """Code one bit with the opinions of the counters in ``m.slots`` under two sets of weights.

    ``kind`` is that of the decision, ``level`` and ``turn`` choose the sets; all learn from it.
    """
    first = (kind * LEVELS + level) * INPUTS
    second = (KINDS * LEVELS + kind * TURNS + turn) * INPUTS
    return _bit(m, bit, node, first, second, 0, SPEED)


@inlined
def _code_bin(m, number, high, level, sign_level, turn):  # type: ignore[no-untyped-def]
    """Code a signed number whose magnitude has at most ``high`` binary digits."""
    magnitude = abs(number)
    given = bit_length(magnitude)
    size = 0
    while size < high:
        bit = 1 if given > size else 0
        if not _mixed_bit(m, bit, min(size, SIGN - 1), min(size, 2), level, turn):
            break
        size += 1
    if size == 0:
        return 0
    negative = _mixed_bit(m, 1 if number < 0 else 0, SIGN + min(size, 7), 3, sign_level, turn)
    known = 1
    for place in range(size - 2, -1, -1):
        bit = (magnitude >> place) & 1
        if place == size - 2:
            bit = _mixed_bit(m, bit, DIGIT + min(size, 23), 4, level, turn)
        else:
            bit = plain_bit(m.words, bit, 32768)
        known = 2 * known + bit
    return -known if negative else known


@compiled
def code_coefficients(m):  # type: ignore[no-untyped-def]
    """Code the coefficients of a pass in place, numbers below 2^18 in magnitude."""
    for k in range(m.coefficients.shape[0]):
        for i in range(COUNTERS):
            m.slots[i] = (i * CONTEXT_SIZE + CONTEXT_SIZE - 64 + (k >> 1)) * NODES
        number = m.coefficients[k]
        m.coefficients[k] = _code_bin(m, number, 18, LEVELS - 1, LEVELS - 1, NO_PASS)


@inlined
def _level(value):  # type: ignore[no-untyped-def]
    """0 for 0, then two levels per power of two, at most 15."""
    if value < 1:
        return 0
    digits = bit_length(value)
    return min(2 * digits - 1 + (((value << 1) >> (digits - 1)) & 1), LEVELS - 1)


@inlined
def _folded(index, count):  # type: ignore[no-untyped-def]
    """Mirror an index at the first and the last of ``count`` steps until it lies inside."""
    while index < 0 or index >= count:
        if count == 1:
            return 0
        index = -index if index < 0 else 2 * (count - 1) - index
    return index


@inlined
def _place(m, k, z, y, x):  # type: ignore[no-untyped-def]
    """Place of neighbour k of a voxel near an edge; -1 if there is none."""
    a, b, c = z + m.steps[k, 0], y + m.steps[k, 1], x + m.steps[k, 2]
    nz, ny, nx = m.extent[0], m.extent[1], m.extent[2]
    if a < 0 or b < 0 or c < 0 or a >= nz or b >= ny or c >= nx:
        if m.is_later[k]:
            return -1
        a, b, c = _folded(a, nz), _folded(b, ny), _folded(c, nx)
    return a * m.pitch[0] + b * m.pitch[1] + c * m.pitch[2]


@inlined
def gather(m, axis, z, y, x, at, is_inside):  # type: ignore[no-untyped-def]
    """Find the places of the neighbours and what differences are taken from, which is returned.

    That is the mean of the two along the axis; in the first pass the nearest one, or 0.
    """
    for k in range(m.places.shape[0]):
        m.places[k] = at + m.flat[k] if is_inside else _place(m, k, z, y, x)
    if axis != COARSEST:
        return (int(m.volume[m.places[m.pair[0]]]) + int(m.volume[m.places[m.pair[1]]])) >> 1
    for k in range(m.places.shape[0]):
        if m.places[k] >= 0:
            return int(m.volume[m.places[k]])
    return 0


@inlined
def _predict(m, base, is_inside):  # type: ignore[no-untyped-def]
    """Sum of the coefficients times the differences of the neighbours; 0 where there is none."""
    total = 0
    if is_inside:
        for k in range(m.coefficients.shape[0]):
            total += m.coefficients[k] * (int(m.volume[m.places[k]]) - base)
        return total
    for k in range(m.coefficients.shape[0]):
        if m.places[k] >= 0:
            total += m.coefficients[k] * (int(m.volume[m.places[k]]) - base)
    return total


@inlined
def _contexts(m, y, base, guess, width, turn):  # type: ignore[no-untyped-def]
    """Choose the counters of a voxel; returns the levels for the mixers.

    ``width`` is that of a bin.
    """
    away = base - guess
    near, every, rough = 0, 0, 0
    for k in range(CONTEXT_NEIGHBOURS):
        place = m.places[k]
        if place >= 0:
            size = int(m.sizes[place])
            every += size
            if k < NEAREST:
                near += size
            if k < ROUGH:
                rough += abs(int(m.volume[place]) - guess)
    a = _level((near << 5) // (NEAREST * width))
    b = _level((every << 6) // (CONTEXT_NEIGHBOURS * width))
    c = _level((rough << 1) // width)
    d = _level((abs(away) << 5) // width)
    m.slots[0] = a * LEVELS + b
    m.slots[1] = b * 32 + turn
    m.slots[2] = c * LEVELS + b
    m.slots[3] = a * LEVELS + d
    m.slots[4] = b * 32 + (32 * y) // m.extent[1]
    m.slots[5] = turn * 2 + (1 if away > 0 else 0)
    m.slots[6] = 2 * (c * LEVELS + d) + (1 if away > 0 else 0)
    for i in range(COUNTERS):
        m.slots[i] = (m.slots[i] + i * CONTEXT_SIZE) * NODES
    return b * LEVELS + d


@compiled
def code_pass(m, axis, top, cut, half, turn):  # type: ignore[no-untyped-def]
    """Code the voxels of one pass; ``m.volume`` holds earlier passes and receives this one.

    ``half`` is the largest error allowed, ``cut`` the fraction bits of the coefficients, ``turn``
    the number of passes that follow. Writing takes values from ``m.source``.
    """
    nz, ny, nx = m.extent[0], m.extent[1], m.extent[2]
    for z in range(axis == 0, nz, 1 + (axis == 0)):
        for y in range(axis == 1, ny, 1 + (axis == 1)):
            inside = is_inner(z, nz) and is_inner(y, ny)
            at = z * m.pitch[0] + y * m.pitch[1]
            for x in range(axis == 2, nx, 1 + (axis == 2)):
                place = at + x * m.pitch[2]
                is_inside = inside and is_inner(x, nx)
                base = gather(m, axis, z, y, x, place, is_inside)
                total = _predict(m, base, is_inside)
                guess = min(max(base + ((total + ((1 << cut) >> 1)) >> cut), 0), top)
                _code_voxel(m, y, place, base, guess, top, half, turn)
            if m.words.coder[FAILED]:
                return


@inlined
def is_inner(index, count):  # type: ignore[no-untyped-def]
    """Whether all neighbours along an axis lie inside."""
    return index >= REACH and index < count - REACH


@inlined
def _code_voxel(m, y, place, base, guess, top, half, turn):  # type: ignore[no-untyped-def]
    width = 2 * half + 1
    levels = _contexts(m, y, base, guess, width, turn)
    number = 0
    if not m.words.coder[DECODE]:
        error = int(m.source[place]) - guess
        number = (abs(error) + half) // width
        if error < 0:
            number = -number
    high = bit_length(top // width + 1)
    number = _code_bin(m, number, high, levels // LEVELS, levels % LEVELS, turn)
    value = min(max(guess + number * width, 0), top)
    m.volume[place] = value
    m.sizes[place] = min(abs(number) * width, 0x7FFFFFFF)
    note(m.words, value)
