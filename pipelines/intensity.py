"""How stored values map to the prior's range: found from a sample, never from the whole volume.

The two numbers are written into the archive and every brick, so a reader does not repeat this;
the sample is the same in every run, so a resumed run finds the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.base import LazyArray

__all__ = ["HIGH_PERCENTILE", "SampledRange", "sample_values", "special_mask", "value_range"]

HIGH_PERCENTILE = 99.8
BRIGHTEST = 2.2
_SLABS = 64
_SAMPLES = 1 << 22


def special_mask(
    values: NDArray[np.generic], special_values: Sequence[float | int]
) -> NDArray[np.bool_]:
    """True where a stored value is no measurement: a declared sentinel, NaN or infinite.

    Parameters
    ----------
    values : array of any real dtype
        Stored values.
    special_values : sequence of numbers
        Sentinels in stored values.

    Returns
    -------
    bool array of the same shape.
    """
    mask = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    for special in special_values:
        if special == special:
            mask |= values == special
    return mask


def _leading(shape: Sequence[int], budget: int) -> Iterator[tuple[slice, ...]]:
    """Every index of the axes before the last two, thinned evenly to at most `budget`."""
    sizes = tuple(shape[:-2])
    total = math.prod(sizes)
    step = max(1, math.ceil(total / budget))
    for flat in range(0, total, step):
        index = np.unravel_index(flat, sizes) if sizes else ()
        yield tuple(slice(int(i), int(i) + 1) for i in index)


def sample_values(array: LazyArray) -> NDArray[np.generic]:
    """An evenly strided sample of at most about four million stored values.

    Parameters
    ----------
    array : LazyArray, axes (..., y, x)
        Read one plane at a time, at most 64 planes, so memory stays at one plane.

    Returns
    -------
    (n,) array of the stored dtype.
    """
    shape = tuple(array.shape)
    planes = list(itertools.islice(_leading(shape, _SLABS), _SLABS))
    stride = max(1, math.ceil(math.sqrt(math.prod(shape[-2:]) * len(planes) / _SAMPLES)))
    parts = []
    for lead in planes:
        plane = array[(*lead, *(slice(0, size) for size in shape[-2:]))]
        parts.append(np.asarray(plane)[..., ::stride, ::stride].reshape(-1))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=array.dtype)


@dataclass(frozen=True)
class SampledRange:
    """What a sample says about the values of a volume, in stored units.

    Attributes
    ----------
    low, high : float
        Map to -1 and +1: the smallest value, and the 99.8 percentile of the values above it,
        raised where needed so that the largest value stays within ``BRIGHTEST`` ranges of low
        (the codec saturates at 2.5).
    largest : float
        Largest sampled value.
    distinct : int
        Number of different sampled values.
    """

    low: float
    high: float
    largest: float
    distinct: int


def value_range(
    sample: NDArray[np.generic], special_values: Sequence[float | int] = ()
) -> SampledRange | None:
    """Range of a sample without its special values.

    Parameters
    ----------
    sample : (n,) array
        Stored values, as from `sample_values`.
    special_values : sequence of numbers
        Sentinels to leave out, besides NaN and infinities.

    Returns
    -------
    SampledRange or None
        low < high <= largest. None when fewer than two different values were sampled.
    """
    values, counts = np.unique(sample[~special_mask(sample, special_values)], return_counts=True)
    if len(values) < 2:
        return None
    below = np.cumsum(counts[1:])
    rank = np.searchsorted(below, math.ceil(HIGH_PERCENTILE / 100 * int(below[-1])))
    low, largest = float(values[0]), float(values[-1])
    return SampledRange(
        low=low,
        high=max(float(values[1 + int(rank)]), low + (largest - low) / BRIGHTEST),
        largest=largest,
        distinct=len(values),
    )
