"""Bounded layers whose values are interpolated: from stored values to segments and back.

Part of the format (SPEC sections 8.8 and 16). The grid of the layer is made finer by an odd number,
so that a value within the bound of its source may be any of many, not the nearest grid point
only. The coder chooses one of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.layer_fields import GridFields, default_segment
from psc_volumetric.coders.interpolation.coder import MAX_BOUND, MAX_TOP, decode_interpolated
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.layers.grid import nearest_indices, restore
from psc_volumetric.layers.slices import SLICE_SEGMENT, lie_far_apart
from psc_volumetric.tiling import TileGrid

__all__ = ["Interpolated", "decode_interpolated_values", "interpolate"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

FINENESS = 64  # of floats
WIDEST_SEGMENT = (64, 192, 192)
TRIED_BELOW = 2.0  # bits per voxel of the rival; above it interpolation has not won
GIVES_UP = 1.3  # times the bytes of the rival that a sample takes


class Interpolated(NamedTuple):
    """A layer coded by interpolation.

    Attributes
    ----------
    segments : TileGrid
    pieces : list of bytes
        One for each segment.
    decoded : (z, y, x) array
        Stored values as a reader decodes them.
    """

    segments: TileGrid
    pieces: list[bytes]
    decoded: Values


def interpolate(values: Values, grid: GridFields, *, rival: int | None) -> Interpolated | None:
    """Code values on a finer grid; None if they do not suit or it would not pay.

    Parameters
    ----------
    values : (z, y, x) array
        Stored values without special ones.
    grid : GridFields
        Of the layer.
    rival : int or None
        Bytes that `context` or `neural` takes, if it is the best of the others.
    """
    fineness = _fineness(values, grid)
    limit = math.inf if rival is None else 8 * rival / values.size
    if fineness is None or TRIED_BELOW < limit < math.inf:
        return None
    fine = nearest_indices(values, _finer(grid, fineness, values.dtype))
    tried = [WIDEST_SEGMENT, SLICE_SEGMENT] if lie_far_apart(fine) else [WIDEST_SEGMENT]
    found = filter(None, (_pieces(fine, fineness, widest, limit) for widest in tried))
    best = min(found, key=lambda one: sum(map(len, one[1])), default=None)
    if best is None:
        return None
    segments, pieces = best
    boxes = [segments.box(number) for number in range(len(segments))]
    decoded = np.empty_like(values)
    for box, piece in zip(boxes, pieces, strict=True):
        decoded[box] = decode_interpolated_values(
            piece, fine[box].shape, grid, values.dtype, what="interpolation"
        )
    return Interpolated(segments, pieces, decoded)


def _pieces(
    fine: NDArray[np.integer], fineness: int, widest: Triple, limit: float
) -> tuple[TileGrid, list[bytes]] | None:
    """Segments no longer than ``widest``, and their code; None if it is no coder for them.

    ``limit`` are bits per voxel of the rival.
    """
    from psc_volumetric.coders.interpolation.fit import (
        encode_smallest,
        rank_orders,
        suits_interpolation,
    )

    shape = (fine.shape[0], fine.shape[1], fine.shape[2])
    segments = TileGrid(shape, _segment(shape, widest))
    boxes = [segments.box(number) for number in range(len(segments))]
    if not all(suits_interpolation(fine[box], fineness) for box in boxes):
        return None
    try:
        ranked, rate = rank_orders(fine[boxes[len(boxes) // 2]], fineness)
        if rate > GIVES_UP * limit:
            return None
        return segments, [encode_smallest(fine[box], fineness, ranked) for box in boxes]
    except ParameterError:  # it is no coder for noise
        return None


def decode_interpolated_values(
    data: bytes,
    shape: tuple[int, ...],
    grid: GridFields,
    dtype: np.dtype[np.generic],
    *,
    what: str,
) -> Values:
    """Stored values of one segment.

    Raises
    ------
    FormatError
        As `decode_interpolated`, or the fineness is none of the grid (kind ``"bad-payload"``).
    """
    z, y, x = shape
    integers, fineness = decode_interpolated(data, (z, y, x), what=what)
    if dtype.kind != "f" and fineness != int(grid.bound):
        raise FormatError(
            f"{what}: expected integers within {int(grid.bound)}, found {fineness}",
            kind="bad-payload",
        )
    return restore(integers.astype(np.int32), _finer(grid, fineness, dtype), dtype)


def _fineness(values: Values, grid: GridFields) -> int | None:
    """Integers between the middle and the end of a bin; None if there would be too many."""
    if values.dtype.kind != "f":
        span = int(values.max()) - int(values.min())
        return int(grid.bound) if span <= MAX_TOP and grid.bound <= MAX_BOUND else None
    steps = (float(values.max()) - float(values.min())) / grid.step
    finest = min(FINENESS, int(MAX_TOP / 4 / (steps + 1)))
    return finest if finest >= 4 else None


def _finer(grid: GridFields, fineness: int, dtype: np.dtype[np.generic]) -> GridFields:
    """The grid of the coded integers."""
    if dtype.kind != "f":
        return GridFields(0.0, 1.0, grid.offset)
    return GridFields(grid.bound, grid.step / (2 * fineness + 1), grid.offset)


def _segment(shape: Triple, widest: Triple) -> Triple:
    """Equal parts of each axis, none longer than ``widest``."""
    z, y, x = (math.ceil(n / math.ceil(n / most)) for n, most in zip(shape, widest, strict=True))
    nz, ny, nx = shape
    return default_segment((nz, ny, nx), (z, y, x))
