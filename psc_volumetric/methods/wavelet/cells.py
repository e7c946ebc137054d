"""What a wavelet stream says of the values it was made of: an interval for every coefficient.

Not part of the format. A stream holds numbers of quantiser steps; the encoder of
:mod:`psc_volumetric.methods.wavelet.fit` gives each of them to an interval of coefficients, which
depends on what a number costs among its neighbours. A reader knows the neighbours, so it knows the
interval: values whose coefficients lie in all of them are coded as the same stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Triple
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.entropy.binary import compiled
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.wavelet.coder import decode_steps, new_model
from psc_volumetric.methods.wavelet.fields import WaveletFields
from psc_volumetric.methods.wavelet.fit import PRICE
from psc_volumetric.methods.wavelet.kernel import expected_magnitude
from psc_volumetric.methods.wavelet.transform import (
    UNITS,
    WEIGHT_BITS,
    Band,
    analyse,
    band_weights,
    bands,
    combine,
)

__all__ = ["Cells", "cells_around", "cells_of"]

Doubles = NDArray[np.float64]
Steps = NDArray[np.int32]

ROUNDING = 2.0  # seven deviations of the error of rounding to integers
MOST_MARGIN = 0.25  # of the width of a cell
HAIR = 1 / 1024  # of it, for values that are floats
# zeros: deviation of their coefficients over the scale of a Laplace distribution that has as many,
# and where it saturates, both as found on volumes that priors are trained on
DEVIATION, LARGEST = 0.85, 0.29
HALF_ZERO = 0.65  # of the width of the interval of zeros, in steps
FEWEST = 8  # numbers other than 0 that tell how wide a band is
FINER, FINER_DIAGONAL = 0.42, 0.25  # deviation of a band over that of the next coarser one


@dataclass(frozen=True, eq=False)
class Cells:
    """Intervals of the coefficients of a brick, in stored units.

    Attributes
    ----------
    depth : int
        Splits of z.
    zero : float
        Stored value that coefficients count from.
    low, high : (z, y, x) float64
        Ends of the intervals.
    units : (z, y, x) float64
        Coefficient that a voxel of white noise of deviation 1 gives.
    missing : tuple of float
        Per band, the deviation of what the stream leaves open, in ``units``.
    """

    depth: int
    zero: float
    low: Doubles
    high: Doubles
    units: Doubles
    missing: tuple[float, ...]

    @property
    def shape(self) -> Triple:
        """Extents of the brick."""
        z, y, x = self.low.shape
        return z, y, x

    def bands(self) -> tuple[Band, ...]:
        """Boxes of coefficients of like frequency, in the order of ``missing``."""
        return bands(self.shape, self.depth)

    def analyse(self, values: Doubles) -> Doubles:
        """Coefficients (z, y, x) of stored values."""
        return analyse(values - self.zero, self.depth)

    def combine(self, coefficients: Doubles) -> Doubles:
        """Stored values of coefficients."""
        return combine(coefficients, self.depth) + self.zero

    def nearest(self, coefficients: Doubles) -> Doubles:
        """Coefficients moved into their intervals."""
        inside: Doubles = np.clip(coefficients, self.low, self.high)
        return inside

    def outside(self, coefficients: Doubles) -> NDArray[np.bool_]:
        """Which coefficients contradict the stream."""
        wrong: NDArray[np.bool_] = (coefficients < self.low) | (coefficients > self.high)
        return wrong

    def moved(self, values: Doubles, by: Doubles) -> Doubles:
        """Stored values whose coefficients are larger by so much."""
        moved: Doubles = values + combine(by, self.depth)
        return moved

    def inner(self, *, whole: bool) -> Cells:
        """Narrower by what rounding values, to integers if ``whole``, may move coefficients."""
        share = MOST_MARGIN if whole else HAIR
        margin = np.minimum(ROUNDING * self.units, share * (self.high - self.low))
        return replace(self, low=self.low + margin, high=self.high - margin)


def cells_of(read: ReadRange, index: BrickIndex) -> Cells:
    """Cells of a brick that the wavelet's stream is in.

    Raises
    ------
    FormatError
        Damaged, or coded by another method (kind ``"bad-method"``).
    """
    fields, what = index.fields, f"brick {index.position}"
    if not isinstance(fields, WaveletFields):
        raise FormatError(f"{what}: expected fields of the wavelet", kind="bad-method")
    data = read_section(read, index.section("base"), what=what)
    steps, depth = decode_steps(data, index.valid, what=what)
    return cells_around(steps, depth, fields)


def cells_around(steps: Steps, depth: int, fields: WaveletFields) -> Cells:
    """Cells that numbers of quantiser steps (z, y, x) are in."""
    zero, step = fields.low, fields.step * UNITS
    z, y, x = steps.shape
    model = new_model(steps, depth)
    low, high, units = (np.empty(steps.shape) for _ in range(3))
    weights = band_weights((z, y, x), depth)
    for number, (band, weight) in enumerate(zip(bands((z, y, x), depth), weights, strict=True)):
        box = tuple(slice(*part) for part in band.box)
        _intervals(model, number, PRICE, low, high)
        unit = weight / (1 << WEIGHT_BITS)
        low[box] *= step * unit
        high[box] *= step * unit
        units[box] = unit
    missing = tuple(step * part for part in _missing(steps, bands((z, y, x), depth)))
    return Cells(depth, zero, low, high, units, missing)


def _missing(steps: Steps, found: tuple[Band, ...]) -> list[float]:
    """Per band, the deviation of coefficients from their numbers, in steps.

    A band with few numbers other than 0 is as much weaker than its parent as bands usually are.
    """
    parts: list[float] = []
    for band in found:
        own = steps[tuple(slice(*part) for part in band.box)]
        others = int(np.count_nonzero(own))
        scale = HALF_ZERO / math.log((own.size + 1) / (others + 0.5)) if own.size else 0.0
        deviation = LARGEST * math.tanh(DEVIATION * scale / LARGEST)
        if others < FEWEST and band.parent >= 0:
            share = FINER_DIAGONAL if band.kind == 3 else FINER
            deviation = min(deviation, share * parts[band.parent])
        parts.append(deviation)
    return parts


@compiled
def _intervals(m, band, price, low, high):  # type: ignore[no-untyped-def]
    """Ends of the intervals of a band, in its quantiser steps: where `fit.quantise` changes."""
    z0, z1, y0, y1, x0, x1 = m.boxes[band]
    for z in range(z0, z1):
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected = expected_magnitude(m, band, z, y, x) / 4096.0
                more = price * math.log2((1 + expected) / expected) / 2
                number = abs(int(m.steps[z, y, x]))
                first = number - 0.5 + more
                if number == 1:
                    first += price / 2
                last = number + 0.5 + more
                if number == 0:
                    last += price / 2
                    first = -last
                if m.steps[z, y, x] < 0:
                    first, last = -last, -first
                low[z, y, x] = first
                high[z, y, x] = last
