"""Largest error of the bounded level that a lossless archive has without being asked.

Noise of sigma, in units of what the values are multiples of, takes some 2 + log2(sigma) bits; cells
as wide as twice the square root of sigma take about half of them. The number is rounded down to
1, 2 or 5 times a power of ten. Whether a brick then has the level is decided by its bytes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from adapters.base import Volume
from pipelines.archiving.survey import special_mask

__all__ = ["BUDGET", "suggested_bound"]

BUDGET = 0.02  # share of the bytes that the level may add
FEWEST = 1 << 16  # voxels of a volume that is worth a level
SMALLEST_PLANE = 16
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")


def suggested_bound(volume: Volume) -> float | None:
    """Bound in stored units for a volume; None where it is to have one level.

    Parameters
    ----------
    volume : Volume
        One plane of it is read, in the middle.
    """
    shape, dtype = tuple(volume.array.shape), np.dtype(volume.array.dtype)
    if volume.exact_only or f"{dtype.kind}{dtype.itemsize}" not in DTYPES:
        return None
    if len(shape) < 3 or min(shape[-2:]) < SMALLEST_PLANE or math.prod(shape) < FEWEST:
        return None
    middle = tuple(slice(n // 2, n // 2 + 1) for n in shape[:-2])
    read = volume.array[(*middle, slice(0, shape[-2]), slice(0, shape[-1]))]
    plane = np.asarray(read).reshape(shape[-2:])
    return _bound(plane, special_mask(plane, volume.special_values))


def _bound(plane: NDArray[np.generic], special: NDArray[np.bool_]) -> float | None:
    """Bound for the noise of a plane."""
    if special.mean() > 0.5:
        return None
    unit = _unit(plane[~special])
    values = np.where(special, np.nan, plane.astype(np.float64))
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    rough = np.abs(values[1:-1, 1:-1] - around / 4)
    rough = np.sort(rough[np.isfinite(rough)])
    noise = float(rough[len(rough) // 2 :].mean()) if len(rough) else 0.0
    if not noise > unit > 0:
        return None
    return _round_down(math.sqrt(noise / unit) * unit)


def _unit(values: NDArray[np.generic]) -> float:
    """What the values are multiples of, about; of floats of full precision their last place."""
    different = np.unique(values)
    if len(different) < 2:
        return 0.0
    last = 1.0
    if values.dtype.kind == "f":
        last = float(np.spacing(np.median(np.abs(different))))
    return max(float(np.diff(different.astype(np.float64)).min()), last)


def _round_down(bound: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = math.floor(math.log10(bound))
    digit = next(d for d in (5, 2, 1) if d * 10.0**power <= bound or d == 1)
    return float(f"{digit}e{power}")
