"""Coefficients of fitted predictors in a context stream. Part of the format (SPEC section 15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.context.layout import (
    COEFFICIENT_BITS,
    MAX_COEFFICIENT,
    MAX_SETS,
    neighbours_of,
)
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
    for coefficient in np.concatenate([p.reshape(-1) for p in rounded]).tolist():
        out.varint(2 * coefficient if coefficient >= 0 else -2 * coefficient - 1)
    first, others = (p << drop for p in rounded)
    return first, others


def read_predictors(
    fields: FieldReader, extras: int, has_others: bool, is_light: bool, what: str
) -> tuple[Integers, Integers]:
    """Inverse of :func:`write_predictors` for predictors with ``extras`` further regressors."""
    drop, first, others = fields.unpack("BBB")
    if (
        drop > COEFFICIENT_BITS
        or not 1 <= first <= MAX_SETS
        or not has_others <= others <= MAX_SETS
    ):
        raise FormatError(
            f"{what}: impossible predictors in a context stream ({first} and {others} sets, "
            f"{drop} bits dropped)",
            kind="bad-payload",
        )
    limit = 2 * ((MAX_COEFFICIENT + 1) >> drop)

    def table(sets: int, terms: int) -> Integers:
        coded = np.array(
            [fields.varint(limit=limit, name="coefficient") for _ in range(sets * terms)], np.int64
        )
        signed = np.where(coded & 1, -((coded + 1) >> 1), coded >> 1)
        return (signed << drop).reshape(sets, terms)

    every, flat = neighbours_of(is_light)
    return table(first, flat + extras), table(others, len(every) + extras)
