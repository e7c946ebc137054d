"""Finding the sigma tables of a brick from its own errors; the encoder's free choice.

For every class and level the errors of a brick are counted over a quarter-octave grid, so that
the share within 1, 2 and 3 sigma is known for all 88 possible entries at once. Entries are then
chosen one by one, near what suits their class, to bring the shares of the whole level to their
nominal values first, those of each class second, with few bits. They stay near, because a rare
class would else keep what its neighbours predict, which may be forty times its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.sigma.tables import (
    ACTIVITIES,
    INTENSITIES,
    MAX_FIRST,
    NOMINAL,
    QUARTERS,
    ROUGHNESSES,
    SIGMA_STEPS,
    SPREAD_BITS,
    Classes,
    Plane,
    SigmaTables,
    class_cells,
    predicted_entry,
)

__all__ = ["LevelErrors", "fit_tables"]

MOST_VOXELS = 1 << 18  # looked at per level
GOLDEN = 0.6180339887498949
PASSES = 6
CLASS_WEIGHT = 0.02  # of the deviation of single classes beside that of the level
REACH = 2  # quarter octaves that an entry may lie beside what suits its class: 1.4 times
BIT_WEIGHTS = (0.1, 0.3, 0.9)  # of a bit of a table, tried until the tables are small
LEAST_BUDGET, BUDGET_SHARE = 96, 0.01  # bytes; of the bytes of the brick


@dataclass(frozen=True)
class LevelErrors:
    """What went wrong at one level.

    Attributes
    ----------
    classes : (n,) uint16
        From :func:`~psc_volumetric.sigma.tables.voxel_classes`, measured voxels.
    errors : (n,) float64
        Magnitudes in stored units.
    """

    classes: Classes
    errors: NDArray[np.float64]


def fit_tables(
    levels: Sequence[LevelErrors], *, unit: float, rounded: bool, nbytes: int
) -> SigmaTables | None:
    """Choose the tables of a brick.

    Parameters
    ----------
    levels : sequence of LevelErrors
        Level 0 first.
    unit : float
        Stored units per normalised unit times 2^-14.
    rounded : bool
        Stored values are integers: an error stands for half a unit more or less.
    nbytes : int
        Size of the brick so far; the tables take about a hundredth of it, but no less than about
        96 bytes.

    Returns
    -------
    SigmaTables or None
        None when no voxel is measured.
    """
    if not levels or not len(levels[0].classes):
        return None
    first = _first_column(levels)
    counts = [_counts(level, first, unit, rounded) for level in levels]
    limit = max(LEAST_BUDGET, BUDGET_SHARE * nbytes)
    for weight in BIT_WEIGHTS:
        tables = SigmaTables(first, _choose(counts, weight))
        if len(tables.pack()) <= limit:
            break
    return tables


def _first_column(levels: Sequence[LevelErrors]) -> int:
    """Such that the last column begins near the top of what occurs."""
    found = np.concatenate([level.classes % ROUGHNESSES for level in levels])
    top = np.flatnonzero(np.cumsum(np.bincount(found)) >= 0.98 * len(found))[0]
    return int(np.clip(top - ACTIVITIES + 1, 0, MAX_FIRST))


def _counts(level: LevelErrors, first: int, unit: float, rounded: bool) -> NDArray[np.float64]:
    """Share of all voxels of the level, (3, 288, 88): in the cell and within k x entry."""
    stride = -(-len(level.classes) // MOST_VOXELS) | 1
    errors = level.errors[::stride]
    cells = class_cells(level.classes[::stride], first)
    if rounded:  # evenly over the unit that rounds to the value; the same on every run
        errors = np.abs(errors + np.arange(len(errors)) * GOLDEN % 1 - 0.5)
    entry = np.arange(SIGMA_STEPS)
    sigma = ((QUARTERS[entry & 3] << (entry >> 2)) >> SPREAD_BITS) * unit
    shape = (INTENSITIES * ACTIVITIES, SIGMA_STEPS + 1)
    shares = np.empty((3, *shape))
    for k in range(3):
        least = np.searchsorted(sigma * (k + 1), errors)
        found = np.bincount(cells * shape[1] + least, minlength=shape[0] * shape[1])
        shares[k] = np.cumsum(found.reshape(shape), axis=1) / len(errors)
    return shares


def _choose(levels: list[NDArray[np.float64]], bit_weight: float) -> NDArray[np.int64]:
    """Entries (levels, 18, 16), one plane after the other."""
    planes: list[Plane] = []
    for shares in levels:
        planes.append(_choose_plane(shares, planes[-1] if planes else None, bit_weight))
    return np.array(planes, np.int64)


def _choose_plane(shares: NDArray[np.float64], before: Plane | None, bit_weight: float) -> Plane:
    """Entries of one level: start from what suits each class, then trade entry by entry."""
    nominal = np.array(NOMINAL)[:, None]
    inside, sizes = shares[:, :, :-1], shares[0, :, -1]
    away = ((inside - nominal[:, :, None] * sizes[None, :, None]) ** 2).sum(0)
    own = CLASS_WEIGHT * 1e4 * away / np.maximum(sizes, 1e-12)[:, None]
    steps = np.arange(SIGMA_STEPS)
    plane: Plane = [[0] * ACTIVITIES for _ in range(INTENSITIES)]
    chosen = own.argmin(1)
    far = np.where(np.abs(steps - chosen[:, None]) > REACH, np.inf, 0.0)
    total = inside[:, np.arange(len(sizes)), chosen].sum(1)
    for number in range(1 + PASSES):
        last = chosen.copy()
        for cell, (y, x) in enumerate(np.ndindex(INTENSITIES, ACTIVITIES)):
            predicted = predicted_entry(plane, before, y, x)
            if not sizes[cell]:
                chosen[cell] = predicted
            elif number:
                totals = total[:, None] - inside[:, cell, chosen[cell], None] + inside[:, cell]
                bits = 2 * np.log2(1 + np.abs(steps - predicted)) + 4 * (steps != predicted)
                cost = (((totals - nominal) * 100) ** 4).sum(0) + own[cell] + far[cell]
                cost += bit_weight * bits
                chosen[cell] = cost.argmin()
                total = totals[:, chosen[cell]]
            plane[y][x] = int(chosen[cell])
        if np.array_equal(last, chosen):
            break
    return plane
