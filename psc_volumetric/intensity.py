"""Stored values to normalised samples and back. The way back is part of the format (SPEC 5.9)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.bitstream.header import IntensityMapping
from psc_volumetric.errors import ParameterError

__all__ = ["denormalise", "integer_mapping", "normalise"]

UNIT = 1 << SAMPLE_FRACTION_BITS
SAMPLE_LIMIT = 4 * UNIT - 1  # normalised samples saturate just below +-4

Values = NDArray[np.generic]
Samples = NDArray[np.int64]


def normalise(values: Values, mapping: IntensityMapping) -> Samples:
    """Stored values to samples with 11 fraction bits; encoder only."""
    span = mapping.high - mapping.low
    scaled = (values.astype(np.float64) - mapping.low) * (2 * UNIT / span) - UNIT
    return np.clip(np.rint(scaled), -SAMPLE_LIMIT, SAMPLE_LIMIT).astype(np.int64)


def denormalise(
    samples: NDArray[np.integer], mapping: IntensityMapping, dtype: np.dtype[np.generic]
) -> Values:
    """Samples with 11 fraction bits to stored values (SPEC section 5.9).

    Integers: ``low + floor(((m + 2048) * (high - low) + 2048) / 4096)``, saturating. Floats: the
    same expression in IEEE double, three operations in this order, then one conversion.
    """
    shifted = samples.astype(np.int64) + UNIT
    if dtype.kind == "f":
        # the multiplier is a power-of-two multiple: one rounding for *, one for +
        exact = shifted.astype(np.float64) * ((mapping.high - mapping.low) / (2 * UNIT))
        floats: Values = (mapping.low + exact).astype(dtype)
        return floats
    span = int(mapping.high) - int(mapping.low)
    wide = int(mapping.low) + ((shifted * span + UNIT) >> (SAMPLE_FRACTION_BITS + 1))
    info = np.iinfo(dtype.str)
    values: Values = np.clip(wide, info.min, info.max).astype(dtype)
    return values


def integer_mapping(mapping: IntensityMapping, dtype: np.dtype[np.generic]) -> IntensityMapping:
    """Round the mapping outwards to integers when the stored values are integers."""
    if dtype.kind == "f":
        return mapping
    low, high = math.floor(mapping.low), math.ceil(mapping.high)
    rounded = IntensityMapping(low, max(high, low + 1))
    if not rounded.fits(dtype):
        raise ParameterError(f"intensity mapping {mapping} is out of range", kind="bad-mapping")
    return rounded
