"""Fixed part of a brick's header: what the bytes are, and where they belong. Part of the format.

SPEC section 3. A header is parsed and checked completely before anything is
allocated from its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import LimitExceededError, UnsupportedVersionError

__all__ = ["BrickHeader"]


@dataclass(frozen=True)
class BrickHeader:
    """Fixed part of a brick.

    Attributes
    ----------
    method : str
        What the levels stand on: ``"constant"``, ``"none"`` or a registered base method.
    dtype : numpy.dtype
        Stored dtype, little-endian.
    position : tuple of int
        Chunk grid index of the brick in its array, all axes.
    shape, valid : (z, y, x)
        Nominal brick shape, and the part that lies inside the array.
    """

    method: str
    dtype: np.dtype[np.generic]
    position: tuple[int, ...]
    shape: tuple[int, int, int]
    valid: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        """Number of valid voxels."""
        return math.prod(self.valid)

    def write(self, out: FieldWriter, code: int) -> None:
        """Append everything after the 12-byte prologue; ``code`` is that of the method."""
        out.pack("BBB", code, c.DTYPE_CODES[self.dtype], len(self.position))
        for value in (*self.position, *self.shape, *self.valid):
            out.varint(value)

    @classmethod
    def read(cls, data: FieldReader, name_of: Callable[[int], str]) -> BrickHeader:
        """Parse and check; nothing is allocated from the numbers yet.

        Parameters
        ----------
        data : FieldReader
        name_of : callable
            Code of a method -> its name; UnsupportedVersionError for an unknown one.
        """
        code, dtype, axes = data.unpack("BBB")
        method = name_of(code)
        if dtype not in c.DTYPES:
            raise UnsupportedVersionError(
                f"brick header: unknown dtype code {dtype}",
                kind="unknown-method",
                hint=NEWER,
            )
        if axes > c.MAX_AXES:
            raise LimitExceededError(f"brick header: {axes} axes", kind="limit")
        position = tuple(data.varint(limit=1 << 40, name="position") for _ in range(axes))
        z, y, x, vz, vy, vx = (
            data.varint(limit=c.MAX_BRICK_VOXELS, name="extent") for _ in range(6)
        )
        header = cls(method, c.DTYPES[dtype], position, (z, y, x), (vz, vy, vx))
        if z * y * x > c.MAX_BRICK_VOXELS or not (1 <= vz <= z and 1 <= vy <= y and 1 <= vx <= x):
            raise LimitExceededError(
                f"brick header: shape {header.shape} with valid part {header.valid}", kind="limit"
            )
        return header
