"""Measurements to symbols and back. Part of the format (SPEC section 5.6).

``uniform``: value = mean + symbol * step. ``float8``: the nearest E4M3 number (Micikevicius et
al., arXiv:2209.05433), the paper's choice; ties go to the even code, overflow saturates at 448.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["float8_symbols", "float8_values", "uniform_symbols"]

DEAD_ZONE = 10  # encoder only: sixteenths of a step below which a residual becomes zero


def uniform_symbols(residual: torch.Tensor, step: int) -> torch.Tensor:
    """Quantise ``residual`` (int64) to multiples of ``step``, ties and near-ties towards zero.

    Encoder only: the decoder accepts any symbol. Magnitudes up to ``DEAD_ZONE / 16`` of a step
    above a multiple round down, which costs little error and saves many bits.
    """
    sign = torch.sign(residual)
    magnitude = torch.div(
        residual.abs() * 16 + (16 - DEAD_ZONE) * step, 16 * step, rounding_mode="floor"
    )
    return sign * magnitude


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
