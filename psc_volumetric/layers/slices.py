"""Whether the slices of a brick are better coded each by itself. Encoder only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.tiling import Box

__all__ = ["SLICE_SEGMENT", "lie_far_apart", "middle_rows", "shapes_to_try"]

Triple = tuple[int, int, int]

SLICE_SEGMENT = (1, 512, 512)
FAR = 200  # times the roughness
FEWEST_ROWS = 16


def lie_far_apart(values: NDArray[np.generic]) -> bool:
    """Whether neighbouring slices differ by far more than what a slice has of its own.

    Smooth fields on levels of the air are such: what one level says of the next is less than the
    rounding of the coefficients that it is told with.

    Parameters
    ----------
    values : (z, y, x) array
    """
    if values.shape[0] < 2 or min(values.shape[1:]) < 2:
        return False
    middle = values.shape[0] // 2
    with np.errstate(invalid="ignore", over="ignore"):
        pair = values[middle - 1 : middle + 1].astype(np.float64)
        apart = np.abs(pair[1] - pair[0])
        rough = np.abs(np.diff(np.diff(pair, axis=1), axis=2))
    measured = np.isfinite(apart)
    if not measured.any() or not np.isfinite(rough).any():
        return False
    roughness = float(np.median(rough[np.isfinite(rough)]))
    return float(np.median(apart[measured])) > FAR * max(roughness, 0.5)


def shapes_to_try(
    values: NDArray[np.generic], usual: Triple | None, *, is_alone: bool
) -> list[Triple | None]:
    """Shapes of segments whose bytes are worth comparing.

    Parameters
    ----------
    values : (z, y, x) array
    usual : (z, y, x) or None
        None is what suits the extent.
    is_alone : bool
        There is no level below that would say more.
    """
    return [usual, SLICE_SEGMENT] if is_alone and lie_far_apart(values) else [usual]


def middle_rows(shape: Triple, voxels: int) -> Box:
    """Whole rows of all slices from the middle of a brick, about so many voxels."""
    z, y, x = shape
    rows = min(max(voxels // (z * x), FEWEST_ROWS), y)
    start = (y - rows) // 2
    return slice(0, z), slice(start, start + rows), slice(0, x)
