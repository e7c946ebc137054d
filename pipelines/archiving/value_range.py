"""How stored values map to the prior's range, what their own range is, and what is kept exactly.

CT in Hounsfield units has a fixed mapping (decision 0008); everything else takes the least value
and a percentile of a sample. Archiving and training call the same function, so a prior sees what it
was trained on. The least and the largest value, which bounds and PSNR refer to, are those of the
whole volume (`pipelines.archiving.survey`).

The two numbers of the mapping are written into the archive and every brick, so a reader does not
repeat this; a resumed run finds the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adapters.base import LazyArray, Volume
from pipelines.archiving.survey import label_reason, special_mask, survey

__all__ = [
    "HIGH_PERCENTILE",
    "HU_HIGH",
    "HU_LOW",
    "SampledRange",
    "judge",
    "sample_values",
    "too_small",
    "value_range",
    "volume_range",
]

HIGH_PERCENTILE = 99.8
BRIGHTEST = 2.2
SMALLEST_PLANE = 16
_FLAG_ATTRIBUTES = ("flag_values", "flag_meanings", "flag_masks")
_CODED_BY_PRIOR = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")
HU_LOW, HU_HIGH = -1024.0, 1535.0  # map to -1 and +1; 3071 HU maps to +2.2
_HU_LEAST, _HU_MOST = -1500.0, 3500.0  # outside, the fixed mapping would waste or saturate
_PADDING_BELOW_HU = -1100.0
_PADDING_SHARE = 1e-3
_PADDING_GAP_HU = 50.0
_SLABS = 64
_SAMPLES = 1 << 22


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
    least, largest : float
        Smallest and largest value: of the sample, or from `judge` of the whole volume.
    hounsfield : bool
        Whether low and high are the fixed ones of CT, ``HU_LOW`` and ``HU_HIGH``.
    special_values : tuple of numbers
        The declared sentinels that were left out, and padding found in the sample.
    notes : tuple of str
        What was guessed from the values, in words.
    """

    low: float
    high: float
    least: float
    largest: float
    hounsfield: bool = False
    special_values: tuple[float | int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def span(self) -> float:
        """Largest minus smallest value."""
        return self.largest - self.least

    def covering(self, least: float, largest: float) -> SampledRange:
        """The same with the values of a whole volume; a mapping of its own reaches to them."""
        if self.hounsfield:
            return replace(self, least=least, largest=largest)
        high = max(self.high, least + (largest - least) / BRIGHTEST)
        return replace(self, low=min(self.low, least), high=high, least=least, largest=largest)


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
        least=low,
        largest=largest,
        special_values=tuple(special_values),
    )


def volume_range(volume: Volume) -> SampledRange | None:
    """Range of a volume from a sample: fixed for CT in Hounsfield units, else `value_range`.

    Parameters
    ----------
    volume : Volume
        Read one plane at a time, see `sample_values`.

    Returns
    -------
    SampledRange or None
        None when fewer than two different measured values were sampled.

    Notes
    -----
    CT is what says so (unit ``"HU"``), or a NIfTI volume without a unit whose values can hardly be
    anything else, see `_looks_like_hounsfield`. Its low and high are whole stored values where
    the stored type is an integer. Volumes with values below -1500 or above 3500 HU (label maps
    beside CT, implants in extended CT) take the sampled range instead.
    """
    sample = sample_values(volume.array)
    special = volume.special_values
    known = volume.unit == "HU" and "slice_slope" not in volume.attrs
    slope, intercept = volume.slope or 1.0, volume.intercept or 0.0
    if slope <= 0 or not (known or _looks_like_hounsfield(volume, sample)):
        return value_range(sample, special)
    padding = _padding(sample, special, slope, intercept)
    sampled = value_range(sample, (*special, *padding))
    if sampled is None:
        return None
    notes = [f"the lowest value, {p}, stands alone: taken as padding" for p in padding]
    if not known:
        notes.append("no modality is recorded; the values look like CT in Hounsfield units")
    sampled = replace(sampled, notes=tuple(notes))
    least, most = (v * slope + intercept for v in (sampled.low, sampled.largest))
    if least < _HU_LEAST or most > _HU_MOST:
        return sampled
    low, high = (HU_LOW - intercept) / slope, (HU_HIGH - intercept) / slope
    if sample.dtype.kind in "iu":
        low, high = float(round(low)), float(round(high))
    return replace(sampled, low=low, high=high, hounsfield=True)


def _padding(
    sample: NDArray[np.generic], special: Sequence[float | int], slope: float, intercept: float
) -> tuple[float | int, ...]:
    """The value that fills the corners outside a scanner's field of view, if there is one.

    One exact value far below air, at least 0.1 % of the sample, with nothing near it: a
    measurement would scatter.
    """
    values, counts = np.unique(sample[~special_mask(sample, special)], return_counts=True)
    if len(values) < 2:
        return ()
    first, second = (float(v) * slope + intercept for v in values[:2])
    lonely = second - first >= _PADDING_GAP_HU and counts[0] >= _PADDING_SHARE * len(sample)
    return (values[0].item(),) if first < _PADDING_BELOW_HU and lonely else ()


def _looks_like_hounsfield(volume: Volume, sample: NDArray[np.generic]) -> bool:
    """Whether a spatial volume without a unit can hardly be anything but CT.

    Signed integers with hundreds of different values, none below -1500 or above 3500, of which
    at least 0.1 % are air (-1100..-900) and at least 5 % water and soft tissue (-150..250).
    NIfTI has no modality, and MR is hardly ever negative.
    """
    spatial = volume.unit is None and volume.affine is not None and "modality" not in volume.attrs
    if not spatial or sample.dtype.kind != "i" or not len(sample):
        return False
    hu = sample[~special_mask(sample, volume.special_values)].astype(np.float64)
    hu = hu * (volume.slope or 1.0) + (volume.intercept or 0.0)
    hu = hu[hu >= _PADDING_BELOW_HU]
    if not len(hu) or hu.max() > _HU_MOST or hu.min() > -900 or len(np.unique(hu)) < 300:
        return False
    air = ((hu >= -1100) & (hu <= -900)).mean()
    soft = ((hu >= -150) & (hu <= 250)).mean()
    return bool(air >= 0.001 and soft >= 0.05)


def judge(volume: Volume) -> tuple[SampledRange | None, str | None]:
    """Range of a volume, and why it must be kept exactly (None when it need not be).

    Reads every value once, unless what the format says is enough.

    Returns
    -------
    range : SampledRange or None
        With the least and the largest value of the whole volume.
    reason : str or None
    """
    reason = _declared(volume)
    if reason is not None:
        return None, reason
    sampled = volume_range(volume)
    special = volume.special_values if sampled is None else sampled.special_values
    found = survey(volume.array, special)
    if found is None or not found.least < found.largest:
        return None, "fewer than two different measured values"
    least, largest = float(found.least), float(found.largest)
    if sampled is None:  # what differs was not in the sample
        sampled = SampledRange(least, largest, least, largest, special_values=special)
    return sampled.covering(least, largest), label_reason(volume.array, found, special)


def _declared(volume: Volume) -> str | None:
    """Why the format, the type or the shape leaves no choice but exact values."""
    dtype = np.dtype(volume.array.dtype)
    if volume.exact_only is not None:
        return volume.exact_only
    if dtype.str[1:] not in _CODED_BY_PRIOR:
        return f"values of type {dtype.name} are kept exactly"
    if any(name in volume.attrs for name in _FLAG_ATTRIBUTES):
        return "the values are flags, not measurements"
    return None


def too_small(volume: Volume) -> str | None:
    """Why no lossy method takes the planes of a volume, such as the (atom, 3) of trajectories."""
    rows, columns = volume.array.shape[-2:]
    if min(rows, columns) < SMALLEST_PLANE:
        return f"planes of {rows} x {columns} are too small for lossy methods"
    return None
