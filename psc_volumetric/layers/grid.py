"""The grid of a bounded layer: values to indices and back. The way back is part of the format.

SPEC sections 8.7 and 8.9. The encoder restores every value as the decoder will and compares; what
is farther away than the bound it keeps exactly. The bound is therefore a fact about the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.layer_fields import GridFields

__all__ = [
    "INDEX",
    "cells_around",
    "choose_grid",
    "nearest_indices",
    "restore",
    "uniform_spread",
    "within",
]

Values = NDArray[np.generic]
Indices = NDArray[np.int32]

INDEX = np.dtype("<i4")
TOP = c.MAX_GRID_INDEX - 1


def choose_grid(values: Values, bound: float, reserved: Sequence[float] = ()) -> GridFields | None:
    """Grid for values without NaN; None when only an exact layer can keep the bound.

    Parameters
    ----------
    values : (z, y, x) array
        Stored values; special ones replaced by measured ones.
    bound : float
        Largest error allowed, in stored units, above 0.
    reserved : sequence of float
        Values that no grid point of integers should be, where that can be had.
    """
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu":
        whole = int(min(bound, c.MAX_INTEGER_BOUND))
        fits = whole and (int(high) - int(low) + whole) // (2 * whole + 1) <= TOP
        first = _first_point(int(low), int(high), whole, reserved)
        return GridFields(float(whole), 2.0 * whole + 1, first) if fits else None
    if values.dtype.kind != "f":
        return None
    start, last = float(low), float(high)
    top = max(abs(start), abs(last))
    if top > c.MAX_MAPPED_FLOAT:
        return None
    bound = min(bound, max(last - start, 2.0**-900))
    # half a unit in the last place for the conversion, and two roundings in double
    spacing = float(np.spacing(np.asarray(top, values.dtype)))
    step = 2 * (bound - 0.5 * spacing - 4 * math.ulp(top))
    grid = GridFields(bound, step, start)
    return grid if step > bound and grid.fits(values.dtype) and _reach(grid, last) else None


def _first_point(low: int, high: int, bound: int, reserved: Sequence[float]) -> int:
    """A grid point near the least value from which none that is used is a reserved one."""
    near = [int(value) for value in reserved if low <= value <= high + bound]
    taken = {(value - low) % (2 * bound + 1) for value in near}
    free = (n for n in range(min(bound, high - low, len(taken)) + 1) if n not in taken)
    return low + next(free, 0)


def _reach(grid: GridFields, last: float) -> bool:
    return (last - grid.offset) / grid.step < TOP


def nearest_indices(values: Values, grid: GridFields) -> Indices:
    """Index of the grid point nearest to each value, saturating (SPEC section 8.7).

    Integers: ``floor((value - offset + bound) / step)``. Floats, in IEEE double:
    ``rint((value - offset) / step)``; NaN gives 0.
    """
    if values.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint((values.astype(np.float64) - grid.offset) / grid.step)
        nearest: Indices = np.clip(np.nan_to_num(scaled, nan=0.0), -TOP, TOP).astype(INDEX)
        return nearest
    step, bound = int(grid.step), int(grid.bound)
    offset = int(grid.offset)
    if values.dtype.itemsize <= 4:
        wide = values.astype(np.int64) - offset
        floors: Indices = np.clip((wide + bound) // step, -TOP, TOP).astype(INDEX)
        return floors
    # 64 bits: differences modulo 2^64 on either side of the offset
    bits, zero = values.astype(np.uint64), np.uint64(offset & (1 << 64) - 1)
    above = values >= np.asarray(offset, values.dtype)
    away = np.where(above, bits - zero, zero - bits)
    quotient, rest = away // np.uint64(step), away % np.uint64(step)
    rounded = quotient + (rest > np.uint64(bound))
    index = np.minimum(rounded, np.uint64(TOP)).astype(np.int64)
    signed: Indices = np.where(above, index, -index).astype(INDEX)
    return signed


def restore(indices: Indices, grid: GridFields, dtype: np.dtype[np.generic]) -> Values:
    """Stored values of indices (SPEC section 8.7).

    Integers: ``offset + index * step``, saturating. Floats: ``index * step``, then ``+ offset``,
    each rounded once in IEEE double, then one conversion to the dtype.
    """
    if dtype.kind == "f":
        scaled = indices.astype(np.float64) * grid.step
        floats: Values = (grid.offset + scaled).astype(dtype)
        return floats
    offset, info = int(grid.offset), np.iinfo(dtype.str)
    limit = (1 << 63) - 1
    low, high = max(info.min - offset, -limit), min(info.max - offset, limit)
    away = np.clip(indices.astype(np.int64) * int(grid.step), low, high)
    bits = away.astype(np.uint64) + np.uint64(offset & (1 << 64) - 1)
    values: Values = bits.astype(f"<u{dtype.itemsize}").view(dtype)
    return values


def within(restored: Values, source: Values, grid: GridFields) -> NDArray[np.bool_]:
    """Where a restored value is no farther from its source than the bound."""
    if source.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            away = np.abs(restored.astype(np.float64) - source.astype(np.float64))
        # the difference is rounded once: below the bound it is below it before rounding, too
        near: NDArray[np.bool_] = away < grid.bound
        return near
    larger = np.greater(restored, source)
    bits, other = restored.astype(np.uint64), source.astype(np.uint64)
    close: NDArray[np.bool_] = np.where(larger, bits - other, other - bits) <= np.uint64(grid.bound)
    return close


def uniform_spread(bound: float) -> np.float32:
    """Standard deviation of an error anywhere within the bound."""
    return np.float32(bound) / np.float32(math.sqrt(3))


def cells_around(values: Values, exact: NDArray[np.bool_], bound: float) -> Values:
    """The least and the largest that the source of a bounded level can be (SPEC section 8.9).

    Parameters
    ----------
    values : (z, y, x) array
        The level.
    exact : (z, y, x) array of bool
        Where the level has the bits of the source.
    bound : float
        Of the level.

    Returns
    -------
    (2, z, y, x) array
        In the dtype of ``values``.
    """
    dtype = values.dtype
    cells: Values = np.empty((2, *values.shape), dtype)
    for end, sign in zip(cells, (-1, 1), strict=True):
        if dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                edge = (values.astype(np.float64) + sign * bound).astype(dtype)
                end[...] = np.nextafter(edge, dtype.type(sign * np.inf))
        else:
            end[...] = _moved(values, sign * int(bound))
    np.copyto(cells, values, where=exact)
    return cells


def _moved(values: Values, distance: int) -> Values:
    """Integers moved up or down, no farther than their dtype reaches."""
    info = np.iinfo(values.dtype.str)
    if abs(distance) > info.max:
        wide = values.astype(np.int64) + distance
        return np.clip(wide, info.min, info.max).astype(values.dtype)
    size = values.dtype.type(abs(distance))
    moved: Values
    if distance < 0:
        moved = np.maximum(values, info.min - distance) - size
    else:
        moved = np.minimum(values, info.max - distance) + size
    return moved
