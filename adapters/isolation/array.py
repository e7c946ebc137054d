"""Voxels that another process reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.base import Array, Candidate, selection_bounds
from adapters.errors import SourceError
from adapters.isolation.process import reading_process
from adapters.isolation.wire import register

__all__ = ["RemoteArray"]


@register
@dataclass(frozen=True)
class RemoteArray:
    """Stored values of one volume, read in the reading process. See ``LazyArray``.

    Every process that uses it (a Dask worker, say) asks a reading process of its own.
    """

    candidate: Candidate
    volume: str
    shape: tuple[int, ...]
    type_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.type_name)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        sizes = tuple(stop - start for start, stop in bounds)
        if 0 in sizes:
            return np.empty(sizes, self.dtype)
        asked = {
            "do": "read",
            "candidate": self.candidate,
            "volume": self.volume,
            "box": [list(pair) for pair in bounds],
        }
        size = int(np.prod(sizes)) * self.dtype.itemsize
        found = reading_process().ask(asked, self.candidate.paths, extra_bytes=size)
        if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (sizes, self.dtype):
            raise SourceError(
                f"volume {self.volume!r}: expected values of shape {sizes} and type "
                f"{self.dtype.name}, the source has changed",
                kind="source-changed",
                path=self.candidate.paths[0],
                hint="archive it when nothing writes to it any more",
            )
        return found
