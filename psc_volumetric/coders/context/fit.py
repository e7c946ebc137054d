"""Least-squares predictors for the context coder. Encoder only: a decoder takes any coefficients.

The coefficients travel in the stream, so floats may be used here; a worse fit costs bytes, never
exactness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.context.given import Given
from psc_volumetric.coders.context.layout import (
    COEFFICIENT_BITS,
    FRONT,
    MAX_COEFFICIENT,
    MAX_SETS,
    PAD,
    neighbours_of,
)

__all__ = ["fit_predictors"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
SAMPLES = (20_000, 80_000)  # fewest and most voxels that a fit looks at,
VOXELS_PER_SAMPLE = 12  # and how many there are for each in between
BITS_PER_SET = 80_000  # of the segment, roughly; a set costs about half a percent of them
LIGHT_SETS = 3  # at most, in the light model: each takes time
CELL_SETS = 2  # at most, where cells are known: they leave few bits, and have many regressors
BLOCK = (8, 4, 4)  # voxels that choose one predictor together
ROUNDS = 3
SKIP = 3  # all rounds but the last look at every third sample
ACTIVITY_TERMS = 11  # differences within the slice that tell how rough a place is
PIECE = 96  # rows
FLOOR = 0.25  # activity below which all samples weigh the same


def fit_predictors(
    index: Integers, given: Given, *, is_light: bool = False
) -> tuple[Integers, Integers]:
    """Fit linear predictors to a segment: for its first slice, and for the others.

    Parameters
    ----------
    index : (z, y, x) int64
        The integers to be coded.
    given : Given
        What adds further regressors.
    is_light : bool
        Whether they are for the light model: fewer, from half as many voxels.

    Returns
    -------
    first, others : (sets, neighbours of the slice, or all, + e) int64
        Coefficients with COEFFICIENT_BITS fraction bits; no ``others`` if there is one slice.
    """
    padded = np.pad(index, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="edge")
    padded = np.concatenate([padded[:1]] * FRONT + [padded])
    slice_size = index.shape[1] * index.shape[2]
    most = MAX_SETS if given.cells is None else CELL_SETS
    if is_light:
        most = min(most, LIGHT_SETS)
    first = _fit(padded, given, np.arange(slice_size), most, is_light, is_first=True)
    if len(index) == 1:
        return first, first[:0]
    others = np.arange(slice_size, index.size)
    return first, _fit(padded, given, others, most, is_light, is_first=False)


def _fit(
    padded: Integers,
    given: Given,
    voxels: Integers,
    most: int,
    is_light: bool,
    *,
    is_first: bool,
) -> Integers:
    """At most so many predictors for ``voxels``, each for the blocks that it suits best."""
    count = len(voxels)
    samples = int(np.clip(count // VOXELS_PER_SAMPLE, *SAMPLES)) >> is_light
    voxels = voxels[:: max(1, count // samples) | 1]
    shape = np.array(padded.shape) - (FRONT, 2 * PAD, 2 * PAD)
    z, y, x = np.unravel_index(voxels, tuple(shape))
    z0, y0, x0 = z + FRONT, y + PAD, x + PAD
    base = padded[z0, y0, x0 - 1]
    every, flat = neighbours_of(is_light)
    neighbours = every[1:flat] if is_first else every[1:]
    columns = [padded[z0 + dz, y0 + dy, x0 + dx] - base for dz, dy, dx in neighbours]
    columns += [
        given.volume[z0 + dz, y0 + dy, x0 + dx] / 256 - base for dz, dy, dx in given.offsets
    ]
    design = np.stack(columns, axis=1).astype(np.float64)
    target = (padded[z0, y0, x0] - base).astype(np.float64)
    activity = np.abs(design[:, :ACTIVITY_TERMS]).mean(axis=1) + FLOOR
    grid = np.stack([z // BLOCK[0], y // BLOCK[1], x // BLOCK[2]])
    _, block = np.unique(np.ravel_multi_index(tuple(grid), tuple(shape)), return_inverse=True)
    design, target = design / activity[:, None], target / activity
    single = _solve(design[::SKIP], target[::SKIP])
    error = float(np.mean(np.abs(target - design @ single) * activity))
    sets = int(np.clip(count * np.log2(1 + 2 * error) / BITS_PER_SET, 1, most))
    solutions = _cluster(design, target, activity, block, sets)
    fixed = np.rint(solutions * (1 << COEFFICIENT_BITS))
    fixed = np.clip(fixed, -MAX_COEFFICIENT, MAX_COEFFICIENT).astype(np.int64)
    return np.pad(fixed, ((0, 0), (1, 0)))  # the base neighbour is no regressor


def _cluster(
    design: Floats, target: Floats, activity: Floats, block: Integers, sets: int
) -> Floats:
    """Alternate between fitting sets to their blocks and giving each block to its best set."""
    count = np.bincount(block)
    rank = np.argsort(np.argsort(np.bincount(block, activity) / count))
    choice = rank * sets // len(rank)
    solutions = np.zeros((sets, design.shape[1]))
    rounds = ROUNDS if sets > 1 else 1
    for number in range(rounds):
        step = 1 if number == rounds - 1 else SKIP
        for i in range(sets):
            mine = np.flatnonzero(choice[block] == i)[::step]
            if len(mine):
                solutions[i] = _solve(design[mine], target[mine])
        errors = [np.bincount(block, np.abs(target - design @ s)) for s in solutions]
        choice = np.argmin(errors, axis=0)
    return solutions


def _solve(design: Floats, target: Floats) -> Floats:
    """Least squares with a little ridge.

    The products are taken in pieces too small for a library to start threads for: segments have
    their own.
    """
    both = np.column_stack([design, target])
    products = np.zeros((both.shape[1], both.shape[1]))
    for start in range(0, len(both), PIECE):
        piece = both[start : start + PIECE]
        products += piece.T @ piece
    gram = products[:-1, :-1]
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(gram) + 1e-3
    return np.asarray(np.linalg.solve(gram, products[:-1, -1]), np.float64)
