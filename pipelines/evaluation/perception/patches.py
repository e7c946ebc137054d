"""Sliced Wasserstein distance of patches at several scales: whether texture looks the same."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["pyramid", "swd_by_scale"]

Stack = NDArray[np.float64]
Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

PATCH = 7
SMALLEST = 16  # voxels across the coarsest scale
MOST_SCALES = 5
MOST_PATCHES = 8192
DIRECTIONS = 256
UNIT = 1000  # distances are stated in thousandths of the source's deviation
SEED = 0
TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def swd_by_scale(reference: Stack, decoded: Stack) -> tuple[float, ...]:
    """Distance between the patches of two stacks of slices, scale by scale.

    Parameters
    ----------
    reference, decoded : (n, y, x) float64
        Of one shape. Units do not matter.

    Returns
    -------
    tuple of float
        One number per scale, finest first; 0 for equal stacks. Empty where slices are smaller than
        16 voxels, or the source is flat.

    Notes
    -----
    Karras, Aila, Laine and Lehtinen, "Progressive growing of GANs", ICLR 2018, section 5: patches
    of 7 x 7 from the levels of a Laplacian pyramid, the mean absolute difference of their sorted
    projections on random directions, times 1000. Three departures. Patches of both stacks are in
    units of the source's deviation at the scale, instead of each in its own: a loss of contrast
    would count for nothing otherwise. Both are taken at the same places, so that equal stacks
    have distance 0. Where the source is flat (air that was set to 0) no patch is taken.
    """
    found = []
    for one, other in zip(pyramid(reference), pyramid(decoded), strict=True):
        rng = np.random.Generator(np.random.Philox(SEED))
        places = _places(one, rng)
        if not len(places[0]):
            return ()
        first, second = _patches(one, places), _patches(other, places)
        mean, deviation = first.mean(), first.std()
        if deviation == 0:
            return ()
        directions = rng.standard_normal((PATCH * PATCH, DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        ordered = [np.sort((p - mean) / deviation @ directions, axis=0) for p in (first, second)]
        found.append(UNIT * float(np.abs(ordered[0] - ordered[1]).mean()))
    return tuple(found)


def pyramid(stack: Stack) -> list[Stack]:
    """Levels of a Laplacian pyramid of every slice, finest first; the last is what is left.

    Parameters
    ----------
    stack : (n, y, x) float64

    Returns
    -------
    list of (n, y', x') float64
        Empty when slices are smaller than 16 voxels.

    Notes
    -----
    Burt and Adelson, "The Laplacian pyramid as a compact image code", IEEE Trans. Communications
    31(4), 1983, with the binomial filter (1, 4, 6, 4, 1) / 16; edges are repeated.
    """
    shortest = min(stack.shape[1:])
    if shortest < SMALLEST:
        return []
    scales = min(int(math.log2(shortest / SMALLEST)) + 1, MOST_SCALES)
    levels = []
    for _ in range(scales - 1):
        small = _smooth(_smooth(stack, 1), 2)[:, ::2, ::2]
        levels.append(stack - _enlarged(small, stack.shape))
        stack = small
    return [*levels, stack]


def _smooth(stack: Stack, axis: int) -> Stack:
    pad = [(0, 0)] * 3
    pad[axis] = (2, 2)
    wide = np.pad(stack, pad, mode="edge")
    size = stack.shape[axis]
    parts = (np.take(wide, range(k, k + size), axis) * tap for k, tap in enumerate(TAPS))
    return np.asarray(sum(parts))


def _enlarged(small: Stack, shape: tuple[int, ...]) -> Stack:
    twice = small.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[1], : shape[2]]
    return _smooth(_smooth(twice, 1), 2)


def _places(stack: Stack, rng: np.random.Generator) -> Places:
    """Slices, rows and columns of the first voxels of patches that are not flat."""
    view = np.lib.stride_tricks.sliding_window_view(stack, (PATCH, PATCH), axis=(1, 2))
    count, rows, columns = view.shape[:3]
    chosen = rng.permutation(count * rows * columns)[: 4 * MOST_PATCHES]
    z, y, x = np.unravel_index(chosen, (count, rows, columns))
    taken = view[z, y, x]
    rough = np.flatnonzero(np.ptp(taken, axis=(1, 2)) > 0)[:MOST_PATCHES]
    return z[rough], y[rough], x[rough]


def _patches(stack: Stack, places: Places) -> Stack:
    view = np.lib.stride_tricks.sliding_window_view(stack, (PATCH, PATCH), axis=(1, 2))
    return view[places].reshape(len(places[0]), -1)
