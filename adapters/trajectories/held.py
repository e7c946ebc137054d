"""Small arrays that are in memory already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adapters.base import Array, selection_bounds

__all__ = ["HeldArray"]


@dataclass(frozen=True, eq=False)
class HeldArray:
    """Values in memory. See ``LazyArray``."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values, native byte order."""
        return np.dtype(self.values.dtype)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        return np.array(self.values[tuple(slice(*pair) for pair in bounds)], order="C")
