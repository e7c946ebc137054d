"""Prediction, binarisation and contexts of the residual coder: the loop over voxels.

Part of the format (SPEC section 15). Encoder and decoder run the same function.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psc_volumetric.coding.residual_coder import FAILED, INPUTS, STATE_SIZE, finish, start
from psc_volumetric.coding.residual_values import FRACTION, NODES, bit_length, code_value

__all__ = ["COEFFICIENT_BITS", "FRONT", "MAX_SETS", "NEIGHBOURS", "PAD", "code_segment"]

# (dz, dy, dx) of the causal neighbours, the base of all differences first
NEIGHBOURS = np.array(
    [
        (0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, 0, -2), (0, -2, 0),
        (0, -1, -2), (0, -1, 2), (0, -2, -1), (0, -2, 1), (0, 0, -3), (0, -3, 0),
        (-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-1, -1, -1),
        (-1, -1, 1), (-1, 1, -1), (-1, 1, 1), (-1, 0, 2), (-1, 2, 0), (-2, 0, 0),
    ],
    np.int64,
)  # fmt: skip
PAD = 3
FRONT = 2  # slices of padding before the first
COEFFICIENT_BITS = 14
EXPERTS = 8
MAX_SETS = EXPERTS - 2
SIZES = (192, 512, 512, 256, 512, 1024)  # contexts of each counter
WEIGHT_SETS = 24


@njit(nogil=True, cache=True)
def code_segment(  # type: ignore[no-untyped-def]
    volume, shape, top, shift, coefficients, first_sets, extra, data, decode,
    squash, stretch, cdf, rate, offsets,
):  # fmt: skip
    # long: one pass over the voxels with all its state in registers
    """Code the values of one segment in place.

    Parameters
    ----------
    volume : (z + 2, y + 6, x + 6) int64
        Values 0 .. top inside the padding; filled in when reading.
    coefficients : (sets, neighbours + extras) int64
    extra : (z, y, x, e) int64
        Further regressors, in value units with FRACTION bits.
    Returns the number of bytes, -1 if damaged or full.
    """
    nz, ny, nx = shape
    row = nx + 2 * PAD
    plane = row * (ny + 2 * PAD)
    flat = volume.reshape(-1)
    count = offsets.shape[0]
    extras = extra.shape[1]
    terms = count + extras
    sets = coefficients.shape[0]
    coder = np.zeros(STATE_SIZE, np.int64)
    start(coder, data, decode)
    errors = np.zeros((EXPERTS, 2 * plane), np.int64)  # magnitudes, this slice and the last
    final = np.zeros(2 * plane, np.int64)  # signed error of the final prediction
    total_slots = 0
    begins = np.zeros(6, np.int64)
    for i in range(6):
        begins[i] = total_slots
        total_slots += SIZES[i] * NODES
    counters = np.full(total_slots, 1 << 30, np.int64)
    weights = np.zeros(WEIGHT_SETS * 3 * INPUTS, np.int64)
    for i in range(WEIGHT_SETS * 3):
        weights[i * INPUTS] = 40000
        weights[i * INPUTS + 1] = 8000
        for j in range(2, 8):
            weights[i * INPUTS + j] = 8000
    inputs = np.zeros(INPUTS, np.int64)
    inputs[INPUTS - 1] = 256
    slots = np.zeros(6, np.int64)
    means = np.zeros(2, np.int64)
    scales = np.zeros(2, np.int64)
    d = np.zeros(terms, np.int64)
    guesses = np.zeros(EXPERTS, np.int64)
    bias_sum = np.zeros((2, 2048), np.int64)
    bias_count = np.zeros((2, 2048), np.int64)
    blend_errors = np.zeros(EXPERTS, np.int64)
    adaptive = np.zeros(terms, np.int64)
    check = 0
    index = 0
    for z in range(nz):
        here_first = 0 if z == 0 else first_sets
        here_sets = first_sets if z == 0 else sets - first_sets
        if z < 2:
            for j in range(terms):
                adaptive[j] = coefficients[here_first, j] << 6
        experts = min(here_sets, EXPERTS - 2) + 2
        origin = (z + 2) * plane
        slab = (z & 1) * plane - origin
        other = ((z & 1) ^ 1) * plane - origin + plane  # last slice, same voxel: pos - plane
        # padding above: the last slice's first row
        for k in range(PAD * row):
            flat[origin + k] = flat[origin - plane + PAD * row + k % row] if z else 0
        for e in range(EXPERTS):
            for k in range(plane):
                errors[e, (z & 1) * plane + k] = 0
        for k in range(plane):
            final[(z & 1) * plane + k] = 0
        for y in range(ny):
            line = origin + (y + PAD) * row + PAD
            for k in range(1, PAD + 1):
                flat[line - k] = flat[line - row]
            if z == 0 and y == 0:
                for k in range(-PAD, 0):
                    flat[line + k] = 0
            for x in range(nx):
                at = line + x
                w = flat[at - 1]
                mean = w << FRACTION
                energy = 0
                # --- regressors: differences from W
                for j in range(count):
                    d[j] = flat[at + offsets[j]] - w
                for j in range(extras):
                    d[count + j] = extra[index, j] - (w << FRACTION)
                for k in range(experts - 2):
                    acc = 0
                    for j in range(count):
                        acc += coefficients[here_first + k, j] * d[j]
                    acc <<= FRACTION
                    for j in range(count, terms):
                        acc += coefficients[here_first + k, j] * d[j]
                    guesses[k] = (w << FRACTION) + (acc >> COEFFICIENT_BITS)
                # --- online adaptive
                acc = 0
                for j in range(1, count):
                    t = min(max(d[j] >> shift, -32768), 32767)
                    acc += adaptive[j] * t
                    energy += t * t
                guesses[experts - 2] = (w << FRACTION) + (
                    (acc << shift) >> (COEFFICIENT_BITS + 6 - FRACTION)
                )
                n = flat[at - row]
                if z:
                    p = flat[at - plane]
                    guesses[experts - 1] = (p << FRACTION) + (
                        (w - flat[at - plane - 1] + n - flat[at - plane - row]) << (FRACTION - 1)
                    )
                else:
                    guesses[experts - 1] = (w + n) << (FRACTION - 1)
                limit = top << FRACTION
                for k in range(experts):
                    guesses[k] = min(max(guesses[k], 0), limit)
                if z == 0 and y == 0:
                    for k in range(experts):
                        guesses[k] = w << FRACTION
                # --- blend by inverse squared recent error
                here = at + slab
                there = at - plane + other - 0
                weight_sum = 0
                mean = 0
                best = 1 << 62
                for k in range(experts):
                    s = (
                        errors[k, here - 1] * 2
                        + errors[k, here - row] * 2
                        + errors[k, here - row - 1]
                        + errors[k, here - row + 1]
                        + errors[k, here - 2]
                        + errors[k, here - 2 * row]
                        + errors[k, there] * 2
                    ) + 8
                    inputs[0] = 0

                    if s < best:
                        best = s
                    energy_k = s
                    blend_errors[k] = energy_k
                for k in range(experts):
                    q = (best << 10) // blend_errors[k]
                    q = ((q * q) >> 10) * q >> 10
                    weight_sum += q
                    mean += q * (guesses[k] - (w << FRACTION))
                mean = (w << FRACTION) + mean // max(weight_sum, 1)
                # --- recent error, and contexts
                ew = final[here - 1]
                en = final[here - row]
                ep = final[there]
                s1 = (
                    2 * (abs(ew) + abs(en))
                    + abs(final[here - row - 1])
                    + abs(final[here - row + 1])
                    + abs(final[here - 2])
                    + abs(final[here - 2 * row])
                )
                s2 = (
                    2 * abs(ep)
                    + abs(final[there + 1])
                    + abs(final[there - 1])
                    + abs(final[there + row])
                    + abs(final[there - row])
                )
                spread = (s1 + s2) // 14 if z else s1 >> 3
                level = bit_length(spread)
                fine = min(4 * level + ((spread << 3 >> level) & 3), 191)
                texture = (
                    (1 if w << FRACTION > mean else 0)
                    + (2 if n << FRACTION > mean else 0)
                    + (4 if flat[at - row - 1] << FRACTION > mean else 0)
                    + (8 if flat[at - row + 1] << FRACTION > mean else 0)
                )
                if z:
                    texture += (
                        (16 if flat[at - plane] << FRACTION > mean else 0)
                        + (32 if flat[at - plane + 1] << FRACTION > mean else 0)
                        + (64 if flat[at - plane + row] << FRACTION > mean else 0)
                    )
                c0 = texture * 16 + min(level, 15)
                sw = min(max(ew * 4 // max(spread, 1), -6), 6) + 6
                sn = min(max(en * 4 // max(spread, 1), -6), 6) + 6
                sp = min(max(ep * 4 // max(spread, 1), -4), 4) + 4
                c1 = (sw * 13 + sn) * 9 + sp
                raw_mean = mean
                bias = 0
                if bias_count[0, c0]:
                    bias += bias_sum[0, c0] // bias_count[0, c0]
                if bias_count[1, c1]:
                    bias += bias_sum[1, c1] // bias_count[1, c1]
                mean = min(max(mean + (bias >> 1), 0), limit)
                # --- code
                means[0] = mean
                means[1] = guesses[experts - 2]
                scales[0] = max((spread * 46) >> 6, 4)
                scales[1] = max((spread * 80) >> 6, 8)
                base = (mean + 128) >> FRACTION
                slots[0] = begins[0] + fine * NODES
                qw = min(bit_length(abs(ew) >> (FRACTION - 2)), 15)
                qn = min(bit_length(abs(en) >> (FRACTION - 2)), 15)
                qp = min(bit_length(abs(ep) >> (FRACTION - 2)), 15)
                slots[1] = begins[1] + (qw * 16 + qn) * NODES
                slots[2] = (
                    begins[2] + (((mean >> (FRACTION - 3)) & 7) * 32 + min(2 * level, 31)) * NODES
                )
                slots[3] = begins[3] + min(base, 255) * NODES
                slots[4] = begins[4] + (qp * 16 + min(bit_length(s2 >> (FRACTION - 1)), 15)) * NODES
                slots[5] = begins[5] + (texture * 8 + min(level >> 1, 7)) * NODES
                value = code_value(
                    coder, data, flat[at], top, means, scales, slots, min(level, WEIGHT_SETS - 1),
                    inputs, counters, weights, squash, stretch, cdf, rate,
                )  # fmt: skip
                if value < 0 or value > top:
                    return -1
                flat[at] = value
                check = (check * 40503 + value + 1) & 0xFFFF
                # --- learn
                exact = value << FRACTION
                error = exact - raw_mean
                for k in range(experts):
                    errors[k, here] = min(abs(exact - guesses[k]), 1 << 40)
                final[here] = exact - mean
                for i in range(2):
                    c = c0 if i == 0 else c1
                    bias_sum[i, c] += error
                    bias_count[i, c] += 1
                    if bias_count[i, c] >= 256:
                        bias_sum[i, c] >>= 1
                        bias_count[i, c] >>= 1
                off = exact - guesses[experts - 2]
                off = min(max(off >> shift, -(1 << 24)), 1 << 24)
                step = (off << 20) // (energy * 128 + 4096)
                for j in range(1, count):
                    t = min(max(d[j] >> shift, -32768), 32767)
                    adaptive[j] = min(max(adaptive[j] + ((step * t) >> 8), -(1 << 24)), 1 << 24)
                index += 1
            end = line + nx
            for k in range(PAD):
                flat[end + k] = flat[end - 1]
            if coder[FAILED]:
                return -1
        bottom = origin + (ny + PAD) * row
        for k in range(PAD * row):
            flat[bottom + k] = flat[bottom - row + k % row]
        if z == 0:
            for k in range(plane):
                flat[origin - plane + k] = flat[origin + k]
    return finish(coder, data, check)
