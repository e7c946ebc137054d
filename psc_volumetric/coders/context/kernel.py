"""Prediction and contexts of the context coder: the loop over voxels.

Part of the format (SPEC section 15). Encoder and decoder run the same function. ``m`` is the
:class:`psc_volumetric.coders.context.coder.Model`. Arrays of neighbours' errors hold two slices,
this one and the last: ``here`` is the place of the voxel in this slice, ``there`` the same voxel
in the last.
"""

from __future__ import annotations

from psc_volumetric.coders.context.layout import (
    COEFFICIENT_BITS,
    EXPERTS,
    FLAT_NEIGHBOURS,
    FRONT,
    PAD,
)
from psc_volumetric.entropy.binary import (
    FAILED,
    compiled,
    finish,
    note,
    quotient,
    start,
)
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.entropy.decisions import COUNTERS, NODES, bit_length, code_value

__all__ = ["BIAS_CONTEXTS", "CONTEXTS", "WEIGHT_SETS", "code_segment"]

ADAPTIVE_BITS = 20
ADAPTIVE_LIMIT = 1 << 24
FAST, SLOW = 16, 21  # shifts of the two online predictors; smaller learns faster
CLAMP = 1 << 15
ERROR_LIMIT = 1 << 26
CONTEXTS = (1024, 256)  # of each counter
WEIGHT_SETS = 24
BIAS_CONTEXTS = 2048
SMALLEST_SCALE = 16


@compiled(inline="always")
def _gather(m, at, index, count):  # type: ignore[no-untyped-def]
    """Differences of ``count`` neighbours, then of the reference, from the base neighbour."""
    base = m.volume[at - 1]
    for j in range(count):
        m.differences[j] = m.volume[at + m.offsets[j]] - base
    for j in range(m.extra.shape[1]):
        m.differences[count + j] = m.extra[index, j] - (base << FRACTION)


@compiled(inline="always")
def _guess_fitted(m, base, predictors, count):  # type: ignore[no-untyped-def]
    for k in range(predictors.shape[0]):
        total = 0
        for j in range(count):
            total += predictors[k, j] * m.differences[j]
        total <<= FRACTION
        for j in range(count, predictors.shape[1]):
            total += predictors[k, j] * m.differences[j]
        m.guesses[k] = base + (total >> COEFFICIENT_BITS)


@compiled(inline="always")
def _guess_online(m, base, fitted, shift, count):  # type: ignore[no-untyped-def]
    """The two predictors that learn at every voxel; cuts differences, returns their energy."""
    fast, slow, energy = 0, 0, 0
    for j in range(count):
        part = min(max(m.differences[j] >> shift, -CLAMP), CLAMP - 1)
        m.differences[j] = part
        fast += m.fast[j] * part
        slow += m.slow[j] * part
        energy += part * part
    m.guesses[fitted] = base + ((fast << shift) >> (ADAPTIVE_BITS - FRACTION))
    m.guesses[fitted + 1] = m.guesses[0] + ((slow << shift) >> (ADAPTIVE_BITS - FRACTION))
    return energy


@compiled(inline="always")
def _guess_gradient(m, at, row, plane, is_first):  # type: ignore[no-untyped-def]
    west, north = m.volume[at - 1], m.volume[at - row]
    if is_first:
        return (west + north) << (FRACTION - 1)
    before = at - plane
    gradient = west - m.volume[before - 1] + north - m.volume[before - row]
    return (m.volume[before] << FRACTION) + (gradient << (FRACTION - 1))


@compiled(inline="always")
def _blend(m, base, here, there, row, experts):  # type: ignore[no-untyped-def]
    """Mean of the guesses, weighted by the inverse sixth power of their recent errors.

    Views begin at the first neighbour of a row, so that no index can be negative.
    """
    e, size = m.errors, EXPERTS
    now, north = e[(here - 2) * size :], e[(here - row - 2) * size :]
    far, past = e[(here - 2 * row - 1) * size :], e[(there - 1) * size :]
    above, below = e[(there - row) * size :], e[(there + row) * size :]
    for k in range(size):
        near = int(now[size + k]) + int(north[2 * size + k]) + int(past[size + k])
        around = int(now[k]) + int(north[k]) + int(north[size + k])
        around += int(north[3 * size + k]) + int(north[4 * size + k])
        around += int(far[k]) + int(far[size + k]) + int(far[2 * size + k])
        around += int(past[k]) + int(past[2 * size + k]) + int(above[k]) + int(below[k])
        m.sums[k] = 8 + 2 * near + around
    best = m.sums[0]
    for k in range(1, experts):
        best = min(best, m.sums[k])
    total, mean = 0, 0
    for k in range(experts):
        ratio = quotient(best << 10, m.sums[k])
        cube = (((ratio * ratio) >> 10) * ratio) >> 10
        weight = (cube * cube) >> 10
        total += weight
        mean += weight * (m.guesses[k] - base)
    return base + mean // total


@compiled(inline="always")
def _recent_error(m, here, there, row, is_first):  # type: ignore[no-untyped-def]
    """Mean magnitude of the final prediction's error around the voxel."""
    f = m.final
    now, north, far = f[here - 3 :], f[here - row - 2 :], f[here - 2 * row - 1 :]
    near = 2 * (abs(now[2]) + abs(north[2])) + abs(north[1])
    near += abs(north[3]) + abs(now[1]) + abs(far[1])
    rim = abs(now[0]) + abs(north[0]) + abs(north[4])
    rim += abs(far[0]) + abs(far[2]) + abs(f[here - 3 * row])
    if is_first:
        return (2 * near + rim) // 22
    past, above, below = f[there - 1 :], f[there - row - 1 :], f[there + row - 1 :]
    near += 2 * abs(past[1]) + abs(past[2]) + abs(past[0])
    near += abs(below[1]) + abs(above[1])
    rim += abs(above[0]) + abs(above[2]) + abs(below[0])
    rim += abs(below[2]) + abs(past[3]) + abs(f[there + 2 * row])
    return (2 * near + rim) // 40


@compiled(inline="always")
def _texture(m, at, row, plane, mean, is_first):  # type: ignore[no-untyped-def]
    """Which of seven neighbours exceed the prediction, one bit each."""
    v = m.volume
    bits = 1 if v[at - 1] << FRACTION > mean else 0
    bits += 2 if v[at - row] << FRACTION > mean else 0
    bits += 4 if v[at - row - 1] << FRACTION > mean else 0
    bits += 8 if v[at - row + 1] << FRACTION > mean else 0
    if not is_first:
        bits += 16 if v[at - plane] << FRACTION > mean else 0
        bits += 32 if v[at - plane + 1] << FRACTION > mean else 0
        bits += 64 if v[at - plane + row] << FRACTION > mean else 0
    return bits


@compiled(inline="always")
def _error_signs(m, here, there, row, spread):  # type: ignore[no-untyped-def]
    """Context of the signed errors to the west, to the north and in the last slice."""
    unit = max(spread, 1)
    west = min(max(4 * m.final[here - 1] // unit, -6), 6) + 6
    north = min(max(4 * m.final[here - row] // unit, -6), 6) + 6
    before = min(max(4 * m.final[there] // unit, -4), 4) + 4
    return BIAS_CONTEXTS + (west * 13 + north) * 9 + before


@compiled(inline="always")
def _bias(m, context):  # type: ignore[no-untyped-def]
    return m.bias_sum[context] // (m.bias_count[context] + 8)


@compiled(inline="always")
def _learn_bias(m, context, error):  # type: ignore[no-untyped-def]
    m.bias_sum[context] += error
    m.bias_count[context] += 1
    if m.bias_count[context] >= 256:
        m.bias_sum[context] >>= 1
        m.bias_count[context] >>= 1


@compiled(inline="always")
def _prepare(m, mean, blended, spread, level, texture, fitted):  # type: ignore[no-untyped-def]
    """Distributions and counters for the voxel's decisions."""
    scale = max((spread * 46) >> 6, SMALLEST_SCALE)
    m.scale[0] = scale
    m.means[0] = mean
    m.means[1] = m.guesses[fitted]
    m.means[2] = blended
    whole = (mean + (1 << (FRACTION - 1))) >> FRACTION
    m.slots[0] = texture * 8 + min(level >> 1, 7)
    digits = bit_length(whole)
    if digits >= 8:
        whole = 8 * (digits + 8) + ((whole << 3 >> (digits - 1)) & 7)
    m.slots[1] = CONTEXTS[0] + min(whole, 255)
    for k in range(COUNTERS):
        m.slots[k] *= NODES


@compiled(inline="always")
def _learn_online(m, exact, fitted, shift, energy, count):  # type: ignore[no-untyped-def]
    """Normalised least mean squares for both online predictors."""
    size = energy * 128 + 4096
    limit = 1 << 24
    fast = (min(max((exact - m.guesses[fitted]) >> shift, -limit), limit) << 32) // size
    slow = (min(max((exact - m.guesses[fitted + 1]) >> shift, -limit), limit) << 32) // size
    for j in range(count):
        part = m.differences[j]
        weight = m.fast[j] + ((fast * part) >> FAST)
        m.fast[j] = min(max(weight, -ADAPTIVE_LIMIT), ADAPTIVE_LIMIT)
        weight = m.slow[j] + ((slow * part) >> SLOW)
        m.slow[j] = min(max(weight, -ADAPTIVE_LIMIT), ADAPTIVE_LIMIT)


@compiled
def _begin_slice(m, z, row, plane, predictors, count):  # type: ignore[no-untyped-def]
    """Clear this slice's errors; put the last slice's first row above it."""
    origin = (z + FRONT) * plane
    half = (z & 1) * plane
    for k in range(plane):
        m.final[half + k] = 0
    for k in range(plane * EXPERTS):
        m.errors[half * EXPERTS + k] = 0
    if z:
        for k in range(PAD * row):
            m.volume[origin + k] = m.volume[origin - plane + PAD * row + k % row]
    if z < 2:
        for j in range(count):
            m.fast[j] = predictors[0, j] << (ADAPTIVE_BITS - COEFFICIENT_BITS)
            m.slow[j] = 0


@compiled
def _end_slice(m, z, ny, row, plane):  # type: ignore[no-untyped-def]
    """Repeat the last row below the slice, and the first slice before itself."""
    origin = (z + FRONT) * plane
    bottom = origin + (ny + PAD) * row
    for k in range(PAD * row):
        m.volume[bottom + k] = m.volume[bottom - row + k % row]
    if z == 0:
        for k in range(plane):
            m.volume[origin - plane + k] = m.volume[origin + k]


@compiled
def _code_row(m, z, y, nx, row, plane, top, shift, predictors, count, index):  # type: ignore[no-untyped-def]
    """Code one row; returns how many of its voxels are impossible."""
    # long: the path of one voxel through all the parts above
    line = (z + FRONT) * plane + (y + PAD) * row + PAD
    here_line = line - (z + FRONT - (z & 1)) * plane
    there_line = line - (z + FRONT - (1 - (z & 1))) * plane
    limit = top << FRACTION
    fitted = predictors.shape[0]
    experts = fitted + 3
    is_start = z + y + m.extra.shape[1] == 0
    bad = 0
    for k in range(1, PAD + 1):
        m.volume[line - k] = m.volume[line - row]
    for x in range(nx):
        at, here, there = line + x, here_line + x, there_line + x
        base = m.volume[at - 1] << FRACTION
        _gather(m, at, index + x, count)
        _guess_fitted(m, base, predictors, count)
        energy = _guess_online(m, base, fitted, shift, count)
        m.guesses[fitted + 2] = _guess_gradient(m, at, row, plane, z == 0)
        for k in range(experts):
            m.guesses[k] = min(max(base if is_start else m.guesses[k], 0), limit)
        blended = _blend(m, base, here, there, row, experts)
        spread = _recent_error(m, here, there, row, z == 0)
        level = bit_length(spread)
        texture = _texture(m, at, row, plane, blended, z == 0)
        one = texture * 16 + min(level, 15)
        two = _error_signs(m, here, there, row, spread)
        mean = blended + ((5 * (_bias(m, one) + _bias(m, two))) >> 3)
        mean = min(max(mean, 0), limit)
        _prepare(m, mean, blended, spread, level, texture, fitted)
        speed = 10 + (20 >> min((index + x) >> 13, 5))
        value = code_value(m, m.volume[at], top, min(level, WEIGHT_SETS - 1), speed)
        if value < 0 or value > top:
            bad += 1
            value = min(max(value, 0), top)
        m.volume[at] = value
        note(m, value)
        exact = value << FRACTION
        m.final[here] = exact - mean
        for k in range(experts):
            m.errors[here * EXPERTS + k] = min(abs(exact - m.guesses[k]), ERROR_LIMIT)
        _learn_bias(m, one, exact - blended)
        _learn_bias(m, two, exact - blended)
        _learn_online(m, exact, fitted, shift, energy, count)
    for k in range(PAD):
        m.volume[line + nx + k] = m.volume[line + nx - 1]
    return bad


@compiled
def code_segment(m, nz, ny, nx, top, shift):  # type: ignore[no-untyped-def]
    """Code the values of one segment in place; returns the stream's length, or -1.

    ``m.volume`` holds values 0 .. ``top`` inside the padding, or receives them. -1 means damage
    when reading, and that ``m.data`` is too small when writing.
    """
    row = nx + 2 * PAD
    plane = row * (ny + 2 * PAD)
    start(m)
    for z in range(nz):
        predictors = m.others if z else m.first
        count = m.offsets.shape[0] if z else FLAT_NEIGHBOURS
        _begin_slice(m, z, row, plane, predictors, count)
        for y in range(ny):
            index = (z * ny + y) * nx
            bad = _code_row(m, z, y, nx, row, plane, top, shift, predictors, count, index)
            if bad or m.coder[FAILED]:
                return -1
        _end_slice(m, z, ny, row, plane)
    return finish(m)
