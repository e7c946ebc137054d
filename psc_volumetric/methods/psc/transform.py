"""Exact block cosine transform of a tile. Part of the format (SPEC section 5.3).

Blocks are (slices, 8, 8): the whole depth of the tile, 8 x 8 in the plane. The basis is the
orthonormal DCT-II rounded to 14 fraction bits; every one-dimensional pass ends in one rounding
shift, so both directions are exact integer maps (nearly inverse to one another, within a few
units of 1/2048).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["BLOCK", "BlockTransform", "basis", "frequency_class"]

BLOCK = 8
BASIS_BITS = 14


@functools.cache
def basis(size: int) -> NDArray[np.int64]:
    """Rounded orthonormal DCT-II of length 1, 2, 4 or 8, (frequency, sample) int64.

    No entry lies closer than 0.02 to a rounding boundary before it is rounded, so any C library's
    cosine gives these integers.
    """
    if size == 1:
        return np.array([[1 << BASIS_BITS]], np.int64)
    rows = np.empty((size, size), np.int64)
    for k in range(size):
        scale = math.sqrt((1 if k == 0 else 2) / size)
        for n in range(size):
            rows[k, n] = round(
                (1 << BASIS_BITS) * scale * math.cos(math.pi * (2 * n + 1) * k / (2 * size))
            )
    return rows


@functools.cache
def frequency_class(slices: int) -> NDArray[np.int64]:
    """Class 0..21 of each coefficient of a block: the sum of its frequencies, (slices * 64,)."""
    z = np.arange(slices)[:, None, None] * (BLOCK // slices)
    y = np.arange(BLOCK)[None, :, None]
    x = np.arange(BLOCK)[None, None, :]
    return (z + y + x).reshape(-1).astype(np.int64)


def _rounding_shift(x: torch.Tensor) -> torch.Tensor:
    return torch.floor((x + float(1 << (BASIS_BITS - 1))) * 2.0**-BASIS_BITS)


def _plain_shift(x: torch.Tensor) -> torch.Tensor:
    return x * 2.0**-BASIS_BITS


class BlockTransform:
    """Forward and inverse transform of tiles of one shape.

    Parameters
    ----------
    slices, tile : int
        Tile shape (slices, tile, tile); slices 1, 2, 4 or 8, tile a multiple of 8.
    device : torch.device
        Where to compute; float64 carries the integers exactly.
    rounds : bool
        False: real numbers stay what they are. For views, never for a stream.
    """

    def __init__(
        self, slices: int, tile: int, device: torch.device, *, rounds: bool = True
    ) -> None:
        self._shift = _rounding_shift if rounds else _plain_shift
        self.slices, self.tile, self.blocks = slices, tile, tile // BLOCK
        self.device = device
        self._plane = torch.from_numpy(basis(BLOCK)).to(device, torch.float64)
        self._depth = torch.from_numpy(basis(slices)).to(device, torch.float64)

    @property
    def coefficients(self) -> int:
        """Coefficients of a tile."""
        return self.slices * self.tile * self.tile

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, slices, tile, tile) -> (n, blocks^2 * slices * 64), both float64 integers."""
        n, k = len(x), self.blocks
        c = x.reshape(n, self.slices, k, BLOCK, k, BLOCK).permute(0, 2, 4, 1, 3, 5)
        c = self._shift(c @ self._plane.T)
        c = self._shift(self._plane @ c)
        c = c.reshape(n * k * k, self.slices, BLOCK * BLOCK)
        c = self._shift(self._depth @ c)
        return c.reshape(n, -1)

    def inverse(self, c: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`forward`: depth, then y, then x."""
        n, k = len(c), self.blocks
        x = c.reshape(n * k * k, self.slices, BLOCK * BLOCK)
        x = self._shift(self._depth.T @ x).reshape(n, k, k, self.slices, BLOCK, BLOCK)
        x = self._shift(self._plane.T @ x)
        x = self._shift(x @ self._plane)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(n, self.slices, self.tile, self.tile)
