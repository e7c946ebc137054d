"""Numbers that are listed with their places. Part of the format (SPEC sections 8.6 and 11.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.zstd import compress_lossless, decompress_lossless
from psc_volumetric.errors import FormatError

__all__ = ["read_places", "write_places"]

PLACE = np.dtype("<u4")
MOST_BYTES = 1 << 30


def write_places(out: FieldWriter, values: NDArray[Any], chosen: NDArray[np.bool_]) -> None:
    """Append how many numbers are chosen, and if any their places and bits."""
    places = np.flatnonzero(chosen).astype(PLACE)
    out.varint(len(places))
    if len(places):
        gaps = np.diff(places, prepend=np.uint32(0)).astype(PLACE)
        for part in (gaps, values[chosen]):
            packed = compress_lossless(part)
            out.varint(len(packed))
            out.raw(packed)


def read_places(
    fields: FieldReader, size: int, dtype: np.dtype[Any], *, what: str
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Inverse of `write_places`: places among ``size`` numbers, and what stands there.

    Raises
    ------
    FormatError : places that do not rise, or lie outside (kind ``"bad-payload"``).
    """
    count = fields.varint(limit=size, name="exact voxels")
    places, exact = np.zeros(0, np.int64), np.zeros(0, dtype)
    if count:
        parts = []
        for kind in (PLACE, dtype):
            length = fields.varint(limit=MOST_BYTES, name="length of exact voxels")
            parts.append(decompress_lossless(fields.raw(length), (count,), kind, what=what))
        places, exact = np.cumsum(parts[0].astype(np.int64)), parts[1]
        if (np.diff(places) < 1).any() or places[-1] >= size:
            raise FormatError(
                f"{what}: places of exact voxels do not rise or leave the segment",
                kind="bad-payload",
            )
    return places, exact
