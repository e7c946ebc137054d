"""How good a decoded volume looks, beside PSNR: SSIM, HaarPSI and the power spectrum.

All three look at slices (y, x) one at a time, as people do, and are averaged over the slices.
Values are used in units of the volume's data range, so that 8-bit constants of the papers carry
over. Voxels without a measurement must hold the same values in both volumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError

__all__ = [
    "Quality",
    "check_stacks",
    "haarpsi",
    "measure_quality",
    "power_spectrum",
    "spectrum_gap_db",
    "ssim",
]

Plane = NDArray[np.float64]
Taps = tuple[float, ...]

SSIM_WINDOW, SSIM_SIGMA, SSIM_K = 11, 1.5, (0.01, 0.03)
HAAR_C, HAAR_ALPHA = 30.0, 4.2
SPECTRUM_BANDS = 32
_BLOCK = 64
_FLOOR = 1e-12  # of the largest band; keeps empty bands finite


def _gaussian_taps() -> Taps:
    distance = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (distance / SSIM_SIGMA) ** 2)
    return tuple((weights / weights.sum()).tolist())


_GAUSSIAN = _gaussian_taps()


def check_stacks(reference: NDArray[np.generic], decoded: NDArray[np.generic], peak: float) -> None:
    """Refuse what is not two stacks (n, y, x) of one shape with a data range above 0.

    Raises
    ------
    ParameterError : kind ``"shape-mismatch"``, they are not.
    """
    if reference.shape != decoded.shape or reference.ndim != 3 or not peak > 0:
        raise ParameterError(
            f"expected two stacks of one shape and a positive peak, found {reference.shape!r}, "
            f"{decoded.shape!r} and {peak!r}",
            kind="shape-mismatch",
        )


@dataclass(frozen=True)
class Quality:
    """Likeness of a decoded volume to its source.

    Attributes
    ----------
    ssim, haarpsi : float or None
        1 for equal volumes; None when the planes are too small for the measure.
    spectrum_error_db : float
        Mean of the absolute values of ``spectrum_gap_db``.
    spectrum_gap_db : tuple of float
        10 log10 of decoded over source power in bands of equal width from 0 (mean excluded) to
        0.5 cycles per voxel; negative where detail was lost.
    borders : mapping
        Grid -> `pipelines.evaluation.borders.border_ratio`, of grids with borders inside.
    """

    ssim: float | None
    haarpsi: float | None
    spectrum_error_db: float
    spectrum_gap_db: tuple[float, ...]
    borders: Mapping[str, float] = field(default_factory=dict)

    @property
    def border(self) -> float | None:
        """The ratio of the grid whose borders show most, or were smoothed most; None without."""
        return max(self.borders.values(), key=lambda r: abs(r - 1), default=None)


def measure_quality(
    reference: NDArray[np.generic], decoded: NDArray[np.generic], low: float, peak: float
) -> Quality:
    """Compare two stacks of slices.

    Parameters
    ----------
    reference, decoded : (n, y, x) arrays of any real dtype, no NaN
        One slice at a time is turned into float64.
    low, peak : float
        Smallest value and data range of the volume; they map to 0 and 1.

    Returns
    -------
    Quality

    Raises
    ------
    ParameterError : shapes disagree or peak is not positive.
    """
    check_stacks(reference, decoded, peak)
    likeness: list[float] = []
    perceptual: list[float] = []
    powers = np.zeros((2, SPECTRUM_BANDS))
    for one, other in zip(reference, decoded, strict=True):
        first = (one.astype(np.float64) - low) / peak
        second = (other.astype(np.float64) - low) / peak
        if min(first.shape) >= SSIM_WINDOW:
            likeness.append(ssim(first, second))
        if min(first.shape) >= 16:
            perceptual.append(haarpsi(first, second))
        powers += power_spectrum(first), power_spectrum(second)
    gap = spectrum_gap_db(powers[0], powers[1])
    return Quality(
        ssim=float(np.mean(likeness)) if likeness else None,
        haarpsi=float(np.mean(perceptual)) if perceptual else None,
        spectrum_error_db=float(np.abs(gap).mean()),
        spectrum_gap_db=tuple(gap.tolist()),
    )


@lru_cache(maxsize=64)
def _band(taps: Taps, rows: int) -> Plane:
    """Matrix (rows, rows + taps - 1) that weighs neighbours with the taps."""
    matrix = np.zeros((rows, rows + len(taps) - 1))
    for row in range(rows):
        matrix[row, row : row + len(taps)] = taps
    return matrix


def _filter(plane: Plane, down: Taps, across: Taps) -> Plane:
    """Weigh neighbours along y, then along x; only where all of them lie inside the plane.

    Products with small band matrices are the fastest filter that NumPy has for doubles.
    """
    for taps in (down, across):
        rows = len(plane) - len(taps) + 1
        plane = np.concatenate(
            [
                _band(taps, min(_BLOCK, rows - at)) @ plane[at : at + _BLOCK + len(taps) - 1]
                for at in range(0, rows, _BLOCK)
            ]
        ).T
    return plane


def _gauss(plane: Plane) -> Plane:
    """Gaussian average over each 11 x 11 window that lies inside the plane."""
    return _filter(plane, _GAUSSIAN, _GAUSSIAN)


def ssim(reference: Plane, decoded: Plane) -> float:
    """Structural similarity of two planes, mean over all windows.

    Parameters
    ----------
    reference, decoded : (y, x) float64
        In units of the data range (L = 1), at least 11 x 11.

    Returns
    -------
    float
        At most 1; 1 for equal planes.

    Notes
    -----
    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Trans. Image Processing 13(4), 2004, eq. 13 with K1 = 0.01,
    K2 = 0.03 and the circular Gaussian window of 11 x 11 and sigma 1.5; windows that reach over
    the edge are left out, as in the authors' code. No subsampling before.
    """
    small, large = (k * k for k in SSIM_K)
    mean_x, mean_y = _gauss(reference), _gauss(decoded)
    square_x, square_y, product = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    squares = square_x + square_y
    variances = _gauss(reference * reference + decoded * decoded) - squares
    covariance = _gauss(reference * decoded) - product
    likeness = (2 * product + small) * (2 * covariance + large)
    likeness /= (squares + small) * (variances + large)
    return float(likeness.mean())


def _haar(plane: Plane, scale: int, axis: int) -> Plane:
    """Magnitude of the Haar difference along an axis, window of 2**scale voxels.

    The window ends half its width after each voxel; the plane is zero beyond its edges.
    """
    half = 1 << (scale - 1)
    taps = (1.0,) * (2 * half), (-1.0,) * half + (1.0,) * half
    wide = np.pad(plane, (half - 1, half))
    return np.asarray(np.abs(_filter(wide, taps[axis == 0], taps[axis == 1])) / (1 << scale))


def _subsample(plane: Plane) -> Plane:
    """Means of 2 x 2 voxels, zeros beyond the edges."""
    return _filter(np.pad(plane, (0, 1)), (0.5, 0.5), (0.5, 0.5))[::2, ::2]


def haarpsi(reference: Plane, decoded: Plane) -> float:
    """Haar wavelet-based perceptual similarity of two planes.

    Parameters
    ----------
    reference, decoded : (y, x) float64
        In units of the data range; multiplied by 255 for the constants of the paper.

    Returns
    -------
    float
        0..1; 1 for equal planes.

    Notes
    -----
    Reisenhofer, Bosse, Kutyniok and Wiegand, "A Haar wavelet-based perceptual similarity index
    for image quality assessment", Signal Processing: Image Communication 61, 2018, grayscale
    form with C = 30, alpha = 4.2 and the subsampling by two. Checked against the authors' code.
    """
    first, second = _subsample(255 * reference), _subsample(255 * decoded)
    total = weighted = 0.0
    for axis in (0, 1):
        likeness = np.zeros_like(first)
        for scale in (1, 2):
            one, other = _haar(first, scale, axis), _haar(second, scale, axis)
            likeness += (2 * one * other + HAAR_C) / (one * one + other * other + HAAR_C) / 2
        weight = np.maximum(_haar(first, 3, axis), _haar(second, 3, axis))
        total += float(weight.sum())
        weighted += float((weight / (1 + np.exp(-HAAR_ALPHA * likeness))).sum())
    if total == 0:
        return 1.0  # neither plane has structure
    share = weighted / total
    return float((np.log(share / (1 - share)) / HAAR_ALPHA) ** 2)


def power_spectrum(plane: Plane) -> NDArray[np.float64]:
    """Power in bands of spatial frequency, averaged over all directions.

    Parameters
    ----------
    plane : (y, x) float64

    Returns
    -------
    (32,) float64
        Mean squared magnitude of the Fourier transform of the plane, mean removed and a Hann
        window applied, in bands of equal width from 0 to 0.5 cycles per voxel; 0 for bands that
        a small plane has no frequency in. Corners beyond 0.5 are left out.
    """
    window = np.outer(np.hanning(plane.shape[0] + 2)[1:-1], np.hanning(plane.shape[1] + 2)[1:-1])
    power = np.abs(np.fft.rfft2((plane - plane.mean()) * window)) ** 2
    fy, fx = np.fft.fftfreq(plane.shape[0]), np.fft.rfftfreq(plane.shape[1])
    band = (np.hypot(fy[:, None], fx[None, :]) * 2 * SPECTRUM_BANDS).astype(np.int64)
    inside = band < SPECTRUM_BANDS
    inside[0, 0] = False
    total = np.bincount(band[inside], power[inside], SPECTRUM_BANDS)
    return np.asarray(total / np.maximum(1, np.bincount(band[inside], minlength=SPECTRUM_BANDS)))


def spectrum_gap_db(
    reference: NDArray[np.float64], decoded: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Decoded over source power per band in dB.

    A floor of 1e-12 of the strongest source band is added to both, so that a band that is empty
    in both counts as equal and one that was lost altogether stays finite.
    """
    floor = _FLOOR * max(float(reference.max()), 1e-300)
    return np.asarray(10 * np.log10((decoded + floor) / (reference + floor)))
