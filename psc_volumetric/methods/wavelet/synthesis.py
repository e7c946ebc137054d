"""The wavelet's synthesis in machine code, on all cores. Part of the format (SPEC 17).

The same integers as :func:`psc_volumetric.methods.wavelet.transform.synthesise`, which is for
machines that train and have no numba; a test compares them. Planes are put together one by one in y
and x, then columns of them in z.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.range_coder import compiled, inlined, inner
from psc_volumetric.methods.wavelet.transform import (
    LIFTING,
    LIFTING_BITS,
    SAMPLE_LIMIT,
    axis_splits,
)
from psc_volumetric.threads import mapped

__all__ = ["in_shares", "synthesise"]

Integers = NDArray[np.int64]

SHARE = 1 << 19  # coefficients that a thread takes at a time
FACTORS = tuple(LIFTING)
HALF = 1 << (LIFTING_BITS - 1)


def synthesise(coefficients: Integers, depth: int) -> Integers:
    """Samples (z, y, x) in units from coefficients, which are overwritten.

    Parameters
    ----------
    coefficients : (z, y, x) int64
        C order.
    depth : int
        Splits of z.
    """
    z, y, x = coefficients.shape
    splits = [(axis, *extent) for axis, extent in reversed(axis_splits((z, y, x), depth))]
    inside = np.array([part for part in splits if part[0]], np.int64).reshape(-1, 4)
    across = np.array([part for part in splits if not part[0]], np.int64).reshape(-1, 4)

    def planes(start: int, stop: int) -> None:
        room, line = np.empty((y, x), np.int64), np.empty((x, 1), np.int64)
        _planes(coefficients, inside, start, stop, room, line)

    def columns(start: int, stop: int) -> None:
        _columns(coefficients, across, start, stop, np.empty((z, x), np.int64))

    in_shares(z, y * x, planes)
    if len(across):
        in_shares(y, z * x, columns)
    return coefficients


def in_shares(count: int, each: int, work: Callable[[int, int], object]) -> None:
    """Work on a range of planes in shares of some size; ``each`` is the size of one."""
    step = max(1, SHARE // max(each, 1))
    mapped(lambda start: work(start, min(start + step, count)), range(0, count, step))


@inlined
def _saturated(value):  # type: ignore[no-untyped-def]
    return min(max(value, -SAMPLE_LIMIT), SAMPLE_LIMIT)


@compiled
def _planes(values, splits, start, stop, room, line):  # type: ignore[no-untyped-def]
    """Put planes ``start`` .. ``stop`` - 1 together in y and x; a plane and a line of room."""
    _, rows, columns = values.shape
    for z in range(start, stop):
        for y in range(rows):
            for x in range(columns):
                values[z, y, x] = _saturated(values[z, y, x])
        for n in range(len(splits)):
            height, width = splits[n, 2], splits[n, 3]
            if splits[n, 0] == 1:
                _merge(values[z, :height, :width], room)
            else:
                for y in range(height):
                    _merge(values[z, y : y + 1, :width].T, line)


@compiled
def _columns(values, splits, start, stop, room):  # type: ignore[no-untyped-def]
    """Put the planes together in z, in rows ``start`` .. ``stop`` - 1 of them."""
    for y in range(start, stop):
        for n in range(len(splits)):
            _merge(values[: splits[n, 1], y], room)


@inner
def _merge(split, room):  # type: ignore[no-untyped-def]
    """Undo one split of the first axis: low half, then high half, to samples in turn."""
    count, width = split.shape
    lows = (count + 1) // 2
    for i in range(count):
        source = i // 2 if i % 2 == 0 else lows + i // 2
        for k in range(width):
            room[i, k] = split[source, k]
    for number in (3, 2, 1, 0):
        factor = FACTORS[number]
        for i in range(1 - number % 2, count, 2):
            before, after = i - 1, i + 1  # mirrored at the ends
            if before < 0:
                before = after
            if after >= count:
                after = before
            for k in range(width):
                change = (room[before, k] + room[after, k]) * factor
                room[i, k] = _saturated(room[i, k] - ((change + HALF) >> LIFTING_BITS))
    for i in range(count):
        for k in range(width):
            split[i, k] = room[i, k]
