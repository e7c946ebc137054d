"""Stored values to normalised samples and back. The way back is part of the format (SPEC 5.9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["IntensityMapping", "denormalise", "integer_mapping", "normalise"]

UNIT = 1 << SAMPLE_FRACTION_BITS
SAMPLE_LIMIT = 4 * UNIT - 1  # normalised samples saturate just below +-4

Values = NDArray[np.generic]
Samples = NDArray[np.int64]


@dataclass(frozen=True)
class IntensityMapping:
    """Affine map between stored values and normalised units: ``low`` -> -1, ``high`` -> +1."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise FormatError(
                f"intensity mapping: expected finite low < high, found {self.low!r}, {self.high!r}",
                kind="bad-mapping",
            )

    def fits(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether a stream of ``dtype`` may carry this mapping (SPEC section 10)."""
        bound = max(abs(self.low), abs(self.high))
        if dtype.kind == "f":
            return bound <= c.MAX_MAPPED_FLOAT
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        return whole and bound < c.MAX_MAPPED_INTEGER


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
