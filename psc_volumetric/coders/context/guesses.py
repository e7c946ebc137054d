"""Guesses of a voxel's integer. Part of the format (SPEC section 15).

``m`` and how loops are written: :mod:`psc_volumetric.coders.context.kernel`.
"""

from __future__ import annotations

import numpy as np

from psc_volumetric.coders.context.layout import (
    COEFFICIENT_BITS,
    FAST_AT,
    LANES,
    PREDICTORS_AT,
    ROOM,
    SLOW_AT,
)
from psc_volumetric.entropy.binary import inlined
from psc_volumetric.entropy.binary_tables import FRACTION

__all__ = [
    "ADAPTIVE_BITS",
    "CLAMP",
    "gather",
    "guess_fitted",
    "guess_gradient",
    "guess_online",
]

ADAPTIVE_BITS = 20
CLAMP = 1 << 15


@inlined
def gather(m, at, count):  # type: ignore[no-untyped-def]
    """Differences of ``count`` neighbours, then of what is given, from the base neighbour."""
    base = m.volume[np.uint64(at - 1)]
    for j in range(count):
        m.work[np.uint64(j)] = m.volume[np.uint64(at + m.offsets[np.uint64(j)])] - base
    for j in range(m.places.shape[0]):
        near = m.given[np.uint64(at + m.places[np.uint64(j)])]
        m.work[np.uint64(LANES + j)] = near - (int(base) << FRACTION)


@inlined
def guess_fitted(m, base, sets, lanes, given, is_small):  # type: ignore[no-untyped-def]
    """Those of the predictors that were fitted to the segment."""
    w = m.work
    for k in range(sets):
        row = PREDICTORS_AT + k * ROOM
        total = 0
        if is_small:
            few = np.int32(0)
            for j in range(lanes):
                few = np.int32(few + np.int32(w[np.uint64(row + j)]) * np.int32(w[np.uint64(j)]))
            total = int(few)
        else:
            for j in range(lanes):
                total += w[np.uint64(row + j)] * w[np.uint64(j)]
        total <<= FRACTION
        for j in range(LANES, LANES + given):
            total += w[np.uint64(row + j)] * w[np.uint64(j)]
        m.guesses[k] = base + (total >> COEFFICIENT_BITS)


@inlined
def guess_online(m, base, fitted, shift, is_wide, lanes, given):  # type: ignore[no-untyped-def]
    """The two predictors that learn at every voxel; cuts differences, returns their energy."""
    w = m.work
    for j in range(LANES, LANES + given):
        w[np.uint64(j)] >>= FRACTION
    if is_wide:
        for j in range(lanes):
            w[np.uint64(j)] = min(max(w[np.uint64(j)] >> shift, -CLAMP), CLAMP - 1)
        for j in range(LANES, LANES + given):
            w[np.uint64(j)] = min(max(w[np.uint64(j)] >> shift, -CLAMP), CLAMP - 1)
    fast, slow, energy = 0, 0, 0
    for j in range(lanes):
        part = w[np.uint64(j)]
        fast += w[np.uint64(FAST_AT + j)] * part
        slow += w[np.uint64(SLOW_AT + j)] * part
        energy += part * part
    for j in range(LANES, LANES + given):
        part = w[np.uint64(j)]
        fast += w[np.uint64(FAST_AT + j)] * part
        slow += w[np.uint64(SLOW_AT + j)] * part
        energy += part * part
    m.guesses[fitted] = base + ((fast << shift) >> (ADAPTIVE_BITS - FRACTION))
    m.guesses[fitted + 1] = m.guesses[0] + ((slow << shift) >> (ADAPTIVE_BITS - FRACTION))
    return energy


@inlined
def guess_gradient(m, at, row, plane, is_first):  # type: ignore[no-untyped-def]
    """Continue the slice before by what changes to the west and to the north."""
    v = m.volume
    west, north = v[np.uint64(at - 1)], v[np.uint64(at - row)]
    if is_first:
        return (west + north) << (FRACTION - 1)
    before = at - plane
    gradient = west - v[np.uint64(before - 1)] + north - v[np.uint64(before - row)]
    return (v[np.uint64(before)] << FRACTION) + (gradient << (FRACTION - 1))
