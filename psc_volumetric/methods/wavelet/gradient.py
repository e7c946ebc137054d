"""What a change of a coefficient does to samples: the transpose of synthesis. Encoder only.

The transform is nearly orthogonal, but not quite, and least so at the ends of an axis. Whoever
chooses coefficients by what they do to samples needs the slope of an error along each of them, and
the error that one step of it makes by itself.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.machine_code import compiled
from psc_volumetric.methods.wavelet.synthesis import in_shares
from psc_volumetric.methods.wavelet.transform import (
    LIFTING,
    LIFTING_BITS,
    WEIGHT_BITS,
    Triple,
    axis_splits,
    band_weights,
    bands,
    joined,
)

__all__ = ["curvatures", "decoded", "slopes"]

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Real = TypeVar("Real", NDArray[np.float32], NDArray[np.float64])

FACTORS = tuple(number / (1 << LIFTING_BITS) for number in LIFTING)


def decoded(steps: Real, depth: int) -> Real:
    """Samples (z, y, x) of numbers of quantiser steps, in steps too and without rounding."""
    out = steps.copy()
    _weigh(out, depth)
    _undone(out, depth, back=False)
    return out


def slopes(gradient: Real, depth: int) -> Real:
    """Derivatives by numbers of quantiser steps from those by samples, in steps too.

    Parameters
    ----------
    gradient : (z, y, x) float32 or float64
        Derivatives of an error by every sample, samples in quantiser steps of the brick.
    depth : int
        Splits of z.
    """
    out = gradient.copy()
    _undone(out, depth, back=True)
    _weigh(out, depth)
    return out


def _weigh(values: Real, depth: int) -> None:
    """Steps of every band to steps of the brick, in place."""
    z, y, x = values.shape
    for band, weight in zip(bands((z, y, x), depth), band_weights((z, y, x), depth), strict=True):
        values[tuple(slice(*part) for part in band.box)] *= weight / (1 << WEIGHT_BITS)


def curvatures(shape: Triple, depth: int) -> Doubles:
    """Squared error that one quantiser step of each coefficient makes, in squared steps; near 1."""
    out = np.empty(shape)
    for band, weight in zip(bands(shape, depth), band_weights(shape, depth), strict=True):
        z, y, x = (
            _powers(extent, splits, high=high)
            for extent, splits, high in zip(shape, band.splits, band.high, strict=True)
        )
        unit = weight / (1 << WEIGHT_BITS)
        box = tuple(slice(*part) for part in band.box)
        out[box] = unit**2 * z[:, None, None] * y[:, None] * x
    return out


def _powers(extent: int, splits: int, *, high: bool) -> Doubles:
    """Squared norms of what the coefficients of a band of one axis become."""
    sizes = [extent]
    for _ in range(splits):
        sizes.append((sizes[-1] + 1) // 2)
    if not splits:
        return np.ones(extent)
    first, last = (sizes[splits], sizes[splits - 1]) if high else (0, sizes[splits])
    each = np.eye(sizes[splits - 1])[:, first:last]
    for size in reversed(sizes[:splits]):
        each = joined(np.pad(each, ((0, size - len(each)), (0, 0))))
    powers: Doubles = np.square(each).sum(0)
    return powers


def _undone(values: Real, depth: int, *, back: bool) -> None:
    """Put values together in place, or take them apart by the transpose of that."""
    z, y, x = values.shape
    inside, across = _splits((z, y, x), depth, back=back)

    def planes() -> None:
        in_shares(z, y * x, lambda start, stop: _planes(values, inside, start, stop, back))

    def columns() -> None:
        in_shares(y, z * x, lambda start, stop: _columns(values, across, start, stop, back))

    for part in (columns, planes) if back else (planes, columns):
        part()


def _splits(shape: Triple, depth: int, *, back: bool) -> tuple[Integers, Integers]:
    """Axis and extents of splits inside planes, and of those across, in the order of work."""
    ordered = [(axis, *extent) for axis, extent in axis_splits(shape, depth)]
    if not back:
        ordered.reverse()
    inside = [split for split in ordered if split[0]]
    across = [split for split in ordered if not split[0]]
    return np.array(inside, np.int64).reshape(-1, 4), np.array(across, np.int64).reshape(-1, 4)


@compiled(error_model="numpy")
def _planes(values, splits, start, stop, back):  # type: ignore[no-untyped-def]
    _, rows, columns = values.shape
    room = np.empty((rows, columns), values.dtype)
    line = np.empty((columns, 1), values.dtype)
    for z in range(start, stop):
        for n in range(len(splits)):
            height, width = splits[n, 2], splits[n, 3]
            if splits[n, 0] == 1:
                _merge(values[z, :height, :width], room, back)
            else:
                for y in range(height):
                    _merge(values[z, y, :width].reshape(width, 1), line, back)


@compiled(error_model="numpy")
def _columns(values, splits, start, stop, back):  # type: ignore[no-untyped-def]
    depth, _, columns = values.shape
    room = np.empty((depth, columns), values.dtype)
    for y in range(start, stop):
        for n in range(len(splits)):
            _merge(values[: splits[n, 1], y], room, back)


@compiled(error_model="numpy")
def _merge(split, room, back):  # type: ignore[no-untyped-def]
    """Undo one split of the first axis, or the transpose of that."""
    count, width = split.shape
    lows = (count + 1) // 2
    for i in range(count):
        source = i if back else (i // 2 if i % 2 == 0 else lows + i // 2)
        for k in range(width):
            room[i, k] = split[source, k]
    for turn in range(4):
        number = turn if back else 3 - turn
        factor = room.dtype.type(FACTORS[number])
        for i in range(1 - number % 2, count, 2):
            before, after = i - 1, i + 1  # mirrored at the ends
            if before < 0:
                before = after
            if after >= count:
                after = before
            if back:
                for k in range(width):
                    moved = factor * room[i, k]
                    room[before, k] -= moved
                    room[after, k] -= moved
            else:
                for k in range(width):
                    room[i, k] -= factor * (room[before, k] + room[after, k])
    for i in range(count):
        target = (i // 2 if i % 2 == 0 else lows + i // 2) if back else i
        for k in range(width):
            split[target, k] = room[i, k]
