"""Order of the voxels and their neighbours in the interpolation coder. Part of the format.

SPEC section 16. Voxels stand on a lattice: multiples of the strides (z, y, x), powers of two. The
first pass codes the coarsest lattice; each further pass halves the stride of one axis and codes
the voxels that are new.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COARSEST",
    "CONTEXT_NEIGHBOURS",
    "MAX_PASSES",
    "MAX_TAPS",
    "MAX_VOXELS",
    "REACH",
    "Lattice",
    "lattices",
    "neighbours",
]

Integers = NDArray[np.int64]
Triple = tuple[int, int, int]

COARSEST = 3  # "axis" of the first pass
REACH = 5  # neighbours are at most this many lattice steps away
MAX_TAPS = 96  # neighbours a predictor may use
CONTEXT_NEIGHBOURS = 18  # of them, those whose errors are looked at
MAX_PASSES = 25
MAX_VOXELS = 1 << 23
WIDEST = 2  # a step along an axis counts at most this many times the shortest one


class Lattice(NamedTuple):
    """Voxels one pass codes.

    Attributes
    ----------
    axis : int
        Axis whose stride was halved, or ``COARSEST``. Along it only odd steps are coded.
    strides : (z, y, x)
        Voxels per step.
    extent : (z, y, x)
        Steps that lie in the segment.
    """

    axis: int
    strides: Triple
    extent: Triple

    @property
    def voxels(self) -> int:
        """Number of voxels coded."""
        return math.prod(n // 2 if e == self.axis else n for e, n in enumerate(self.extent))


def lattices(shape: Triple, axes: tuple[int, ...]) -> list[Lattice] | None:
    """The passes over ``shape`` if the strides are halved along ``axes`` in this order.

    None if an axis would be halved more often than it has voxels for.
    """
    strides = [1 << axes.count(axis) for axis in range(3)]
    if any(s > 1 and s // 2 >= n for s, n in zip(strides, shape, strict=True)):
        return None
    passes = [_lattice(COARSEST, strides, shape)]
    for axis in axes:
        strides[axis] //= 2
        passes.append(_lattice(axis, strides, shape))
    return passes


def _lattice(axis: int, strides: list[int], shape: Triple) -> Lattice:
    z, y, x = strides
    nz, ny, nx = (-(-n // s) for n, s in zip(shape, strides, strict=True))
    return Lattice(axis, (z, y, x), (nz, ny, nx))


def neighbours(lattice: Lattice) -> Integers:
    """Offsets (MAX_TAPS, 3) in lattice steps of voxels decoded before, nearest first.

    Those an odd number of steps away along the axis belong to earlier passes, others come before
    the voxel in the pass. The distance counts a step as its stride in units of the smallest one,
    at most ``WIDEST``; ties go to the smaller (z, y, x).
    """
    z, y, x = (min(s // min(lattice.strides), WIDEST) for s in lattice.strides)
    return _neighbours(lattice.axis, (z, y, x))


@functools.cache
def _neighbours(axis: int, steps: Triple) -> Integers:
    reach = range(-REACH, REACH + 1)
    found = []
    for offset in itertools.product(reach, reach, reach):
        known = axis != COARSEST and offset[axis] % 2 == 1
        if known or offset < (0, 0, 0):
            distance = sum((o * s) ** 2 for o, s in zip(offset, steps, strict=True))
            found.append((distance, offset))
    return np.array([offset for _, offset in sorted(found)[:MAX_TAPS]], np.int64)
