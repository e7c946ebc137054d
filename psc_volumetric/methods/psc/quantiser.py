"""Measurements to symbols and back. Part of the format (SPEC section 5.6).

``uniform``: value = mean + symbol * step. ``float8``: the nearest E4M3 number (Micikevicius et
al., arXiv:2209.05433), the paper's choice; ties go to the even code, overflow saturates at 448.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.entropy.tables import SCALE_BINS, symbol_frequencies, symbol_limit

__all__ = ["float8_cells", "float8_symbols", "float8_values", "uniform_cells", "uniform_symbols"]

THRIFT = 0.1  # squared steps of error that a bit is worth
LARGEST_COSTED = 62  # larger symbols are rounded


@functools.cache
def _extra_bits() -> NDArray[np.float64]:
    """Bits that magnitude m + 1 costs more than m, (scale bins, LARGEST_COSTED) float64."""
    extra = np.zeros((SCALE_BINS, LARGEST_COSTED))
    for scale_bin in range(SCALE_BINS):
        limit = symbol_limit(scale_bin)
        bits = 24 - np.log2(symbol_frequencies(scale_bin)[limit:])
        known = np.rint(np.diff(bits) * 1024)[:LARGEST_COSTED] / 1024
        extra[scale_bin, : len(known)] = known
    return extra


def uniform_symbols(residual: torch.Tensor, step: int, bins: torch.Tensor) -> torch.Tensor:
    """Quantise ``residual`` (int64) to multiples of ``step``, ties and near-ties towards zero.

    Encoder only: the decoder accepts any symbol. Of the two multiples around a residual the one
    nearer to zero is taken unless the other saves more error than its bits are worth.

    Parameters
    ----------
    residual : (m,) int64
    step : int
    bins : (m,) int64
        Scale bin of each symbol.
    """
    magnitude = residual.abs()
    low = torch.div(magnitude, step, rounding_mode="floor")
    saved = (2 * (magnitude - low * step) - step).double() / step
    extra = torch.from_numpy(_extra_bits()).to(residual.device)
    costed = (bins < SCALE_BINS) & (low < LARGEST_COSTED)
    cost = extra[bins.clamp_max(SCALE_BINS - 1), low.clamp_max(LARGEST_COSTED - 1)]
    up = saved > torch.where(costed, THRIFT * cost, 0.0)
    return torch.sign(residual) * (low + up.long())


def uniform_cells(symbols: torch.Tensor, bins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest residual, in steps, that :func:`uniform_symbols` gives these symbols.

    Parameters
    ----------
    symbols, bins : (m,) int64

    Returns
    -------
    low, high : (m,) float64
    """
    magnitude = symbols.abs()
    last = magnitude + _turn(magnitude, bins)
    first = torch.where(magnitude > 0, magnitude - 1 + _turn(magnitude - 1, bins), -last)
    negative = symbols < 0
    return torch.where(negative, -last, first), torch.where(negative, -first, last)


def _turn(low: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Part of a step past ``low`` from which on the next symbol is taken."""
    costed = (bins < SCALE_BINS) & (low < LARGEST_COSTED)
    at = low.clamp(0, LARGEST_COSTED - 1)
    cost = torch.from_numpy(_extra_bits()).to(low.device)[bins.clamp_max(SCALE_BINS - 1), at]
    return torch.where(costed, (1 + THRIFT * cost) / 2, 0.5).clamp(0, 1)


def float8_cells(values: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest number (11 fraction bits) that is rounded to these E4M3 values.

    Parameters
    ----------
    values : (m,) int64
        Of :func:`float8_values`, or their negatives.
    """
    known = float8_values().astype(np.float64)
    code = np.searchsorted(known, np.abs(values))
    middles = (known[1:] + known[:-1]) / 2
    last = np.append(middles, np.inf)[code]
    first = np.where(code > 0, np.append(-middles[0], middles)[code], -last)
    return np.where(values < 0, -last, first), np.where(values < 0, -first, last)


@functools.cache
def float8_values() -> NDArray[np.int64]:
    """The 127 non-negative E4M3 numbers with 11 fraction bits, ascending; the index is the code."""
    values = [mantissa << 2 for mantissa in range(8)]  # subnormals: m / 8 * 2^-6
    for exponent in range(1, 16):
        top = 7 if exponent == 15 else 8  # the last code of the last binade is NaN
        values += [(8 + m) << (exponent + 1) for m in range(top)]
    return np.array(values, np.int64)


def float8_symbols(y: NDArray[np.int64]) -> NDArray[np.int32]:
    """Nearest E4M3 code (0..126, plus 128 when negative) of integers with 11 fraction bits."""
    values = float8_values()
    magnitude = np.abs(y)
    above = np.searchsorted(values, magnitude).clip(1, len(values) - 1)
    low, high = values[above - 1], values[above]
    twice = 2 * magnitude - low - high
    up = (twice > 0) | ((twice == 0) & (above % 2 == 0))
    code = np.where(up, above, above - 1)
    code = np.where(magnitude == 0, 0, code)
    return np.where((y < 0) & (code > 0), code + 128, code).astype(np.int32)
