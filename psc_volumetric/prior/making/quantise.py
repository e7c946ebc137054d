"""Grids and weights of a network's integers, chosen for the least error under proven bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.prior.making.float_program import FloatStep
from psc_volumetric.prior.step import (
    EXACT_FLOAT32,
    RESIDUAL_LIMIT,
    SCORE_LIMIT,
    TABLE_BITS,
    TABLE_HALF,
    limit_of,
)

__all__ = [
    "CLIPS",
    "FRACTIONS",
    "Fit",
    "Grid",
    "Quantised",
    "grid_error",
    "quantise_weight",
    "relative_error",
    "score_grid",
    "shared_fraction",
    "smallest",
    "weight_loss",
    "weights_for",
    "widest",
]

MAX_EXPONENT = 14  # of a weight scale; only channels that are nearly zero reach it
HEADROOM = 0.95  # share of 2^24 given to products and bias; the rest holds the rounding half
FRACTIONS = {"silu": range(2, 14), "linear": range(2, TABLE_BITS + 1)}  # of activations
CLIPS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)  # shares of the largest input that a grid may reach

Quantised = tuple[NDArray[np.generic], NDArray[np.int64]]  # integer weights, their exponents


class Grid(NamedTuple):
    """Input of a convolution: fraction bits and range of its integers."""

    fraction: int
    lo: int
    hi: int


class Fit(NamedTuple):
    """A grid with the weights of the convolutions that read it, and their relative error."""

    error: float
    grid: Grid
    weights: list[Quantised]


def weights_for(step: FloatStep, grid: Grid, limit: int) -> Quantised:
    """Integer weights whose sums stay below 2^24 for inputs on ``grid``."""
    assert step.weight is not None and step.bias is not None
    exact, room = step.weight.numpy(), EXACT_FLOAT32 * HEADROOM
    biases = step.bias.abs().max(0).values.numpy() * 2.0**grid.fraction
    weight, exponent = quantise_weight(exact, limit)
    while True:
        sums = limit_of(weight, grid.lo, grid.hi) + biases * np.exp2(exponent.astype(np.float64))
        if sums.max() < room:
            return weight, exponent
        excess = np.ceil(np.log2(np.maximum(sums / room, 1))).astype(np.int64)
        weight, exponent = quantise_weight(
            exact, limit, exponent - np.maximum(excess, sums >= room)
        )


def weight_loss(step: FloatStep, weight: NDArray[np.generic], exponent: NDArray[np.int64]) -> float:
    """Squared error of integer weights relative to their power."""
    assert step.weight is not None
    exact = step.weight.numpy()
    scale = np.exp2(-exponent.astype(np.float64)).reshape(-1, 1, 1, 1)
    return float(((weight * scale - exact) ** 2).sum() / max((exact**2).sum(), 1e-30))


def quantise_weight(
    weight: NDArray[np.float64], limit: int, most: NDArray[np.int64] | None = None
) -> Quantised:
    """Round (O, I, k, k) weights to +-limit with a power-of-two scale per output channel.

    Parameters
    ----------
    weight : (O, I, k, k) float64
    limit : int
        Largest magnitude of the integers.
    most : (O,) int64, optional
        Largest exponent of each channel.

    Returns
    -------
    weight : (O, I, k, k) int8, or int16 when limit exceeds 127
    exponent : (O,) int64
        ``weight * 2**-exponent`` approximates the input; of two candidate exponents the one
        with the smaller squared error is taken.
    """
    largest = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), 1e-12)
    base = np.floor(np.log2(limit / largest))
    ceiling = np.full(len(weight), MAX_EXPONENT) if most is None else most
    base = np.minimum(base, ceiling).astype(np.int64)
    candidates = []
    for extra in (0, 1):
        scale = np.exp2((base + extra).astype(np.float64)).reshape(-1, 1, 1, 1)
        rounded = np.clip(np.rint(weight * scale), -limit, limit)
        error = ((rounded / scale - weight) ** 2).reshape(len(weight), -1).sum(1)
        candidates.append((error, rounded))
    second = (candidates[1][0] < candidates[0][0]) & (base < ceiling)
    chosen = np.where(second.reshape(-1, 1, 1, 1), candidates[1][1], candidates[0][1])
    return chosen.astype(np.int8 if limit <= 127 else np.int16), base + second


def smallest(activation: str, fraction: int) -> int:
    """Smallest input of a convolution after an activation, with so many fraction bits."""
    if activation == "relu":
        return 0
    lowest = -0.27846455 if activation == "silu" else -TABLE_HALF / 2.0**TABLE_BITS
    return math.floor(lowest * float(1 << fraction) + 0.5)


def score_grid(values: NDArray[np.float64], width: int) -> tuple[int, int]:
    """Fraction bits and limit of q or k: sums of ``width`` products stay below 2^23."""
    limit = math.isqrt((SCORE_LIMIT - 1) // width)
    return min(range(14), key=lambda f: grid_error(values, f, -limit, limit)), limit


def shared_fraction(samples: list[NDArray[np.float64]]) -> int:
    """Fraction bits for all residual registers with the least summed relative error.

    Rare values may saturate when that buys a finer grid for the rest.
    """
    power = [max(float(np.abs(v).mean()) ** 2, 1e-12) for v in samples]

    def cost(fraction: int) -> float:
        errors = (grid_error(v, fraction, -RESIDUAL_LIMIT, RESIDUAL_LIMIT) for v in samples)
        return sum(e / p for e, p in zip(errors, power, strict=True))

    return min(range(4, 14), key=cost)


def grid_error(values: NDArray[np.float64], fraction: int, lo: int, hi: int) -> float:
    """Square of the mean absolute error of values rounded to a grid.

    Registers have rare values a hundred times as large as the rest; in squares they would decide.
    """
    grid = np.clip(np.floor(values * 2.0**fraction + 0.5), lo, hi) * 2.0**-fraction
    return float(np.abs(grid - values).mean()) ** 2


def relative_error(batches: Sequence[NDArray[np.float64]], grid: Grid) -> float:
    """Squared error of values rounded to a grid over their power, averaged over noise levels.

    Each batch is of one noise level. Quiet levels, whose values are small, count as much as loud
    ones: they are the last that a decoder visits.
    """
    errors = []
    for values in batches:
        nearest = np.clip(np.floor(values * 2.0**grid.fraction + 0.5), grid.lo, grid.hi)
        error = float(((nearest * 2.0**-grid.fraction - values) ** 2).mean())
        errors.append(error / max(float((values**2).mean()), 1e-12))
    return float(np.mean(errors))


def widest(grid: Grid, readers: Sequence[FloatStep], weights: Sequence[Quantised]) -> Grid:
    """The grid with the largest upper end that the proof of every reader leaves room for.

    A grid symmetric about zero stays symmetric.
    """
    hi = RESIDUAL_LIMIT
    for step, (weight, exponent) in zip(readers, weights, strict=True):
        assert step.bias is not None
        scale = np.exp2(exponent.astype(np.float64) + grid.fraction)
        room = EXACT_FLOAT32 * HEADROOM - step.bias.abs().max(0).values.numpy() * scale
        if grid.lo == -grid.hi:
            unit = limit_of(weight, -1, 1)
        else:
            unit, room = limit_of(weight, 0, 1), room - limit_of(weight, grid.lo, 0)
        hi = min(hi, int((room / np.maximum(unit, 1)).min()))
    hi = max(hi, grid.hi)
    return Grid(grid.fraction, -hi if grid.lo == -grid.hi else grid.lo, hi)
