"""How slices lie on a screen: as radiologists look at them, or with north above."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["TITLES", "upright", "world_axes"]

TITLES = {0: "sagittal", 1: "coronal", 2: "axial"}


def world_axes(affine: ArrayLike) -> list[tuple[int, bool]] | None:
    """World axis (0 x, 1 y, 2 z, RAS+) of each of the last three array axes, and whether it rises.

    Parameters
    ----------
    affine : (4, 4) array
        Index (z, y, x, 1) -> world mm.

    Returns
    -------
    list of (int, bool) or None
        The nearest ones for an oblique volume; None where two axes have the same.
    """
    linear = np.asarray(affine, np.float64).reshape(4, 4)[:3, :3]
    found = [int(axis) for axis in np.abs(linear).argmax(axis=0)]
    if len(set(found)) != 3 or not np.isfinite(linear).all():
        return None
    return [(world, bool(linear[world, n] > 0)) for n, world in enumerate(found)]


def upright(values: NDArray[Any], down: tuple[int, bool], right: tuple[int, bool]) -> NDArray[Any]:
    """Turn a slice (rows, columns): superior, anterior above, the patient's right on the left.

    ``down`` and ``right`` are of the slice's axes, as `world_axes` gives them.
    """
    if down[0] < right[0]:  # a slice whose rows run along x or, beside z, along y
        values, down, right = values.T, right, down
    rows = slice(None, None, -1 if down[1] else 1)
    falls = right[0] == 0
    columns = slice(None, None, -1 if right[1] == falls else 1)
    return np.ascontiguousarray(values[rows, columns])
