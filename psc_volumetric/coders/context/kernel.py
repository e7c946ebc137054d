"""Prediction and contexts of the context coder: the loop over voxels.

Part of the format (SPEC section 15). Encoder and decoder run the same function. ``m`` is the
:class:`psc_volumetric.coders.context.coder.Model`. Arrays of neighbours' errors hold two slices,
this one and the last: ``here`` is the place of the voxel in this slice, ``there`` the same voxel
in the last.

Loops are written for a compiler that makes vectors of them: sums run over whole vectors, with
zeros behind the last neighbour, and places are numbers without sign, which need no check for
negative ones.
"""

from __future__ import annotations

import numpy as np

from psc_volumetric.coders.context.guesses import (
    ADAPTIVE_BITS,
    CLAMP,
    gather,
    guess_fitted,
    guess_gradient,
    guess_online,
)
from psc_volumetric.coders.context.layout import (
    COEFFICIENT_BITS,
    EXPERTS,
    FAST_AT,
    FLAT_LANES,
    FLAT_NEIGHBOURS,
    FRONT,
    GIVEN_LANES,
    LANES,
    LIGHT_FLAT,
    LIGHT_FLAT_LANES,
    LIGHT_LANES,
    PAD,
    PREDICTORS_AT,
    ROOM,
)
from psc_volumetric.coders.context.learning import learn_online
from psc_volumetric.coders.context.network import INPUTS, foresee, look
from psc_volumetric.entropy.binary import (
    FAILED,
    compiled,
    finish,
    floor_quotient,
    inlined,
    inner,
    note,
    quotient,
    start,
)
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.entropy.decisions import NODES, code_value, digits_of

__all__ = ["BIAS_CONTEXTS", "CONTEXTS", "WEIGHT_SETS", "code_segment"]

ERROR_LIMIT = 1 << 26
CONTEXTS = (1024, 256)  # of each counter
WEIGHT_SETS = 24
BIAS_CONTEXTS = 2048
SMALLEST_SCALE = 16
LARGEST = np.int32((1 << 31) - 1)


@inlined
def _blend(m, base, here, there, row, experts):  # type: ignore[no-untyped-def]
    """Mean of the guesses, weighted by the inverse sixth power of their recent errors."""
    e, size = m.errors, EXPERTS
    now, north, far = here * size, (here - row) * size, (here - 2 * row) * size
    past, above, below = there * size, (there - row) * size, (there + row) * size
    for k in range(EXPERTS):
        near = e[np.uint64(now - size + k)] + e[np.uint64(north + k)] + e[np.uint64(past + k)]
        around = e[np.uint64(now - 2 * size + k)] + e[np.uint64(far + k)]
        around += e[np.uint64(north - 2 * size + k)] + e[np.uint64(north - size + k)]
        around += e[np.uint64(north + size + k)] + e[np.uint64(north + 2 * size + k)]
        around += e[np.uint64(far - size + k)] + e[np.uint64(far + size + k)]
        around += e[np.uint64(past - size + k)] + e[np.uint64(past + size + k)]
        around += e[np.uint64(above + k)] + e[np.uint64(below + k)]
        m.sums[np.uint64(k)] = np.int32(8 + 2 * near + around) if k < experts else LARGEST
    best = m.sums[0]
    for k in range(1, EXPERTS):
        best = min(best, m.sums[np.uint64(k)])
    total, mean = 0, 0
    for k in range(EXPERTS):
        ratio = quotient(int(best) << 10, m.sums[np.uint64(k)])
        cube = (((ratio * ratio) >> 10) * ratio) >> 10
        weight = (cube * cube) >> 10 if k < experts else 0
        total += weight
        mean += weight * (m.guesses[np.uint64(k)] - base)
    return base + floor_quotient(mean, total)


@inlined
def _error_at(m, at):  # type: ignore[no-untyped-def]
    return abs(int(m.final[np.uint64(at)]))


@inlined
def _recent_error(m, here, there, row, is_first):  # type: ignore[no-untyped-def]
    """Mean magnitude of the final prediction's error around the voxel."""
    near = 2 * (_error_at(m, here - 1) + _error_at(m, here - row)) + _error_at(m, here - row - 1)
    near += _error_at(m, here - row + 1) + _error_at(m, here - 2) + _error_at(m, here - 2 * row)
    rim = _error_at(m, here - 3) + _error_at(m, here - row - 2) + _error_at(m, here - row + 2)
    rim += _error_at(m, here - 2 * row - 1) + _error_at(m, here - 2 * row + 1)
    rim += _error_at(m, here - 3 * row)
    if is_first:
        return (2 * near + rim) // 22
    near += 2 * _error_at(m, there) + _error_at(m, there + 1) + _error_at(m, there - 1)
    near += _error_at(m, there + row) + _error_at(m, there - row)
    rim += _error_at(m, there - row - 1) + _error_at(m, there - row + 1)
    rim += _error_at(m, there + row - 1) + _error_at(m, there + row + 1)
    rim += _error_at(m, there + 2) + _error_at(m, there + 2 * row)
    return (2 * near + rim) // 40


@inlined
def _texture(m, at, row, plane, mean, is_first):  # type: ignore[no-untyped-def]
    """Which of seven neighbours exceed the prediction, one bit each."""
    v = m.volume
    bits = 1 if v[np.uint64(at - 1)] << FRACTION > mean else 0
    bits += 2 if v[np.uint64(at - row)] << FRACTION > mean else 0
    bits += 4 if v[np.uint64(at - row - 1)] << FRACTION > mean else 0
    bits += 8 if v[np.uint64(at - row + 1)] << FRACTION > mean else 0
    if not is_first:
        bits += 16 if v[np.uint64(at - plane)] << FRACTION > mean else 0
        bits += 32 if v[np.uint64(at - plane + 1)] << FRACTION > mean else 0
        bits += 64 if v[np.uint64(at - plane + row)] << FRACTION > mean else 0
    return bits


@inlined
def _error_signs(m, here, there, row, spread):  # type: ignore[no-untyped-def]
    """Context of the signed errors to the west, to the north and in the last slice."""
    unit, f = max(spread, 1), m.final
    west = min(max(floor_quotient(4 * int(f[np.uint64(here - 1)]), unit), -6), 6) + 6
    north = min(max(floor_quotient(4 * int(f[np.uint64(here - row)]), unit), -6), 6) + 6
    before = min(max(floor_quotient(4 * int(f[np.uint64(there)]), unit), -4), 4) + 4
    return BIAS_CONTEXTS + (west * 13 + north) * 9 + before


@inlined
def _bias(m, context):  # type: ignore[no-untyped-def]
    place = np.uint64(context)
    return floor_quotient(m.bias_sum[place], m.bias_count[place] + 8)


@inlined
def _learn_bias(m, context, error):  # type: ignore[no-untyped-def]
    place = np.uint64(context)
    m.bias_sum[place] += error
    m.bias_count[place] += 1
    if m.bias_count[place] >= 256:
        m.bias_sum[place] >>= 1
        m.bias_count[place] >>= 1


@inlined
def _slots(mean, level, texture):  # type: ignore[no-untyped-def]
    """Where the counters begin in both contexts of the voxel's decisions."""
    whole = (mean + (1 << (FRACTION - 1))) >> FRACTION
    digits = digits_of(whole)
    if digits >= 8:
        whole = 8 * (digits + 8) + ((whole << 3 >> (digits - 1)) & 7)
    first = texture * 8 + min(level >> 1, 7)
    return first * NODES, (CONTEXTS[0] + min(whole, 255)) * NODES


@inlined
def _keep_seen(m, place, mean, scale, cell):  # type: ignore[no-untyped-def]
    """Note what a network would be told, for training."""
    for j in range(INPUTS):
        m.network.seen[np.uint64(place), np.uint64(j)] = m.network.inputs[np.uint64(j)]
    facts = m.network.facts
    facts[np.uint64(place), 1], facts[np.uint64(place), 2] = mean, scale
    facts[np.uint64(place), 3], facts[np.uint64(place), 4] = cell


@inner
def _begin_slice(m, z, origin, row, plane, predictors, count):  # type: ignore[no-untyped-def]
    """Clear this slice's errors; put the last slice's first row above it; place predictors."""
    half = (z & 1) * plane
    m.final[half : half + plane] = 0
    m.errors[half * EXPERTS : (half + plane) * EXPERTS] = 0
    if z:
        for k in range(PAD * row):
            m.volume[origin + k] = m.volume[origin - plane + PAD * row + k % row]
    if z < 2:
        m.work[:] = 0
        for k in range(predictors.shape[0]):
            for j in range(predictors.shape[1]):
                place = j if j < count else LANES + j - count
                m.work[PREDICTORS_AT + k * ROOM + place] = predictors[k, j]
        for j in range(ROOM):
            first = m.work[PREDICTORS_AT + j]
            m.work[FAST_AT + j] = first << (ADAPTIVE_BITS - COEFFICIENT_BITS)


@inner
def _end_slice(m, z, origin, ny, row, plane):  # type: ignore[no-untyped-def]
    """Repeat the last row below the slice, and the first slice before itself."""
    bottom = origin + (ny + PAD) * row
    for k in range(PAD * row):
        m.volume[bottom + k] = m.volume[bottom - row + k % row]
    if z == 0:
        for k in range(plane):
            m.volume[origin - plane + k] = m.volume[origin + k]


@inner
def _is_small(m, sets, top):  # type: ignore[no-untyped-def]
    """Whether sums of fitted predictors fit into 32 bits."""
    largest = 0
    for k in range(sets):
        total = 0
        for j in range(LANES):
            total += abs(m.work[PREDICTORS_AT + k * ROOM + j])
        largest = max(largest, total)
    return largest * top < 1 << 31


@inner(inline="always")
def _code_row(m, z, y, nx, row, plane, top, shift, fitted, count, line, index, first, is_light):  # type: ignore[no-untyped-def]
    """Code one row: at ``line`` of the window, ``index`` voxels in it, ``first`` before it."""
    # long: the path of one voxel through all the parts above
    place = (y + PAD) * row + PAD
    here_line = (z & 1) * plane + place
    there_line = (1 - (z & 1)) * plane + place
    limit = top << FRACTION
    lanes = FLAT_LANES if z == 0 else LANES
    if is_light:
        lanes = LIGHT_FLAT_LANES if z == 0 else LIGHT_LANES
    given = GIVEN_LANES if m.places.shape[0] else 0
    is_wide = shift > 0 or top >= CLAMP
    is_small = _is_small(m, fitted, top)
    online = 0 if is_light else 2
    experts = fitted + online + 1
    is_start = z + y + given == 0
    energy = 0
    for k in range(1, PAD + 1):
        m.volume[line - k] = m.volume[line - row]
    for x in range(nx):
        at, here, there = line + x, here_line + x, there_line + x
        base = int(m.volume[np.uint64(at - 1)]) << FRACTION
        gather(m, at, count)
        guess_fitted(m, base, fitted, lanes, given, is_small)
        if not is_light:
            energy = guess_online(m, base, fitted, shift, is_wide, lanes, given)
        m.guesses[fitted + online] = guess_gradient(m, at, row, plane, z == 0)
        for k in range(EXPERTS):
            guess = base if is_start else m.guesses[np.uint64(k)]
            m.guesses[np.uint64(k)] = min(max(guess, 0), limit)
        blended = _blend(m, base, here, there, row, experts)
        spread = _recent_error(m, here, there, row, z == 0)
        level = digits_of(spread)
        texture = _texture(m, at, row, plane, blended, z == 0)
        one = texture * 16 + min(level, 15)
        two = _error_signs(m, here, there, row, spread)
        mean = blended + ((5 * (_bias(m, one) + _bias(m, two))) >> 3)
        mean = min(max(mean, 0), limit)
        centre, width = mean, max((spread * 46) >> 6, SMALLEST_SCALE)
        rough, cell = level, (0, top)
        if m.least.shape[0]:
            cell = m.least[np.uint64(index + x)], m.most[np.uint64(index + x)]
        least, most = cell
        if m.network.inputs.shape[0] and spread and least < most:
            look(m, at, here, there, row, plane, mean, blended, width, level, cell, fitted, z == 0)
            if m.network.seen.shape[0]:
                _keep_seen(m, index + x, mean, width, cell)
            if m.network.weights.shape[0]:
                centre, width = foresee(m, mean, width, limit)
                rough = digits_of((width * 89) >> 6)
        means = centre, m.guesses[fitted], blended
        slots = _slots(centre, level, texture)
        voxel = slots[0], slots[1], 10 + (20 >> min((first + index + x) >> 13, 5))
        group = min(rough, WEIGHT_SETS - 1)
        value = least
        if least < most:
            known = int(m.volume[np.uint64(at)])
            value = code_value(m, known, least, most, means, width, voxel, group, is_light)
        m.volume[np.uint64(at)] = value
        note(m.words, value)
        exact = value << FRACTION
        if m.network.seen.shape[0]:
            m.network.facts[np.uint64(index + x), 0] = value
        m.final[np.uint64(here)] = exact - mean
        for k in range(EXPERTS):
            error = min(abs(exact - m.guesses[np.uint64(k)]), ERROR_LIMIT)
            m.errors[np.uint64(here * EXPERTS + k)] = error if k < experts else 0
        _learn_bias(m, one, exact - blended)
        _learn_bias(m, two, exact - blended)
        if not is_light:
            learn_online(m, exact, fitted, shift, energy, lanes, given)
    for k in range(PAD):
        m.volume[line + nx + k] = m.volume[line + nx - 1]


@compiled
def code_segment(m, begin, end, nz, ny, nx, top, shift, is_light):  # type: ignore[no-untyped-def]
    """Code slices ``begin`` .. ``end`` - 1 of a segment of ``nz`` in place, after those before.

    What is known after a slice lies in ``m`` alone, so that the rest may be coded by a later call.
    Its arrays of voxels are windows that begin ``FRONT`` slices before ``begin``, cells at it.
    ``m.volume`` holds values 0 .. ``top`` inside the padding, or receives them. Returns 0; after
    the last slice the stream's length; -1 for damage when reading, and if ``m.words.data`` is too
    small when writing.
    """
    row = nx + 2 * PAD
    plane = row * (ny + 2 * PAD)
    flat = LIGHT_FLAT if is_light else FLAT_NEIGHBOURS
    if begin == 0:
        start(m.words)
    for z in range(begin, end):
        predictors = m.others if z else m.first
        count = m.offsets.shape[0] if z else flat
        origin = (z - begin + FRONT) * plane
        _begin_slice(m, z, origin, row, plane, predictors, count)
        for y in range(ny):
            index = ((z - begin) * ny + y) * nx
            first = begin * ny * nx
            line = origin + (y + PAD) * row + PAD
            fitted = predictors.shape[0]
            _code_row(
                m, z, y, nx, row, plane, top, shift, fitted, count, line, index, first, is_light
            )
            if m.words.coder[FAILED]:
                return -1
        _end_slice(m, z, origin, ny, row, plane)
    return finish(m.words) if end == nz else 0
