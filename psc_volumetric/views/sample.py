"""Drawing what a stream leaves open: noise with the spread that it states, where it states it."""

from __future__ import annotations

import hashlib
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.tables import gaussian_table
from psc_volumetric.entropy.threefry import threefry2x32
from psc_volumetric.methods.wavelet.cells import Cells
from psc_volumetric.methods.wavelet.transform import Band

__all__ = ["STRENGTH", "drawn"]

Doubles = NDArray[np.float64]

STRENGTH = 0.82  # of the deviation that is missing: 2.2 dB below the mean, where all of it is 3
TABLE_UNIT = 2048.0
MOST_SCALING = 4.0


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
    words = np.frombuffer(hashlib.sha256(key).digest()[:8], "<u4").tolist()
    power = sigma.astype(np.float64) ** 2
    total = float(power.sum())
    wanted = sum(
        _size(band) * deviation**2
        for band, deviation in zip(cells.bands(), cells.missing, strict=True)
    )
    if not total or not wanted:
        return cells.combine(cells.nearest(coefficients))
    scaling = min(max((total / wanted) ** 0.5, 1 / MOST_SCALING), MOST_SCALING)
    usual = (total / power.size) ** 0.5
    for number, (band, deviation) in enumerate(zip(cells.bands(), cells.missing, strict=True)):
        box = tuple(slice(*part) for part in band.box)
        local = np.sqrt(_seen_at(power, band)) / usual
        noise = _gaussian((words[0], words[1]), number, local.shape) * local * cells.units[box]
        coefficients[box] += STRENGTH * scaling * deviation * noise
    return cells.combine(cells.nearest(coefficients))


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
