"""Intervals that a view has to lie in, whatever method coded the brick."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells"]

Doubles = NDArray[np.float64]


class Cells(Protocol):
    """Numbers that a stream says of stored values (z, y, x), and their intervals."""

    @property
    def zero(self) -> float:
        """Stored value that stands in for special ones without measured neighbours."""
        ...

    def analyse(self, values: Doubles) -> Doubles:
        """The numbers of stored values, as an encoder finds them."""
        ...

    def moved(self, values: Doubles, by: Doubles) -> Doubles:
        """Values whose numbers are larger by so much."""
        ...

    def nearest(self, numbers: Doubles) -> Doubles:
        """Numbers moved into their intervals."""
        ...

    def outside(self, numbers: Doubles) -> NDArray[np.bool_]:
        """Which numbers contradict the stream."""
        ...

    def inner(self, *, whole: bool) -> Self:
        """Narrower by what rounding stored values, to integers if ``whole``, may move numbers."""
        ...
