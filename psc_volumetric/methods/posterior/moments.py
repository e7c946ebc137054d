"""Mean and variance of voxels given a decoded brick. Part of the format (SPEC section 3.10).

The network sees five decoded slices, or as many as it was made for. Planes are cut into windows
with a margin that it looks past, so a region costs its own voxels and the margin, and gives the
bits of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.methods.posterior.fields import View
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.prior.runtime import usable_threads
from psc_volumetric.tiling import Box

__all__ = ["Moments", "Span", "moments", "windows"]

Integers = NDArray[np.int64]
Samples = NDArray[np.integer[Any]]

SATURATION = 32767
MEAN_REACH = 4  # pixels to each side that the local mean is taken over
VIEWED = 1 << 31  # samples saturate there before they are scaled
SCALE_BITS = 24
UNIT_BITS = 8  # a quantiser step is 256 samples
GAIN_BITS = 4
HALVES = 94548  # half octaves of a variance in e, 16 fraction bits: round(2^16 / ln 2)
MIDDLE_HALF, MOST_HALF = 32, 63  # half octaves of sigma; 32 is one quantiser step
WINDOW = 256  # most rows and columns of a window, without its margin
FEW_THREADS = 4  # up to which windows are twice as wide: less margin, and no more memory in all


class Moments(NamedTuple):
    """What the network says of a region.

    Attributes
    ----------
    correction : (z, y, x) int32
        Of the samples, in quantiser steps with as many fraction bits as the network's outputs.
    halves : (z, y, x) uint8
        Half octaves of the standard deviation that is left; 32 is one quantiser step.
    """

    correction: NDArray[np.int32]
    halves: NDArray[np.uint8]

    def added(self, samples: Samples, gain: int, out_bits: int) -> Integers:
        """Samples with ``gain`` sixteenths of the correction."""
        shift = out_bits - UNIT_BITS + GAIN_BITS
        scaled = self.correction.astype(np.int64) * gain
        added: Integers = samples + ((scaled + (1 << (shift - 1))) >> shift)
        return added


@dataclass(frozen=True)
class Span:
    """Rows or columns of a window: ``start .. stop`` of the output, ``first .. last`` cut."""

    start: int
    stop: int
    first: int
    last: int
    extent: int  # of the plane, up to a multiple

    @property
    def inside(self) -> slice:
        """The output in what is cut."""
        return slice(self.start - self.first, self.stop - self.first)

    @property
    def near(self) -> tuple[int, int]:
        """First and past the last row that the local means of the cut need."""
        return max(self.first - MEAN_REACH, 0), min(self.last + MEAN_REACH, self.extent)

    @property
    def cut(self) -> slice:
        """What is cut, in `near`."""
        return slice(self.first - self.near[0], self.last - self.near[0])

    @property
    def around(self) -> tuple[Integers, Integers]:
        """First and past the last of the rows around each row of the cut, in `near`."""
        rows, (begin, end) = np.arange(self.first, self.last), self.near
        low = np.maximum(rows - MEAN_REACH, begin)
        return low - begin, np.minimum(rows + MEAN_REACH + 1, end) - begin


def moments(samples: Samples, box: Box, view: View, estimator: Estimator) -> Moments:
    """Ask the network for a region.

    Parameters
    ----------
    samples : (z, y, x) integers
        Decoded, the whole brick; a quantiser step is 256.
    box : (slice, slice, slice)
        Region, half-open.
    view : View
    estimator : Estimator
    """
    shape = tuple(s.stop - s.start for s in box)
    found = Moments(np.empty(shape, np.int32), np.empty(shape, np.uint8))
    out_bits = estimator.prior.program.out_bits
    threads = usable_threads() if estimator.device.type == "cpu" else 8
    planes = range(box[0].start, box[0].stop)
    widest = WINDOW if threads > FEW_THREADS else 2 * WINDOW
    for rows, columns in windows(samples.shape, box, estimator, widest):
        for first in range(0, len(planes), threads):
            group = planes[first : first + threads]
            seen = _inputs(samples, group, (rows, columns), view, estimator)
            outputs = estimator(seen, view.level)[..., rows.inside, columns.inside]
            place = (
                slice(first, first + len(group)),
                slice(rows.start - box[1].start, rows.stop - box[1].start),
                slice(columns.start - box[2].start, columns.stop - box[2].start),
            )
            found.correction[place] = outputs[:, 0]
            logs = outputs[:, 1].astype(np.int64) * HALVES
            halves = MIDDLE_HALF + (logs >> (16 + out_bits))
            found.halves[place] = np.clip(halves, 0, MOST_HALF)
    return found


def windows(
    shape: tuple[int, ...], box: Box, estimator: Estimator, widest: int
) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of windows over a region, at most ``widest`` without what they look past."""
    multiple, margin = estimator.prior.program.reach
    spans = []
    for count, part in zip(shape[1:], box[1:], strict=True):
        extent = -(-count // multiple) * multiple
        own = []
        number = max(-(-(part.stop - part.start) // widest), 1)
        width = -(-(part.stop - part.start) // number)
        for start in range(part.start, part.stop, width or 1):
            stop = min(start + width, part.stop)
            first = max(start - margin, 0) // multiple * multiple
            last = min(-(-(stop + margin) // multiple) * multiple, extent)
            own.append(Span(start, stop, first, last, extent))
        spans.append(own)
    return ((rows, columns) for rows in spans[0] for columns in spans[1])


def _inputs(
    samples: Samples, planes: range, window: tuple[Span, Span], view: View, estimator: Estimator
) -> NDArray[np.int32]:
    """What the network sees: (planes, 2 slices, rows, columns)."""
    slices = estimator.prior.program.slices // 2
    around = slices // 2
    spans = ((planes.start - around, planes.stop + around), *(span.near for span in window))
    places = (
        np.clip(np.arange(*span), 0, count - 1)
        for span, count in zip(spans, samples.shape, strict=True)
    )
    kept = samples[np.ix_(*places)].astype(np.int64)
    means = _local_means(kept[around : around + len(planes)], window)
    decoded = kept[:, *(span.cut for span in window)]
    whole = np.clip(decoded, -VIEWED, VIEWED) * view.scale
    whole = ((whole + (1 << (SCALE_BITS - 1))) >> SCALE_BITS) + view.offset
    out = np.empty((len(planes), 2 * slices, *decoded.shape[1:]), np.int32)
    for number in range(len(planes)):
        part = slice(number, number + slices)
        away = 2 * (decoded[part] - means[number])
        out[number, :slices] = np.clip(away, -SATURATION, SATURATION)
        out[number, slices:] = np.clip(whole[part], -SATURATION, SATURATION)
    return out


def _local_means(planes: Samples, window: tuple[Span, Span]) -> Integers:
    """Rounded means over 9 x 9 pixels, fewer at the edges of the plane; of the cut."""
    total: Integers = planes.astype(np.int64)
    count: Integers | int = 1
    for axis, span in enumerate(window, 1):
        low, high = span.around
        sums = np.insert(np.cumsum(total, axis), 0, 0, axis)
        total = sums.take(high, axis) - sums.take(low, axis)
        count = count * (high - low).reshape([-1 if k == axis else 1 for k in range(3)])
    return (2 * total + count) // (2 * count)
