"""Lazy voxels of NIfTI files.

The voxels of a plain file are mapped into memory and copied region by region; those of a compressed
one from where `adapters.gzipped` has decompressed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError
from adapters.gzipped import MOST_AROUND, is_gzip, read_start, spool, too_much_around

__all__ = ["NiftiArray", "around", "read_head"]


def read_head(path: Path) -> bytes:
    """Read the header file of a pair, decompressed.

    Raises
    ------
    SourceError : as `read_start`, and kind ``"too-large"``.
    """
    data = read_start(path, MOST_AROUND + 1)
    if len(data) > MOST_AROUND:
        raise too_much_around(path, "is larger")
    return data


def around(path: Path, start: int, end: int) -> tuple[bytes, bytes]:
    """Bytes before the voxels and behind them.

    Raises
    ------
    SourceError : kind ``"too-large"``.
    """
    size = spool(path, end).size if is_gzip(path) else path.stat().st_size
    if start + size - end > MOST_AROUND:
        raise too_much_around(path, f"has {start + size - end} bytes around them")
    if is_gzip(path):
        whole = np.memmap(spool(path, end).stream, np.uint8, "r")
        return whole[:start].tobytes(), whole[end:].tobytes()
    with path.open("rb") as stream:
        before = stream.read(start)
        stream.seek(end)
        return before, stream.read()


@dataclass(frozen=True)
class NiftiArray:
    """Stored voxels, axes (..., z, y, x). See ``LazyArray``.

    The file's order (x fastest) is C order for the reversed axes, so nothing is transposed. Voxels
    of several numbers have these along an axis of their own, the first.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    file_dtype: str
    components: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.file_dtype).newbyteorder("=")

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        end = self.offset + math.prod(self.shape) * self.dtype.itemsize
        source = spool(self.path, end).stream if is_gzip(self.path) else self.path
        shape = (*self.shape[1:], self.shape[0]) if self.components else self.shape
        try:
            voxels: Array = np.memmap(source, self.file_dtype, "r", self.offset, shape)
        except ValueError as error:
            raise SourceError(
                "the file is shorter than when it was opened", kind="truncated", path=self.path
            ) from error
        if self.components:
            voxels = np.moveaxis(voxels, -1, 0)
        part = voxels[tuple(slice(start, stop) for start, stop in bounds)]
        return np.array(part, dtype=self.dtype, order="C")
