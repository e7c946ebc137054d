"""Drawing what a stream leaves open: noise with the spread that it states, where it states it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import repeat
from typing import Self

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.tables import gaussian_table
from psc_volumetric.entropy.threefry import threefry2x32
from psc_volumetric.methods.wavelet.cells import FINER, FINER_DIAGONAL, Cells
from psc_volumetric.methods.wavelet.transform import (
    WEIGHT_BITS,
    Band,
    analyse,
    band_weights,
    bands,
    combine,
    full_depth,
)

__all__ = ["STRENGTH", "Around", "drawn", "drawn_around"]

Doubles = NDArray[np.float64]

STRENGTH = 0.82  # of the deviation that is missing: 2.2 dB below the mean, where all of it is 3
TABLE_UNIT = 2048.0
MOST_SCALING = 4.0
MOST_SIGMA = 3.0  # between a view and the mean, where nothing else is known
MOST_DEPTH = 2  # splits of z
HALVINGS = 60
TINY = 1e-300


def drawn(mean: Doubles, sigma: NDArray[np.float32], cells: Cells, key: bytes) -> Doubles:
    """A volume that the stream may stand for.

    Parameters
    ----------
    mean : (z, y, x) float64
        Decoded values, stored units.
    sigma : (z, y, x) float32
        Their spread.
    cells : Cells
        What the stream says.
    key : bytes
        Of the noise.

    Returns
    -------
    (z, y, x) float64
        Its coefficients lie in the cells.

    Notes
    -----
    What is missing has in every band the deviation that the numbers of its neighbours tell
    (`Cells.missing`), and in every place the share that sigma has there; the sum over all bands is
    scaled to the sum of sigma over all voxels, which the encoder measured. The error of a mean
    does not correlate with the mean, so a draw of the same deviation doubles the squared error.
    """
    coefficients = cells.analyse(mean)
    power = sigma.astype(np.float64) ** 2
    total = float(power.sum())
    wanted = sum(
        _size(band) * deviation**2
        for band, deviation in zip(cells.bands(), cells.missing, strict=True)
    )
    if total and wanted:
        scaling = min(max((total / wanted) ** 0.5, 1 / MOST_SCALING), MOST_SCALING)
        deviations = [scaling * deviation for deviation in cells.missing]
        _add_noise(coefficients, power, cells.bands(), deviations, cells.units, key)
    return cells.combine(cells.nearest(coefficients))


@dataclass(frozen=True, eq=False)
class Around:
    """Intervals around decoded values: what is known where a stream has no numbers of its own.

    Attributes
    ----------
    low, high : (z, y, x) float64
    """

    low: Doubles
    high: Doubles

    @classmethod
    def of(cls, mean: Doubles, sigma: NDArray[np.float32]) -> Self:
        """Within three sigma."""
        reach = MOST_SIGMA * sigma.astype(np.float64)
        return cls(mean - reach, mean + reach)

    @property
    def zero(self) -> float:
        """Stored value that stands in for special ones without measured neighbours."""
        return 0.0

    def analyse(self, values: Doubles) -> Doubles:
        """The values themselves."""
        return values

    def moved(self, values: Doubles, by: Doubles) -> Doubles:
        """Values larger by so much."""
        moved: Doubles = values + by
        return moved

    def nearest(self, numbers: Doubles) -> Doubles:
        """Values moved into their intervals."""
        inside: Doubles = np.clip(numbers, self.low, self.high)
        return inside

    def outside(self, numbers: Doubles) -> NDArray[np.bool_]:
        """Which values lie farther away."""
        wrong: NDArray[np.bool_] = (numbers < self.low) | (numbers > self.high)
        return wrong

    def inner(self, *, whole: bool) -> Around:
        """The integers inside, or the same."""
        if not whole:
            return self
        middle = (self.low + self.high) / 2
        return Around(
            np.minimum(np.ceil(self.low), middle), np.maximum(np.floor(self.high), middle)
        )


def drawn_around(mean: Doubles, sigma: NDArray[np.float32], key: bytes) -> Doubles:
    """A volume whose difference from the mean has the spread that an archive states.

    Parameters
    ----------
    mean, sigma, key
        As for `drawn`.

    Notes
    -----
    A codec near the limit of what rates allow spends its error as water fills a vessel: up to a
    level of its own in every band, and all that a band has where it has less. What bands have is
    read off the mean; a band that it lost, from the next coarser one.
    """
    shape = (mean.shape[0], mean.shape[1], mean.shape[2])
    depth = min(MOST_DEPTH, full_depth(shape[0]))
    found, weights = bands(shape, depth), band_weights(shape, depth)
    middle = float(mean.mean())
    coefficients = analyse(mean - middle, depth)
    units = np.empty(shape)
    for band, weight in zip(found, weights, strict=True):
        units[_box(band)] = weight / (1 << WEIGHT_BITS)
    power = sigma.astype(np.float64) ** 2
    has = _bands_have(coefficients / units, found)
    deviations = _filled(has, [_size(band) for band in found], float(power.sum()))
    _add_noise(coefficients, power, found, deviations, units, key)
    noisy: Doubles = combine(coefficients, depth) + middle
    return noisy


def _bands_have(coefficients: Doubles, found: tuple[Band, ...]) -> list[float]:
    """Deviation of every band, not less than usual under a coarser one; all of the coarsest."""
    has: list[float] = []
    for band in found:
        own = coefficients[_box(band)]
        deviation = float(np.sqrt(np.mean(own**2))) if own.size else 0.0
        if band.parent >= 0:
            share = FINER_DIAGONAL if band.kind == 3 else FINER
            deviation = max(deviation, share * has[band.parent])
        has.append(deviation)
    return has


def _filled(has: list[float], sizes: list[int], total: float) -> list[float]:
    """Deviations up to one water level that hold so much power; in proportion past all there is."""
    have, size = np.array(has), np.array(sizes, np.float64)
    low, high = 0.0, float(have.max(initial=0.0))
    if (have**2 * size).sum() <= total:
        scaling = (total / max(float((have**2 * size).sum()), TINY)) ** 0.5
        return [float(deviation) * min(scaling, MOST_SCALING) for deviation in has]
    for _ in repeat(None, HALVINGS):
        level = (low + high) / 2
        held = float((np.minimum(have, level) ** 2 * size).sum())
        low, high = (level, high) if held < total else (low, level)
    return [min(float(deviation), low) for deviation in has]


def _add_noise(
    coefficients: Doubles,
    power: Doubles,
    found: tuple[Band, ...],
    deviations: list[float],
    units: Doubles,
    key: bytes,
) -> None:
    """Noise of these deviations in every band, in each place with its share of ``power``."""
    words = np.frombuffer(hashlib.sha256(key).digest()[:8], "<u4").tolist()
    usual = max(float(power.mean()), TINY) ** 0.5
    for number, (band, deviation) in enumerate(zip(found, deviations, strict=True)):
        box = _box(band)
        local = np.sqrt(_seen_at(power, band)) / usual
        noise = _gaussian((words[0], words[1]), number, local.shape) * local * units[box]
        coefficients[box] += STRENGTH * deviation * noise


def _box(band: Band) -> tuple[slice, ...]:
    return tuple(slice(*part) for part in band.box)


def _size(band: Band) -> int:
    z, y, x = (stop - start for start, stop in band.box)
    return z * y * x


def _seen_at(power: Doubles, band: Band) -> Doubles:
    """Means of a map over the voxels that each coefficient of a band stands on."""
    for axis, splits in enumerate(band.splits):
        for _ in repeat(None, splits):
            if power.shape[axis] % 2:
                last = np.take(power, [-1], axis)
                power = np.concatenate([power, last], axis)
            even, odd = (np.take(power, range(k, power.shape[axis], 2), axis) for k in (0, 1))
            power = (even + odd) / 2
    z, y, x = (stop - start for start, stop in band.box)
    return power[:z, :y, :x]


def _gaussian(key: tuple[int, int], band: int, shape: tuple[int, ...]) -> Doubles:
    """Normal numbers of deviation 1: four a counter, through the table of quantiles."""
    count = int(np.prod(shape))
    first, second = threefry2x32(key, np.arange(-(-count // 4), dtype=np.int64), np.int64(band))
    words = np.stack([first & 0xFFFF, first >> 16, second & 0xFFFF, second >> 16], axis=1)
    noise: Doubles = gaussian_table()[words.reshape(-1)[:count]].reshape(shape) / TABLE_UNIT
    return noise
