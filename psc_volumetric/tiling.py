"""The grid of tiles inside a brick; tiles that a region needs. Part of the format (SPEC 3.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError

__all__ = ["Box", "TileGrid", "default_brick_shape"]

Box = tuple[slice, slice, slice]

WIDEST_BRICK = 512  # rows and columns
DEEPEST_BRICK = 256  # slices
BRICK_VOXELS = 6 << 20


def default_brick_shape(
    shape: tuple[int, int, int], tile: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Brick for a volume, in whole tiles: few, of like extents.

    Slices of a brick predict one another, edges and a thin last brick have little to learn from: a
    slice of 512 x 512 stays whole, and 128 slices of 256 x 256 make two bricks of 64.
    """

    def extent(axis: int, limit: int) -> int:
        n, t = shape[axis], tile[axis]
        count = -(-n // max(t, limit // t * t))
        return t * -(-n // (t * count))

    y, x = extent(1, WIDEST_BRICK), extent(2, WIDEST_BRICK)
    return extent(0, min(BRICK_VOXELS // (y * x), DEEPEST_BRICK)), y, x


@dataclass(frozen=True)
class TileGrid:
    """Tiles covering the valid part of a brick, in C order of (z, y, x).

    Parameters
    ----------
    valid : (z, y, x)
        Extent to cover.
    tile : (z, y, x)
        Tile shape; edge tiles reach past ``valid`` and are filled by :meth:`extend`.
    """

    valid: tuple[int, int, int]
    tile: tuple[int, int, int]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Tiles along each axis."""
        z, y, x = (-(-v // t) for v, t in zip(self.valid, self.tile, strict=True))
        return z, y, x

    def __len__(self) -> int:
        return math.prod(self.counts)

    def position(self, number: int) -> tuple[int, int, int]:
        """Grid index of tile ``number``."""
        _, ny, nx = self.counts
        return number // (ny * nx), number // nx % ny, number % nx

    def box(self, number: int) -> Box:
        """Voxels of the brick that tile ``number`` covers, cut to the valid part."""
        z, y, x = (
            slice(p * t, min((p + 1) * t, v))
            for p, t, v in zip(self.position(number), self.tile, self.valid, strict=True)
        )
        return z, y, x

    def covering(self, selection: Box) -> tuple[int, ...]:
        """Numbers of the tiles that ``selection`` (half-open, step 1) touches."""
        for axis, (s, v) in enumerate(zip(selection, self.valid, strict=True)):
            if not (0 <= s.start <= s.stop <= v) or s.step not in (None, 1):
                raise ParameterError(
                    f"selection {s} on axis {axis} is outside 0:{v}", kind="roi-outside"
                )
        if any(s.start == s.stop for s in selection):
            return ()
        ranges = [
            range(s.start // t, (s.stop - 1) // t + 1)
            for s, t in zip(selection, self.tile, strict=True)
        ]
        _, ny, nx = self.counts
        return tuple((z * ny + y) * nx + x for z in ranges[0] for y in ranges[1] for x in ranges[2])

    def overlaps(self, selection: Box, numbers: tuple[int, ...]) -> Iterator[tuple[int, Box, Box]]:
        """For each tile: its number, the box inside the tile, the box inside the selection."""
        for number in numbers:
            inside, target = [], []
            for s, b in zip(selection, self.box(number), strict=True):
                start, stop = max(s.start, b.start), min(s.stop, b.stop)
                inside.append(slice(start - b.start, stop - b.start))
                target.append(slice(start - s.start, stop - s.start))
            yield number, (inside[0], inside[1], inside[2]), (target[0], target[1], target[2])

    def extend(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Pad the valid part to whole tiles by repeating the last plane, row and column."""
        pad = [(0, n * t - v) for n, t, v in zip(self.counts, self.tile, self.valid, strict=True)]
        return np.pad(values, pad, mode="edge")

    def split(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Cut the valid part into (tiles, z, y, x), edges extended."""
        nz, ny, nx = self.counts
        tz, ty, tx = self.tile
        blocks = self.extend(values).reshape(nz, tz, ny, ty, nx, tx)
        return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(len(self), tz, ty, tx)
