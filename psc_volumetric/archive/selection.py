"""Selections (slices of any step, integers, arrays of integers) as boxes to decode.

A box that encloses the selection is decoded, then the selection is applied to it. What lies in
chunks far from one another is several selections, so that no chunk between them is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bounds",
    "Piece",
    "bounds_of",
    "indices_of",
    "outer",
    "pieces_of",
    "points_by_chunk",
    "relative_to",
]

Indices = NDArray[np.intp]


class Piece(NamedTuple):
    """A part of a selection, and where it lies in the result, per axis that the result has."""

    selection: tuple[Any, ...]
    places: tuple[Indices, ...]


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


def pieces_of(selection: Any, shape: Sequence[int], chunk: Sequence[int]) -> list[Piece]:
    """Parts of an outer selection that each touch chunks beside one another, along every axis.

    Parameters
    ----------
    selection : tuple
        Per axis a slice (any step), an integer, or an array of integers or booleans.
    shape, chunk : sequence of int
        Of the array, and of what is decoded at once.
    """
    axes: list[list[tuple[Any, Indices | None]]] = []
    parts = _expanded(selection, len(shape))
    for part, size, step in zip(parts, shape, chunk, strict=True):
        if isinstance(part, (int, np.integer)):
            axes.append([(part, None)])
            continue
        indices = indices_of(part, size)
        places = np.arange(indices.size)
        chunks = indices // step
        touched = np.unique(chunks)
        ends = touched[1:][np.diff(touched) > 1]  # a run of chunks begins at each
        runs = np.searchsorted(ends, chunks, side="right")
        if not ends.size:
            axes.append([(part, places)])
        else:
            chosen = (runs == number for number in range(ends.size + 1))
            axes.append([(indices[own], places[own]) for own in chosen])
    return [
        Piece(
            tuple(part for part, _ in combined),
            tuple(places for _, places in combined if places is not None),
        )
        for combined in product(*axes)
    ]


def points_by_chunk(indices: Sequence[Indices], chunk: Sequence[int]) -> list[Indices]:
    """Numbers of the points in each chunk that holds any; all together where that spares little.

    Parameters
    ----------
    indices : sequence of array
        One for each axis, all of one length.
    chunk : sequence of int
        Along the same axes.
    """
    chunks = np.stack([part // size for part, size in zip(indices, chunk, strict=True)], axis=-1)
    touched, number = np.unique(chunks, axis=0, return_inverse=True)
    among = math.prod(np.unique(part).size for part in chunks.T)
    if 2 * len(touched) > among:
        return [np.arange(len(chunks))]
    order = np.argsort(number.ravel(), kind="stable")
    return np.split(order, np.cumsum(np.bincount(number.ravel()))[:-1])


def outer(values: NDArray[Any], selection: tuple[Any, ...]) -> NDArray[Any]:
    """Apply a selection axis by axis; integers take their axis away."""
    for axis in reversed(range(values.ndim)):
        values = values[(slice(None),) * axis + (selection[axis],)]
    return values


def indices_of(part: Any, size: int) -> Indices:
    """What a slice or an array chooses along an axis, counted from the first (IndexError)."""
    if isinstance(part, slice):
        return np.arange(*part.indices(size))
    array = np.asarray(part)
    if array.dtype.kind == "b":
        return np.flatnonzero(array)
    if array.size and not -size <= array.min() <= array.max() < size:
        raise IndexError(f"index {array.min()} or {array.max()} is outside an axis of size {size}")
    return np.where(array < 0, array + size, array).astype(np.intp)
