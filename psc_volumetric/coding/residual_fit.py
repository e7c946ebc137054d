"""Least-squares predictors for the residual coder. Encoder only: a decoder takes any coefficients.

The coefficients travel in the stream, so floats may be used here; a worse fit costs bytes, never
exactness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coding.residual_kernel import COEFFICIENT_BITS, FRONT, NEIGHBOURS, PAD

__all__ = ["fit_coefficients"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
SAMPLES = 60_000
LIMIT = (1 << 15) - 1
FIRST_SETS = 1  # predictors of the first slice
SETS = 4  # predictors of the others
FLAT_NEIGHBOURS = 12  # neighbours in the same slice come first
FLOOR = 0.25  # activity below which all samples weigh the same


def fit_coefficients(index: Integers, extra: Integers) -> tuple[Integers, int]:
    """Fit linear predictors to a segment.

    Parameters
    ----------
    index : (z, y, x) int64
        The integers to be coded.
    extra : (z * y * x, e) int64
        Further regressors with 8 fraction bits.

    Returns
    -------
    coefficients : (sets, neighbours + e) int64
        With COEFFICIENT_BITS fraction bits, within 16 bits.
    first_sets : int
        How many of them are for the first slice.
    """
    padded = np.pad(index, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="edge")
    padded = np.concatenate([padded[:1]] * FRONT + [padded])
    parts = [_fit(padded, extra, FIRST_SETS, flat=True)]
    if len(index) > 1:
        parts.append(_fit(padded, extra, SETS, flat=False))
    return np.concatenate(parts), FIRST_SETS


def _fit(padded: Integers, extra: Integers, sets: int, *, flat: bool) -> Integers:
    """One predictor for all samples, and one for each of ``sets - 1`` ranges of activity."""
    nz, ny, nx = (n - p for n, p in zip(padded.shape, (FRONT, 2 * PAD, 2 * PAD), strict=True))
    first, last = (0, ny * nx) if flat else (ny * nx, nz * ny * nx)
    picks = np.arange(first, last, max(1, (last - first) // SAMPLES) | 1)
    z, y, x = np.unravel_index(picks, (nz, ny, nx))
    base = padded[z + FRONT, y + PAD, x + PAD - 1]
    columns = [
        padded[z + FRONT + dz, y + PAD + dy, x + PAD + dx] - base for dz, dy, dx in NEIGHBOURS
    ]
    design = np.stack([*columns, *(extra[picks].T / 256 - base)], axis=1).astype(np.float64)
    target = (padded[z + FRONT, y + PAD, x + PAD] - base).astype(np.float64)
    used = np.ones(design.shape[1], bool)
    used[0] = False
    if flat:
        used[FLAT_NEIGHBOURS : len(NEIGHBOURS)] = False
    design = design[:, used]
    activity = np.abs(design[:, :FLAT_NEIGHBOURS]).mean(1) + FLOOR
    weight = 1 / activity**2
    groups = [np.arange(len(picks))]
    if sets > 1:
        groups += np.array_split(np.argsort(activity, kind="stable"), sets - 1)
    out = np.zeros((sets, len(used)), np.int64)
    for i, group in enumerate(groups):
        solution = _solve(design[group], target[group], weight[group])
        out[i, used] = np.clip(np.rint(solution * (1 << COEFFICIENT_BITS)), -LIMIT, LIMIT)
    return out


def _solve(design: Floats, target: Floats, weight: Floats) -> Floats:
    """Weighted least squares with a little ridge."""
    scaled = (design * weight[:, None]).T
    gram = scaled @ design
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(gram) + 1e-3
    return np.asarray(np.linalg.solve(gram, scaled @ target), np.float64)
