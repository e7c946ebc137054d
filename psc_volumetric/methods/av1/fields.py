"""Header fields of the ``av1`` method. Part of the format (SPEC section 3.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from psc_volumetric.values.samples import StoredSamples

__all__ = ["Av1Fields"]


@dataclass(frozen=True)
class Av1Fields(StoredSamples):
    """Method fields of an ``av1`` brick.

    Attributes
    ----------
    frame_axis : int
        Axis of the brick that runs over the frames; the other two are rows and columns.
    """

    frame_axis: int = 0

    METHOD: ClassVar[str] = "av1"
    DETAIL: ClassVar[str] = "a frame axis"
    LARGEST_DETAIL: ClassVar[int] = 2
    WIDEST_STEP: ClassVar[float] = 2.0**26
    WIDEST_FLOAT_STEP: ClassVar[float] = 2.0**113

    @property
    def detail(self) -> int:
        """The frame axis."""
        return self.frame_axis

    @property
    def frame_axes(self) -> tuple[int, int, int]:
        """Axes of the brick as (frames, rows, columns)."""
        rows, columns = (axis for axis in range(3) if axis != self.frame_axis)
        return self.frame_axis, rows, columns

    def frames(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Frames, rows and columns of a brick of this shape."""
        n, rows, columns = self.frame_axes
        return shape[n], shape[rows], shape[columns]
