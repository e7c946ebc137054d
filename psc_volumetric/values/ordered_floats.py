"""Floats as integers in the same order, bit by bit. Part of the format (SPEC section 15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError

__all__ = ["float_keys", "floats_from_keys", "join_words", "split_words"]

Integers = NDArray[np.int64]


def float_keys(values: NDArray[np.floating]) -> Integers:
    """Map f4 or f8 to integers in the order of the numbers; every bit pattern has its own.

    Parameters
    ----------
    values : any shape, float32 or float64
        NaN payloads and the sign of zero are kept.

    Returns
    -------
    same shape, int64
        f4: in [-2^31, 2^31). Positive numbers keep their bits; negative ones are reversed, so
        that -0.0 becomes -1.
    """
    size = values.dtype.itemsize
    if values.dtype.kind != "f" or size not in (4, 8):
        raise ParameterError(
            f"keys exist for float32 and float64, found {values.dtype}", kind="bad-dtype"
        )
    bits = np.ascontiguousarray(values).astype(f"<f{size}", copy=False).view(f"<i{size}")
    return _flipped(bits).astype(np.int64)


def floats_from_keys(keys: Integers, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Inverse of :func:`float_keys` for ``dtype`` float32 or float64."""
    size = np.dtype(dtype).itemsize
    bits = np.ascontiguousarray(_flipped(keys.astype(f"<i{size}")))
    return bits.view(f"<f{size}").astype(dtype, copy=False)


def _flipped(bits: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Reverse the order of negative patterns; its own inverse."""
    flipped: NDArray[np.signedinteger] = bits ^ (
        (bits >> (8 * bits.dtype.itemsize - 1)) & np.iinfo(bits.dtype).max
    )
    return flipped


def split_words(keys: Integers) -> tuple[Integers, Integers]:
    """Upper and lower 32 bits of 64-bit integers, both as signed integers of 32 bits."""
    return keys >> 32, (keys & 0xFFFFFFFF) - (1 << 31)


def join_words(high: Integers, low: Integers) -> Integers:
    """Inverse of :func:`split_words`."""
    return (high << 32) + (low + (1 << 31))
