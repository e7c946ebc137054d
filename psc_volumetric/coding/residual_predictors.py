"""Coefficients of fitted predictors in a residual stream. Part of the format (SPEC section 15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coding.residual_layout import COEFFICIENT_BITS, MAX_COEFFICIENT
from psc_volumetric.errors import FormatError

__all__ = ["read_predictors", "write_predictors"]

Integers = NDArray[np.int64]
COARSE, FINE = 8, 12  # fraction bits of the coefficients of small and of large segments
SMALL_SEGMENT = 1 << 17  # voxels


def write_predictors(
    out: FieldWriter, predictors: tuple[Integers, Integers], voxels: int
) -> tuple[Integers, Integers]:
    """Append the coefficients, rounded to what the segment is worth; returns them rounded."""
    drop = COEFFICIENT_BITS - (COARSE if voxels < SMALL_SEGMENT else FINE)
    rounded = [(p + (1 << (drop - 1))) >> drop for p in predictors]
    out.pack("BBB", drop, *(len(p) for p in predictors))
    for coefficient in np.concatenate(rounded).reshape(-1).tolist():
        out.varint(2 * coefficient if coefficient >= 0 else -2 * coefficient - 1)
    first, others = (p << drop for p in rounded)
    return first, others


def read_predictors(
    fields: FieldReader, terms: int, most: int, has_others: bool, what: str
) -> tuple[Integers, Integers]:
    """Inverse of :func:`write_predictors`."""
    drop, first, others = fields.unpack("BBB")
    if drop > COEFFICIENT_BITS or not (1 <= first <= most and has_others <= others <= most):
        raise FormatError(
            f"{what}: impossible predictors in a residual stream ({first} and {others} sets, "
            f"{drop} bits dropped)",
            kind="bad-payload",
        )
    limit = (MAX_COEFFICIENT + 1) >> drop
    coded = [
        fields.varint(limit=2 * limit, name="coefficient") for _ in range((first + others) * terms)
    ]
    values = np.array([c >> 1 if c % 2 == 0 else -(c + 1) >> 1 for c in coded], np.int64) << drop
    table = values.reshape(first + others, terms)
    return table[:first], table[first:]
