"""Numbers of quantiser steps that are chosen again, with all that they do. Encoder only.

The first choice (:mod:`psc_volumetric.methods.wavelet.fit`) takes every coefficient for itself, as
if the transform were orthogonal and as if a number cost its own bits alone. Here it is known what a
number costs its neighbours (:mod:`psc_volumetric.methods.wavelet.prices`), and the slope of the
error of samples along each coefficient says where it had best be: an eighth of the coefficients
at a time, so that neighbours do not all mend the same error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.methods.wavelet.coder import new_model
from psc_volumetric.methods.wavelet.gradient import curvatures, decoded, slopes
from psc_volumetric.methods.wavelet.kernel import LARGEST, SIBLING
from psc_volumetric.methods.wavelet.prices import (
    COLOURS,
    LEVELS,
    PRICED,
    choose,
    count_prices,
    expect,
)
from psc_volumetric.methods.wavelet.transform import (
    WEIGHT_BITS,
    Triple,
    band_weights,
    bands,
)

__all__ = ["PRICE", "Chooser", "refined"]

Steps = NDArray[np.int32]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

PRICE = 0.1  # of a bit, in squared quantiser steps, where all bits are counted
COARSEST = 6  # splits of y and x; farther ones are few, and depend on one another
ALL = -1
ANY = 1 << 16  # splits


class Memory(NamedTuple):
    """What the compiled loops work on.

    ``steps`` and ``expected`` (z, y, x) are numbers and what is expected of their magnitudes; the
    rest, but for ``prices``, describes bands: boxes, which axes are halved from the parent, the
    one finer band, later siblings with their shares, and splits of y and x.
    """

    steps: Steps
    expected: Steps
    prices: NDArray[np.float64]
    boxes: Integers
    halved: Integers
    children: Integers
    later: Integers
    shares: Integers
    scales: Integers


def _memory(steps: Steps, depth: int) -> Memory:
    z, y, x = steps.shape
    found = bands((z, y, x), depth)
    model = new_model(steps, depth)
    children, later = np.full(len(found), -1), np.full((len(found), 2), -1)
    shares = np.zeros((len(found), 2), np.int64)
    for number, band in enumerate(found):
        if band.parent >= 0:
            children[band.parent] = number
        for sibling in band.siblings:
            place = int(later[sibling, 0] >= 0)
            later[sibling, place] = number
            shares[sibling, place] = SIBLING // len(band.siblings)
    scales = np.array([max(band.splits[1:]) if band.kind else ANY for band in found], np.int64)
    prices = np.zeros((LEVELS, PRICED))
    return Memory(
        steps.copy(), np.zeros_like(steps), prices, model.boxes, model.halved, children, later,
        shares, scales,
    )  # fmt: skip


class Chooser:
    """Numbers of steps of a brick, and what they cost.

    Parameters
    ----------
    steps : (z, y, x) int32
        Numbers so far.
    depth : int
        Splits of z.
    """

    def __init__(self, steps: Steps, depth: int) -> None:
        self._memory = _memory(steps, depth)
        expect(self._memory)

    @property
    def steps(self) -> Steps:
        """The numbers as they are now."""
        return self._memory.steps

    def choose(self, away: Floats, round_number: int | None = None) -> Floats:
        """Choose again, with prices as they are now; gives what the numbers grow by.

        Parameters
        ----------
        away : (z, y, x) float32
            How far from its number each coefficient had best be, in its quantiser steps.
        round_number : int, optional
            Of rounds that take a part of the coefficients each; all are chosen by default.
        """
        changes = np.zeros_like(away)
        whole = round_number is None
        colour = ALL if round_number is None else round_number % COLOURS
        count_prices(self._memory, np.zeros((LEVELS, PRICED)))
        choose(self._memory, away, changes, colour, ANY if whole else COARSEST, PRICE)
        return changes


def refined(
    steps: Steps,
    coefficients: NDArray[np.float64],
    step: float,
    depth: int,
    measured: NDArray[np.bool_] | None = None,
) -> Steps:
    """Numbers of steps that leave less error in fewer bits.

    Parameters
    ----------
    steps : (z, y, x) int32
        The first choice.
    coefficients : (z, y, x) float64
        Of the source.
    step : float
        Quantiser step of the brick, unit of the coefficients.
    depth : int
        Splits of z.
    measured : (z, y, x) bool, optional
        Voxels whose errors count; all by default.
    """
    away = _away(steps, coefficients, step, depth)
    error = decoded(-away, depth)
    inverse = np.float32(-1) / curvatures(error.shape, depth).astype(np.float32)
    chooser = Chooser(steps, depth)
    changes = chooser.choose(away)
    for number in range(COLOURS):
        error += decoded(changes, depth)
        if measured is not None:
            error *= measured
        away = slopes(error, depth)
        away *= inverse
        changes = chooser.choose(away, number)
    return chooser.steps


def _away(steps: Steps, coefficients: NDArray[np.float64], step: float, depth: int) -> Floats:
    """How far coefficients are from their numbers, in their quantiser steps."""
    z, y, x = steps.shape
    out = np.empty((z, y, x), np.float32)
    shape: Triple = (z, y, x)
    for band, weight in zip(bands(shape, depth), band_weights(shape, depth), strict=True):
        box = tuple(slice(*part) for part in band.box)
        scaled = coefficients[box] * ((1 << WEIGHT_BITS) / (step * weight))
        out[box] = np.clip(scaled, -LARGEST, LARGEST) - steps[box]
    return out
