"""What a network makes of the voxels before: a centre and a width. Part of the format (SPEC 15.11).

All inputs are counted in the width that the coder expects without it, so nothing depends on the
units of a volume, and one network serves all of them. Integers throughout: sums of products of 16
bits fit into 32, which a test proves of each that ships. Rows hold more numbers than those that are
inputs, among them voxels that a reader does not know yet: their weights must be 0, which a test
proves, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.context.layout import EXPERTS, MAX_SETS
from psc_volumetric.entropy.binary import inlined, inner, quotient
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.entropy.decisions import digits_of
from psc_volumetric.entropy.lanes import ACROSS, INPUT_LIMIT, products, scale_inputs

__all__ = ["FACTS", "HIDDEN", "INPUTS", "OUTPUTS", "Network", "foresee", "look"]

HIDDEN, OUTPUTS = 48, 2  # units of both layers between; a shift and a widening
# Rows of eight numbers, of which the last is not used: around the voxel three to either side
OWN_VALUES, PAST_VALUES, OLD_VALUES = 0, 4 * ACROSS, 9 * ACROSS
OWN_ERRORS, PAST_ERRORS = 12 * ACROSS, 15 * ACROSS
GUESSES, REST = 18 * ACROSS, 19 * ACROSS
INPUTS = 20 * ACROSS
SECOND_AT = INPUTS * HIDDEN
LAST_AT = SECOND_AT + HIDDEN * HIDDEN
FIRST_SHIFT, SECOND_SHIFT, OUTPUT_BITS = 4, 6, 13
MOST_ACTIVE = 4095
WIDEST = 3 << FRACTION  # powers of two, either way
MOST_MOVED = 1 << 20  # 128 times the scale
SMALLEST_WIDTH = 16
FACTS = 5  # what training is told of a voxel besides: value, mean, scale, least and most


add_products = products(HIDDEN)


class Network(NamedTuple):
    """Weights, and room for what is made of them.

    Attributes
    ----------
    weights : (n,) int16
        Of the first, second and last layer, 6 fraction bits; of the first two for each pair of
        inputs all units, both weights of each. Empty where there is no network.
    biases : (2 HIDDEN + OUTPUTS,) int32
        11 fraction bits, 13 from the second layer on.
    inputs, hidden : int16
    sums : (HIDDEN,) int32
    seen : (voxels or 0, INPUTS) int16
        Where inputs of each voxel of the segment are kept, for training.
    facts : (voxels or 0, FACTS) int64
        What is kept with them.
    """

    weights: NDArray[np.int16]
    biases: NDArray[np.int32]
    inputs: NDArray[np.int16]
    hidden: NDArray[np.int16]
    sums: NDArray[np.int32]
    seen: NDArray[np.int16]
    facts: NDArray[np.int64]


@inlined
def _scaled(value, down, inverse):  # type: ignore[no-untyped-def]
    """One number as `scale_inputs` makes it."""
    value = min(max(value >> down, -8191), 8191)
    return min(max((value * inverse) >> 10, -INPUT_LIMIT), INPUT_LIMIT)


@inlined
def _look_around(m, at, here, there, row, plane, mean, down, inverse, is_first):  # type: ignore[no-untyped-def]
    """Values less the prediction, and errors of predictions, of three slices and of two."""
    x, v, f = m.network.inputs, m.volume, m.final
    values, errors = (FRACTION, mean, down, inverse), (0, 0, down, inverse)
    for k in range(4):
        place, to = np.uint64(at - k * row), np.uint64(OWN_VALUES + ACROSS * k)
        scale_inputs(v, place, values, x, to)
    for k in range(3):
        place, to = np.uint64(here - k * row), np.uint64(OWN_ERRORS + ACROSS * k)
        scale_inputs(f, place, errors, x, to)
    if is_first:
        x[PAST_VALUES:OWN_ERRORS] = 0
        x[PAST_ERRORS:GUESSES] = 0
        return
    for k in range(5):
        place = np.uint64(at - plane + (k - 2) * row)
        to = np.uint64(PAST_VALUES + ACROSS * k)
        scale_inputs(v, place, values, x, to)
    for k in range(3):
        place = np.uint64(at - 2 * plane + (k - 1) * row)
        to = np.uint64(OLD_VALUES + ACROSS * k)
        scale_inputs(v, place, values, x, to)
    for k in range(3):
        place, to = np.uint64(there + (k - 1) * row), np.uint64(PAST_ERRORS + ACROSS * k)
        scale_inputs(f, place, errors, x, to)


@inner(inline="always")
def look(m, at, here, there, row, plane, mean, blended, scale, level, cell, fitted, is_first):  # type: ignore[no-untyped-def]
    """Put what is known at a voxel into ``m.network.inputs``.

    Places, prediction and guesses are those of the kernel; ``cell`` are the least and the largest
    that the value can be.
    """
    x = m.network.inputs
    digits = digits_of(scale) - 1
    down = max(digits - 8, 0)
    inverse = quotient(1 << 15, scale >> down)
    _look_around(m, at - 3, here - 3, there - 3, row, plane, mean, down, inverse, is_first)
    for k in range(MAX_SETS):
        guess = m.guesses[np.uint64(k)] - mean if k < fitted else 0
        x[np.uint64(GUESSES + k)] = _scaled(guess, down, inverse)
    for k in range(EXPERTS - MAX_SETS):
        guess = m.guesses[np.uint64(fitted + k)] - mean
        x[np.uint64(GUESSES + MAX_SETS + k)] = _scaled(guess, down, inverse)
    best = m.sums[0]
    for k in range(1, EXPERTS):
        best = min(best, m.sums[np.uint64(k)])
    least, most = cell
    x[REST] = _scaled(blended - mean, down, inverse)
    x[REST + 1] = _scaled(int(best) >> 4, down, inverse)
    x[REST + 2] = _scaled(mean - (least << FRACTION), down, inverse)
    x[REST + 3] = _scaled((most << FRACTION) - mean, down, inverse)
    x[REST + 4] = min((level - 8) * 32, INPUT_LIMIT)
    x[REST + 5] = ((scale << FRACTION) >> digits) - 384
    x[REST + 6] = 32 if is_first else 0


@inlined
def _activated(m, shift):  # type: ignore[no-untyped-def]
    """Units of a layer from its sums."""
    for j in range(HIDDEN):
        unit = np.int32(m.network.sums[np.uint64(j)] >> shift)
        unit = min(max(unit, np.int32(0)), np.int32(MOST_ACTIVE))
        m.network.hidden[np.uint64(j)] = unit


@inner(inline="always")
def foresee(m, mean, scale, limit):  # type: ignore[no-untyped-def]
    """Centre and width of the distribution that the network makes of its inputs."""
    n = m.network
    w, sums = n.weights, n.sums
    for j in range(HIDDEN):
        sums[np.uint64(j)] = n.biases[np.uint64(j)]
    add_products(w, np.uint64(0), n.inputs, np.uint64(INPUTS // 2), sums)
    _activated(m, FIRST_SHIFT)
    for j in range(HIDDEN):
        sums[np.uint64(j)] = n.biases[np.uint64(HIDDEN + j)]
    add_products(w, np.uint64(SECOND_AT), n.hidden, np.uint64(HIDDEN // 2), sums)
    _activated(m, SECOND_SHIFT)
    shift, widening = n.biases[2 * HIDDEN], n.biases[2 * HIDDEN + 1]
    for j in range(HIDDEN):
        unit = np.int32(n.hidden[np.uint64(j)])
        shift = np.int32(shift + np.int32(w[np.uint64(LAST_AT + j)]) * unit)
        widening = np.int32(widening + np.int32(w[np.uint64(LAST_AT + HIDDEN + j)]) * unit)
    moved = min(max(int(shift), -MOST_MOVED), MOST_MOVED)
    centre = min(max(mean + ((moved * scale) >> OUTPUT_BITS), 0), limit)
    power = min(max(int(widening) >> (OUTPUT_BITS - FRACTION), -WIDEST), WIDEST)
    width = scale * ((1 << FRACTION) + (power & ((1 << FRACTION) - 1)))
    return centre, max(width >> (FRACTION - (power >> FRACTION)), SMALLEST_WIDTH)
