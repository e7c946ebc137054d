"""Values of previews: means of blocks over what was measured, and 8 bits for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.frames import pack_frame

__all__ = [
    "NOTHING",
    "STEPS",
    "Scale",
    "block_means",
    "middle_values",
    "packed_bytes",
    "small_shape",
]

Values = NDArray[Any]
STEPS = 254  # between the least and the largest value
NOTHING = 255  # no measurement
PACKED_BEST, PACKED_FAST = 19, 1  # levels of Zstandard; arrays of a preview have the former
LEAST_FAST = 0.6  # of what the fast level takes, the best one takes at least


def block_means(
    values: Values, factors: Sequence[int], *, special: Sequence[float], dtype: np.dtype[Any]
) -> Values:
    """Mean of each block over its measured voxels.

    Parameters
    ----------
    values : array
        Any number of axes; blocks at the end of an axis may be incomplete.
    factors : sequence of int
        Block extent per axis.
    special : sequence of float
        Values that are not measurements, besides NaN and infinities.
    dtype : numpy.dtype
        Of the result; integers are rounded half to even.

    Returns
    -------
    array
        ``ceil(size / factor)`` per axis. Blocks without a measured voxel hold the first special
        value, or NaN, or 0.
    """
    slabs = (values[start : start + factors[0]] for start in range(0, len(values), factors[0]))
    sums = [_slab_sums(slab, factors, special) for slab in slabs]
    total, count = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    empty = np.nan if dtype.kind == "f" else 0
    means = np.full(total.shape, special[0] if special else empty, np.float64)
    np.divide(total, count, out=means, where=count > 0)
    if dtype.kind in "iu":
        return _whole(means, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return means.astype(dtype)


def middle_values(values: Values, factors: Sequence[int]) -> Values:
    """One value out of each block, for names of things: there is no thing between two others.

    Parameters and shape as of `block_means`.
    """
    for axis, factor in enumerate(factors):
        size = values.shape[axis]
        places = np.minimum(np.arange(0, size, factor) + factor // 2, size - 1)
        values = values.take(places, axis)
    return values


def _slab_sums(
    slab: Values, factors: Sequence[int], special: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over blocks that are as deep as the slab, and how many voxels are in each."""
    measured = np.isfinite(slab) if slab.dtype.kind == "f" else np.ones(slab.shape, bool)
    for value in special:
        measured &= slab != value
    if measured.all():  # the usual case, in a tenth of the time
        total = slab.sum(axis=0, dtype=np.float64, keepdims=True)
        count = np.full(total.shape, float(len(slab)))
    else:
        numbers = slab.astype(np.float64)
        numbers[~measured] = 0
        total = numbers.sum(axis=0, keepdims=True)
        count = measured.sum(axis=0, dtype=np.float64, keepdims=True)
    for axis, factor in enumerate(factors[1:], 1):
        edges = np.arange(0, slab.shape[axis], factor)
        total = np.add.reduceat(total, edges, axis=axis)
        count = np.add.reduceat(count, edges, axis=axis)
    return total, count


def small_shape(shape: Sequence[int], factors: Sequence[int]) -> tuple[int, ...]:
    """Blocks along each axis."""
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def _whole(means: Values, dtype: np.dtype[Any]) -> Values:
    """Rounded half to even and saturated; a double past the largest integer is none of the type."""
    limits = np.iinfo(dtype)
    rounded = np.rint(np.nan_to_num(means))
    highest = float(limits.max)
    if int(highest) > limits.max:
        highest = float(np.nextafter(highest, 0))
    saturated: Values = np.clip(rounded, float(limits.min), highest).astype(dtype)
    return saturated


@dataclass(frozen=True)
class Scale:
    """Stored values as 8 bits: stored = shown * factor + offset; `NOTHING` is no measurement.

    Of fewer grey levels every ``every``-th number is used, so that white is as bright to viewers
    that look at the numbers alone.
    """

    factor: float
    offset: float
    special: tuple[float, ...]
    every: int = 1

    @classmethod
    def of(cls, values: Values, special: Sequence[float], steps: int = STEPS) -> Scale:
        """The scale that spans all measured values; a whole one where they are few integers.

        Parameters
        ----------
        steps : int
            At most `STEPS`; fewer take fewer bytes.
        """
        numbers = values.astype(np.float64)
        inside = numbers[np.isfinite(numbers) & ~np.isin(numbers, list(special))]
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
        every = STEPS // steps
        if values.dtype.kind in "iu" and high - low <= STEPS and steps == STEPS:
            return cls(1.0, low, tuple(special))
        span = (high / steps - low / steps) / every
        return cls(span if span > 0 else 1.0, low, tuple(special), every)

    def apply(self, values: Values) -> Values:
        """Values as uint8."""
        numbers = values.astype(np.float64)
        measured = np.isfinite(numbers) & ~np.isin(numbers, self.special)
        scaled = (np.where(measured, numbers, self.offset) - self.offset) / self.factor
        whole = np.rint(scaled / self.every) * self.every
        shown: Values = np.clip(whole, 0, STEPS).astype(np.uint8)
        shown[~measured] = NOTHING
        return shown


def packed_bytes(shown: Values, room: float) -> int | None:
    """Bytes that values take in an archive; None where they are more than ``room``.

    What is far too large is not packed as well as can be, which takes a second for a million.
    """
    data = np.ascontiguousarray(shown).tobytes()
    if room <= 0 or LEAST_FAST * len(pack_frame(data, PACKED_FAST)) > room:
        return None
    nbytes = len(pack_frame(data, PACKED_BEST))
    return nbytes if nbytes <= room else None
