"""What a network foresees of the finer coefficients, from the coarser ones. Part of the format.

SPEC section 17.8. The bands that are known make planes of fewer pixels. To the network these are a
decoded brick, and its correction of them, taken apart once more, is what it expects in the bands of
the next scale. Planes of half the extents cost a quarter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.methods.foresight.fields import Glimpse
from psc_volumetric.methods.posterior.fields import View
from psc_volumetric.methods.posterior.moments import VIEWED, moments
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.wavelet.synthesis import synthesise
from psc_volumetric.methods.wavelet.transform import (
    UNITS,
    WEIGHT_BITS,
    Band,
    Triple,
    band_weights,
    bands,
    dequantise,
    split,
)

__all__ = ["GUESS_BITS", "Guess", "Seer"]

Integers = NDArray[np.int64]
Box = tuple[slice, slice, slice]

ZOOM_BITS = 24
GUESS_BITS = 12  # fraction bits of what is foreseen, in quantiser steps
MOST_GUESS = 1 << 30


class Guess(NamedTuple):
    """What is foreseen of a band.

    Attributes
    ----------
    box : (slice, slice, slice)
        Of the band.
    steps : int64
        Numbers of quantiser steps, 12 fraction bits.
    halves : uint8
        Mean half octaves of the standard deviation around every coefficient.
    """

    box: Box
    steps: Integers
    halves: NDArray[np.uint8]


class Seer(NamedTuple):
    """A network, and how it sees a brick.

    Attributes
    ----------
    estimator : Estimator
    view : View
        Of the whole brick.
    glimpses : sequence of Glimpse
    """

    estimator: Estimator
    view: View
    glimpses: Sequence[Glimpse]

    def glimpse(self, splits: int) -> Glimpse | None:
        """How it sees what comes before a scale; None if that is not foreseen."""
        return next((g for g in self.glimpses if g.splits == splits), None)

    def foresee(self, steps: NDArray[np.int32], depth: int, glimpse: Glimpse) -> Iterator[Guess]:
        """Guesses for the bands of a scale.

        Parameters
        ----------
        steps : (z, y, x) int32
            Numbers of steps; those of the scale and of finer ones are not looked at.
        depth : int
            Splits of z.
        glimpse : Glimpse
            Its scale is the one foreseen.
        """
        z, y, x = steps.shape
        samples = synthesise(_known(steps, depth, glimpse.splits), depth)
        zoomed = np.clip(samples, -VIEWED, VIEWED) * glimpse.zoom
        seen = (zoomed + (1 << (ZOOM_BITS - 1))) >> ZOOM_BITS
        whole = (slice(0, z), slice(0, seen.shape[1]), slice(0, seen.shape[2]))
        found = moments(seen, whole, glimpse.view(self.view), self.estimator)
        added = found.added(0 * seen, 16, self.estimator.prior.program.out_bits)
        change = np.clip((added << ZOOM_BITS) // glimpse.zoom, -VIEWED, VIEWED)
        _take_apart(change, depth)
        shape: Triple = (z, y, x)
        for band, weight in zip(bands(shape, depth), band_weights(shape, depth), strict=True):
            if band.kind and max(band.splits[1:]) == glimpse.splits:
                box = (slice(*band.box[0]), slice(*band.box[1]), slice(*band.box[2]))
                bits = GUESS_BITS + WEIGHT_BITS - UNITS.bit_length() + 1
                guess = np.clip((change[box] << bits) // weight, -MOST_GUESS, MOST_GUESS)
                yield Guess(box, guess, _near(found.halves, band))


def _known(steps: NDArray[np.int32], depth: int, splits: int) -> Integers:
    """Coefficients (z, rows, columns) of the planes before a scale, whose bands are empty."""
    (rows, inner_rows), (columns, inner_columns) = (
        (_halved(extent, splits - 1), _halved(extent, splits)) for extent in steps.shape[1:]
    )
    known = np.zeros_like(steps)
    known[:, :inner_rows, :inner_columns] = steps[:, :inner_rows, :inner_columns]
    return np.ascontiguousarray(dequantise(known, depth)[:, :rows, :columns])


def _halved(extent: int, times: int) -> int:
    for _ in range(times):
        extent = (extent + 1) // 2
    return extent


def _take_apart(change: Integers, depth: int) -> None:
    """Split z as often as the brick is split, then y and x once; in place."""
    planes = len(change)
    for _ in range(depth):
        change[:planes] = split(change[:planes])
        planes = (planes + 1) // 2
    for axis in (1, 2):
        change[...] = np.moveaxis(split(np.moveaxis(change, axis, 0)), 0, axis)


def _near(halves: NDArray[np.uint8], band: Band) -> NDArray[np.uint8]:
    """Mean half octaves of the voxels that a coefficient of a band stands for."""
    total = halves.astype(np.int64)
    for axis, times in enumerate((band.splits[0], 1, 1)):
        for _ in range(times):
            count = total.shape[axis]
            odd = np.minimum(np.arange(1, count + 1, 2), count - 1)
            total = total.take(range(0, count, 2), axis) + total.take(odd, axis)
    z, y, x = (slice(stop - start) for start, stop in band.box)
    return (total[z, y, x] >> (band.splits[0] + 2)).astype(np.uint8)
