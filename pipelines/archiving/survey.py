"""What the values of a whole volume say: their range, and whether they are labels.

One pass over all values, slab by slab, so that a range is that of the volume and not of a sample.
Few levels that are constant over regions are labels, whatever their type and number: an
approximation of a label is another label. Ordinary images are not: grey levels of noise change from
voxel to voxel, and those of a smooth field go up and down by single steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.base import LazyArray

__all__ = ["Survey", "label_reason", "slabs", "special_mask", "survey"]

Values = NDArray[np.generic]
Number = int | float

FEW_LEVELS = 16  # levels of which it does not matter how far they are apart
MOST_LEVELS = 1 << 16
VOXELS_PER_LEVEL = 64  # at least, on average, of labels
CONSTANT = 0.6  # share of neighbours that are equal inside labels
JUMPS = 0.3  # share of unequal neighbours that are more than one level apart
PLANES = 64  # whose neighbours are compared
_SLAB_BYTES = 32 << 20


@dataclass(frozen=True)
class Survey:
    """The measured values of a volume.

    Attributes
    ----------
    least, largest : number
        Of all values that are measurements, in stored units.
    voxels : int
        Number of measurements.
    levels : (n,) array or None
        All different values, rising; None when there are more than labels have.
    """

    least: Number
    largest: Number
    voxels: int
    levels: Values | None

    @property
    def span(self) -> float:
        """Largest minus least value."""
        return float(self.largest) - float(self.least)


def special_mask(values: Values, special_values: Sequence[Number]) -> NDArray[np.bool_]:
    """True where a stored value is no measurement: a declared sentinel, NaN or infinite."""
    mask = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    for special in special_values:
        if special == special:
            mask |= values == special
    return mask


def slabs(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Boxes that tile an array in C order, of some 32 MiB: whole planes, as many as fit."""
    plane = math.prod(shape[-2:]) * itemsize
    room = max(1, _SLAB_BYTES // max(plane, 1))
    counts = []
    for size in shape[:-2][::-1]:
        counts.append(min(size, room))
        room = max(1, room // size)
    steps = counts[::-1]
    for corner in np.ndindex(*(-(-n // s) for n, s in zip(shape[:-2], steps, strict=True))):
        box = (
            slice(i * s, min((i + 1) * s, n))
            for i, s, n in zip(corner, steps, shape[:-2], strict=True)
        )
        yield (*box, *(slice(0, size) for size in shape[-2:]))


def survey(array: LazyArray, special_values: tuple[Number, ...] = ()) -> Survey | None:
    """Look at every value once.

    Parameters
    ----------
    array : LazyArray, axes (..., y, x)
    special_values : tuple of numbers
        Sentinels to leave out, besides NaN and infinities.

    Returns
    -------
    Survey or None
        None without any measurement.
    """
    voxels, ends = 0, []
    levels: Values | None = np.zeros(0, array.dtype)
    most = min(MOST_LEVELS, math.prod(array.shape) // VOXELS_PER_LEVEL + FEW_LEVELS)
    for box in slabs(tuple(array.shape), np.dtype(array.dtype).itemsize):
        values = np.asarray(array[box])
        inside = values[~special_mask(values, special_values)]
        if not inside.size:
            continue
        voxels += inside.size
        ends += [inside.min(), inside.max()]
        if levels is not None:
            levels = np.union1d(levels, _unique(inside))
            levels = None if len(levels) > most else levels
    if not voxels:
        return None
    return Survey(min(ends).item(), max(ends).item(), voxels, levels)


def _unique(values: Values) -> Values:
    """Different values, rising; of long arrays a part is looked at first."""
    if values.dtype.str[1:] in ("u1", "i1", "u2", "i2"):
        info = np.iinfo(values.dtype.str)
        counts = np.bincount(values.reshape(-1).astype(np.int64) - info.min)
        return (np.flatnonzero(counts) + info.min).astype(values.dtype)
    first = np.unique(values[: 1 << 16])
    return first if len(first) > MOST_LEVELS // 2 else np.unique(values)


def label_reason(
    array: LazyArray, found: Survey, special_values: tuple[Number, ...] = ()
) -> str | None:
    """Why values are taken for labels, in words; None for measurements.

    Notes
    -----
    Two different values are a mask. Up to 16 are labels if at least 60 % of neighbours in rows
    and columns are equal, pairs of the commonest value not counted. More are labels if also at
    least 30 % of the unequal neighbours are more than one level apart, with pairs of the least and
    the largest value not counted either: saturation is no label.
    """
    levels = found.levels
    if levels is None or len(levels) < 2:
        return None
    count = len(levels)
    if count == 2:
        return "two different values: taken for a mask"
    if found.voxels < VOXELS_PER_LEVEL * count and count > FEW_LEVELS:
        return None
    constant, jumps = _neighbours(array, levels, special_values)
    if constant < CONSTANT or (count > FEW_LEVELS and jumps < JUMPS):
        return None
    return (
        f"{count} different values, constant over regions ({constant:.0%} of neighbours are "
        "equal): taken for labels"
    )


def _neighbours(
    array: LazyArray, levels: Values, special_values: tuple[Number, ...]
) -> tuple[float, float]:
    """Share of neighbours that are equal, and of the others' that are over one level apart."""
    planes = list(_planes(tuple(array.shape)))
    ranked = [_ranks(np.asarray(array[box]), levels, special_values) for box in planes]
    counts = np.zeros(len(levels), np.int64)
    for plane in ranked:
        counts += np.bincount(plane[plane >= 0], minlength=len(levels))
    left_out = np.zeros(len(levels), bool)
    left_out[counts.argmax()] = True
    if len(levels) > FEW_LEVELS:
        left_out[[0, -1]] = True
    equal = near = far = 0
    for plane in ranked:
        for axis in (0, 1):
            first, second = (plane[:-1], plane[1:]) if axis == 0 else (plane[:, :-1], plane[:, 1:])
            known = (first >= 0) & (second >= 0)
            apart = np.abs(first - second)[known]
            same = (apart == 0) & ~left_out[first[known]]
            equal += int(same.sum())
            near += int((apart == 1).sum())
            far += int((apart > 1).sum())
    total = equal + near + far
    return (equal / total if total else 1.0), (far / (near + far) if near + far else 0.0)


def _planes(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Evenly spread planes (y, x), at most 64."""
    lead = shape[:-2]
    total = math.prod(lead)
    for n in range(min(total, PLANES)):
        index = np.unravel_index((2 * n + 1) * total // (2 * min(total, PLANES)), lead or (1,))
        at = (slice(int(i), int(i) + 1) for i in (index if lead else ()))
        yield (*at, slice(0, shape[-2]), slice(0, shape[-1]))


def _ranks(plane: Values, levels: Values, special_values: tuple[Number, ...]) -> NDArray[np.int64]:
    """Number of the level of each voxel, (y, x); -1 where nothing was measured."""
    values = plane.reshape(plane.shape[-2:])
    ranks = np.searchsorted(levels, values).astype(np.int64)
    ranks[special_mask(values, special_values)] = -1
    return ranks
