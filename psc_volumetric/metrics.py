"""Definitions of rate and distortion, used wherever a number is published.

Rates count every stored bit (headers and indexes included) per source voxel; distortion is
measured in stored units against the source. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psc_volumetric.errors import ParameterError

__all__ = [
    "bd_psnr_db",
    "bd_rate_percent",
    "data_range",
    "interpolate_at_rate",
    "max_error",
    "mse",
    "psnr_db",
    "rate_bpv",
]

_BLOCK = 1 << 22


def _pair(
    reference: ArrayLike, restored: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.bool_] | None]:
    first, second = np.asarray(reference), np.asarray(restored)
    if first.shape != second.shape:
        raise ParameterError(
            f"expected two arrays of one shape, found {first.shape!r} and {second.shape!r}",
            kind="shape-mismatch",
        )
    keep = None if mask is None else np.asarray(mask, dtype=bool)
    if keep is not None and keep.shape != first.shape:
        raise ParameterError(
            f"expected a mask of shape {first.shape!r}, found {keep.shape!r}",
            kind="shape-mismatch",
        )
    return first.reshape(-1), second.reshape(-1), None if keep is None else keep.reshape(-1)


def _differences(
    reference: ArrayLike, restored: ArrayLike, mask: ArrayLike | None
) -> tuple[int, float, float]:
    """Count of voxels, sum of squared differences and largest difference, block by block."""
    first, second, keep = _pair(reference, restored, mask)
    count, total, largest = 0, 0.0, 0.0
    for start in range(0, first.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        gap = np.abs(first[part].astype(np.float64) - second[part].astype(np.float64))
        if keep is not None:
            gap = gap[keep[part]]
        if gap.size:
            count += gap.size
            total += float(np.dot(gap, gap))
            largest = max(largest, float(gap.max()))
    return count, total, largest


def mse(reference: ArrayLike, restored: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean squared error in stored units squared.

    Parameters
    ----------
    reference, restored : array of any real dtype, equal shapes
        Compared as float64, in blocks, so that large volumes need no float copy.
    mask : bool array, optional
        True where a voxel counts (special values are left out by the caller).

    Returns
    -------
    float
        0.0 when no voxel counts.

    Raises
    ------
    ParameterError : shapes disagree.
    """
    count, total, _ = _differences(reference, restored, mask)
    return total / count if count else 0.0


def max_error(reference: ArrayLike, restored: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Largest absolute difference in stored units; arguments as for `mse`."""
    return _differences(reference, restored, mask)[2]


def data_range(values: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Largest minus smallest finite value: the peak that PSNR is stated against.

    Returns 0.0 when no voxel counts or all are equal.
    """
    array = np.asarray(values)
    keep = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, dtype=bool)
    if mask is not None:
        keep = keep & np.asarray(mask, dtype=bool)
    chosen = array[keep]
    return float(chosen.max()) - float(chosen.min()) if chosen.size else 0.0


def psnr_db(
    reference: ArrayLike, restored: ArrayLike, peak: float, mask: ArrayLike | None = None
) -> float:
    """Peak signal-to-noise ratio in dB.

    Parameters
    ----------
    reference, restored, mask
        As for `mse`.
    peak : float
        Positive; here always the data range of the whole volume, stored units.

    Returns
    -------
    float
        Infinity when the arrays agree exactly.

    Raises
    ------
    ParameterError : shapes disagree or peak is not positive.
    """
    if not peak > 0:
        raise ParameterError(f"expected a positive peak, found {peak!r}", kind="bad-peak")
    error = mse(reference, restored, mask)
    return float("inf") if error == 0 else float(10 * np.log10(peak * peak / error))


def rate_bpv(nbytes: int, voxels: int) -> float:
    """Stored bits per source voxel, every byte counted.

    Raises
    ------
    ParameterError : voxels is not positive or nbytes is negative.
    """
    if voxels <= 0 or nbytes < 0:
        raise ParameterError(
            f"expected nbytes >= 0 and voxels > 0, found {nbytes!r} and {voxels!r}",
            kind="bad-rate",
        )
    return 8.0 * nbytes / voxels


def _curve(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """Points sorted by x, and the slopes of a monotone cubic (Fritsch and Carlson)."""
    x, order = np.unique(np.asarray(x, dtype=np.float64), return_index=True)
    y = np.asarray(y, dtype=np.float64)[order]
    if len(x) < 2 or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ParameterError(
            f"expected at least two finite points of different rate and PSNR, found {len(x)}",
            kind="bad-curve",
        )
    step = np.diff(x)
    secant = np.diff(y) / step
    slope = np.empty_like(y)
    slope[0], slope[-1] = secant[0], secant[-1]
    for k in range(1, len(x) - 1):
        before, after = secant[k - 1], secant[k]
        if before * after <= 0:
            slope[k] = 0.0
        else:
            one, two = 2 * step[k] + step[k - 1], step[k] + 2 * step[k - 1]
            slope[k] = (one + two) / (one / before + two / after)
    return x, y, slope


def _evaluate(
    curve: tuple[NDArray[np.float64], ...], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    x, y, slope = curve
    k = np.clip(np.searchsorted(x, points, side="right") - 1, 0, len(x) - 2)
    width = x[k + 1] - x[k]
    t = (points - x[k]) / width
    low = (1 + 2 * t) * (1 - t) ** 2 * y[k] + t * (1 - t) ** 2 * width * slope[k]
    high = t * t * (3 - 2 * t) * y[k + 1] + t * t * (t - 1) * width * slope[k + 1]
    return np.asarray(low + high, dtype=np.float64)


def _mean_gap(
    anchor: tuple[NDArray[np.float64], ...], other: tuple[NDArray[np.float64], ...]
) -> float | None:
    """Mean of other minus anchor over their common range of x; None when there is none."""
    low = max(anchor[0][0], other[0][0])
    high = min(anchor[0][-1], other[0][-1])
    if high <= low:
        return None
    points = np.linspace(low, high, 1001)
    gap = _evaluate(other, points) - _evaluate(anchor, points)
    return float(np.trapezoid(gap, points) / (high - low))


def bd_psnr_db(
    anchor_rates: Sequence[float],
    anchor_psnrs: Sequence[float],
    rates: Sequence[float],
    psnrs: Sequence[float],
) -> float | None:
    """Bjontegaard difference: mean PSNR gain in dB of a curve over an anchor at equal rate.

    Parameters
    ----------
    anchor_rates, rates : sequences of float
        Rates in bits per voxel, all positive; any order.
    anchor_psnrs, psnrs : sequences of float
        PSNR in dB for each rate.

    Returns
    -------
    float or None
        Positive when the second curve is better. None when the rates do not overlap.

    Raises
    ------
    ParameterError : fewer than two finite points in a curve.

    Notes
    -----
    The definition is Bjontegaard's (VCEG-M33): mean gap over the common range of log rate. The
    interpolation is a monotone piecewise cubic in place of one cubic through four points, which
    is what later common test conditions use because it does not oscillate.
    """
    return _mean_gap(_curve(np.log10(anchor_rates), anchor_psnrs), _curve(np.log10(rates), psnrs))


def bd_rate_percent(
    anchor_rates: Sequence[float],
    anchor_psnrs: Sequence[float],
    rates: Sequence[float],
    psnrs: Sequence[float],
) -> float | None:
    """Bjontegaard difference: mean change of rate in percent against an anchor at equal PSNR.

    Arguments, errors and interpolation as for `bd_psnr_db`, with the roles of log rate and PSNR
    exchanged (VCEG-M33).

    Returns
    -------
    float or None
        -20.0 when the second curve needs a fifth fewer bits. None when no PSNR is common.
    """
    gap = _mean_gap(_curve(anchor_psnrs, np.log10(anchor_rates)), _curve(psnrs, np.log10(rates)))
    return None if gap is None else float(100 * (10**gap - 1))


def interpolate_at_rate(
    rates: Sequence[float], values: Sequence[float], rate: float, slack: float = 0.0
) -> float | None:
    """Value of a curve at a rate, by the interpolation of `bd_psnr_db`.

    Parameters
    ----------
    rates, values : sequences of float
        The curve, any order.
    rate : float
        Where to read it, bits per voxel.
    slack : float
        Share of a rate that the curve is extended by, in a straight line, at both ends; 0 or more.

    Returns
    -------
    float or None
        None farther out.

    Raises
    ------
    ParameterError : fewer than two finite points.
    """
    x, y, slope = _curve(np.log10(rates), values)
    at = float(np.log10(rate))
    if not x[0] - np.log10(1 + slack) <= at <= x[-1] + np.log10(1 + slack):
        return None
    end = 0 if at < x[0] else -1
    if at < x[0] or at > x[-1]:
        return float(y[end] + slope[end] * (at - x[end]))
    return float(_evaluate((x, y, slope), np.array([at]))[0])
