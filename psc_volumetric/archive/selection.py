"""Selections (slices of any step, integers, arrays of integers) as boxes to decode.

A box that encloses the selection is decoded, then the selection is applied to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Bounds", "bounds_of", "relative_to"]


class Bounds(NamedTuple):
    """Half-open range along one axis."""

    start: int
    stop: int


def _expanded(selection: Any, ndim: int) -> tuple[Any, ...]:
    parts = selection if isinstance(selection, tuple) else (selection,)
    if any(part is Ellipsis for part in parts):
        at = next(number for number, part in enumerate(parts) if part is Ellipsis)
        whole = [slice(None)] * (ndim - len(parts) + 1)
        parts = (*parts[:at], *whole, *parts[at + 1 :])
    return (*parts, *[slice(None)] * (ndim - len(parts)))


def bounds_of(selection: Any, shape: Sequence[int]) -> tuple[Bounds, ...]:
    """Smallest box that holds every element of the selection.

    Parameters
    ----------
    selection : tuple
        Per axis a slice (any step), an integer, or an array of integers or booleans.
    shape : sequence of int
    """
    bounds = []
    for part, size in zip(_expanded(selection, len(shape)), shape, strict=True):
        if isinstance(part, slice):
            chosen = range(*part.indices(size))
            ends = sorted((chosen[0], chosen[-1])) if chosen else (0, -1)
            bounds.append(Bounds(ends[0], ends[1] + 1))
            continue
        array = np.asarray(part)
        indices = np.flatnonzero(array) if array.dtype.kind == "b" else array
        if indices.size:
            bounds.append(Bounds(int(indices.min()), int(indices.max()) + 1))
        else:
            bounds.append(Bounds(0, 0))
    return tuple(bounds)


def relative_to(selection: Any, bounds: Sequence[Bounds]) -> tuple[Any, ...]:
    """The same selection, counted from the corner of its box."""
    moved: list[Any] = []
    for part, bound in zip(_expanded(selection, len(bounds)), bounds, strict=True):
        if isinstance(part, slice):
            moved.append(slice(None, None, part.step))
        elif isinstance(part, (int, np.integer)):
            moved.append(int(part) - bound.start)
        else:
            array = np.asarray(part)
            if array.dtype.kind == "b":
                moved.append(array[bound.start : bound.stop])
            else:
                moved.append(array - bound.start)
    return tuple(moved)
