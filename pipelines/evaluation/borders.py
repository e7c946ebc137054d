"""Whether a decoded volume shows the borders of the blocks, tiles and bricks it was coded in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Triple

__all__ = ["BLOCK", "border_ratio", "border_ratios"]

BLOCK = 8  # rows and columns of the blocks that codecs of pictures and the prior share


def border_ratios(
    reference: NDArray[np.generic],
    decoded: NDArray[np.generic],
    grids: Mapping[str, Triple],
    depth: int,
) -> dict[str, float]:
    """The ratio of each grid that has a border inside the volume."""
    found = {
        name: border_ratio(reference, decoded, spacing, depth) for name, spacing in grids.items()
    }
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def border_ratio(
    reference: NDArray[np.generic], decoded: NDArray[np.generic], spacing: Triple, depth: int
) -> float | None:
    """Gradient energy on the borders of a grid against elsewhere, decoded over source.

    Squared differences of neighbours are averaged over the pairs that a border parts, and over all
    others. What the source has of that, because its own edges may lie on the grid, is divided out.

    Parameters
    ----------
    reference, decoded : (n, y, x) arrays of any real dtype, no NaN
        Slices of one volume after the other.
    spacing : (z, y, x)
        Voxels from one border to the next.
    depth : int
        Slices of a volume; those of different volumes are no neighbours.

    Returns
    -------
    float or None
        1 where no border shows, more where they do, less where they were smoothed away. None when
        no border lies inside, or the source has no edges to compare with.
    """
    ratios = [_share(stack, spacing, depth) for stack in (reference, decoded)]
    if not ratios[0] or ratios[1] is None:
        return None
    return ratios[1] / ratios[0]


def _share(stack: NDArray[np.generic], spacing: Triple, depth: int) -> float | None:
    """Mean squared difference on borders over that elsewhere."""
    energy, pairs = np.zeros(2), np.zeros(2)
    before: NDArray[np.float64] | None = None
    for number, plane in enumerate(stack):
        values = plane.astype(np.float64)
        for axis in (0, 1):
            squares = np.diff(values, axis=axis) ** 2
            places = np.arange(spacing[1 + axis] - 1, squares.shape[axis], spacing[1 + axis])
            _add(energy, pairs, squares.take(places, axis), on_border=True)
            _add(energy, pairs, np.delete(squares, places, axis), on_border=False)
        if before is not None and number % depth:
            on_border = number % depth % spacing[0] == 0
            _add(energy, pairs, (values - before) ** 2, on_border=on_border)
        before = values
    if not pairs.all() or not energy[1]:
        return None
    on, off = energy / pairs
    return float(on / off)


def _add(
    energy: NDArray[np.float64],
    pairs: NDArray[np.float64],
    squares: NDArray[np.float64],
    *,
    on_border: bool,
) -> None:
    energy[int(not on_border)] += squares.sum()
    pairs[int(not on_border)] += squares.size
