"""What an encoder measures about the tiles of a brick after decoding it again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.threads import mapped
from psc_volumetric.tiling import TileGrid

__all__ = ["TileRecord", "digest_values", "tile_records"]

Values = NDArray[np.generic]


@dataclass(frozen=True)
class TileRecord:
    """What the encoder measured about one tile after decoding it again.

    Attributes
    ----------
    position : (z, y, x)
        Index in the brick's tile grid.
    nbytes : tuple of int
        Bytes the tile adds at each level; shares of what is coded for several tiles at once.
    mse, max_error : tuple of float
        Per level, in stored units (squared), over measured voxels.
    sha256 : str
        Digest of the decoded stored values (valid part, C order, little-endian), last level.
    """

    position: tuple[int, int, int]
    nbytes: tuple[int, ...]
    mse: tuple[float, ...]
    max_error: tuple[float, ...]
    sha256: str


def tile_records(
    values: Values,
    levels: Sequence[Values],
    grid: TileGrid,
    nbytes: Sequence[tuple[int, ...]],
    measured: NDArray[np.bool_] | None,
) -> tuple[TileRecord, ...]:
    """Compare every decoded level with the source, tile by tile.

    Parameters
    ----------
    values : (z, y, x) array
        The source.
    levels : sequence of (z, y, x) arrays
        Decoded values per level.
    grid : TileGrid
    nbytes : sequence of tuples
        Bytes per tile and level.
    measured : (z, y, x) array of bool, optional
        Voxels that count; None is all.
    """

    def record(number: int) -> TileRecord:
        box = grid.box(number)
        keep = None if measured is None else measured[box]
        errors = [_error(level[box], values[box], keep) for level in levels]
        return TileRecord(
            grid.position(number),
            nbytes[number],
            tuple(float(np.mean(e**2)) if e.size else 0.0 for e in errors),
            tuple(float(np.abs(e).max(initial=0)) for e in errors),
            digest_values(levels[-1][box]),
        )

    return tuple(mapped(record, range(len(grid))))


def digest_values(values: Values) -> str:
    """SHA-256 of stored values in C order, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _error(
    decoded: Values, source: Values, measured: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Differences where the bits differ, zero elsewhere (also between equal NaN); empty if none."""
    unsigned = f"<u{source.dtype.itemsize}"
    a, b = np.ascontiguousarray(decoded), np.ascontiguousarray(source)
    same = a.view(unsigned) == b.view(unsigned)
    if same.all():
        return np.zeros(0)
    with np.errstate(invalid="ignore", over="ignore"):
        away = a.astype(np.float64) - b.astype(np.float64)
    away[same] = 0.0
    return away if measured is None else away[measured]
