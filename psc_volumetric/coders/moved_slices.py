"""Slices that are others, moved a cell: corners, interval ends. Part of the format (SPEC 11.5)."""

from __future__ import annotations

import itertools
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError

__all__ = ["SHIFTS", "check_parents", "moved"]

N = TypeVar("N", bound=np.generic)

SHIFTS = tuple(itertools.product((-1, 0, 1), repeat=2))  # cells (y, x) that a slice is moved by


def moved(slices: NDArray[N], z: int, parent: int) -> NDArray[N]:
    """The slice that slice ``z`` is taken from, moved around its edges; ``parent`` is above 0."""
    back, shift = divmod(parent - 1, len(SHIFTS))
    found: NDArray[N] = np.roll(slices[z - 1 - back], SHIFTS[shift], (0, 1))
    return found


def check_parents(parents: NDArray[np.uint8], what: str) -> None:
    """Refuse a slice that is taken from none before it (FormatError, kind ``"bad-payload"``)."""
    back = np.where(parents > 0, 1 + (parents.astype(np.int64) - 1) // len(SHIFTS), 0)
    if (back > np.arange(len(parents))).any():
        raise FormatError(
            f"{what}: a slice that is taken from none before it",
            kind="bad-payload",
            hint="the chunk is damaged, run `psc-archive verify`",
        )
