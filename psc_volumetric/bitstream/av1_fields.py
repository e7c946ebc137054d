"""Header fields of the ``av1`` method. Part of the format (SPEC section 3.7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError

__all__ = ["Av1Fields"]

STEP_FRACTION_BITS = 16  # of the step of integers
SAMPLES = 4096
CODED_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}


@dataclass(frozen=True)
class Av1Fields:
    """Method fields of an ``av1`` brick.

    Attributes
    ----------
    low : float
        Stored value of sample 0.
    step : float
        Stored units between neighbouring samples; for integers a multiple of 2^-16.
    sigma : bytes
        Packed :class:`~psc_volumetric.uncertainty.SigmaTables` of one level; empty when nothing
        was measured.
    frame_axis : int
        Axis of the brick that runs over the frames; the other two are rows and columns.
    """

    low: float
    step: float
    sigma: bytes = b""
    frame_axis: int = 0

    @property
    def frame_axes(self) -> tuple[int, int, int]:
        """Axes of the brick as (frames, rows, columns)."""
        rows, columns = (axis for axis in range(3) if axis != self.frame_axis)
        return self.frame_axis, rows, columns

    def frames(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Frames, rows and columns of a brick of this shape."""
        n, rows, columns = self.frame_axes
        return shape[n], shape[rows], shape[columns]

    @property
    def whole_step(self) -> int:
        """The step of integer dtypes in units of 2^-16."""
        return int(self.step * (1 << STEP_FRACTION_BITS))

    @staticmethod
    def codes(dtype: np.dtype[np.generic]) -> bool:
        """Whether the method codes a dtype at all."""
        return dtype.str[1:] in CODED_DTYPES

    def fits(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether low and step are in range for a dtype (SPEC 10.1)."""
        if not (math.isfinite(self.low) and math.isfinite(self.step) and self.step > 0):
            return False
        limit = c.MAX_MAPPED_FLOAT if dtype.kind == "f" else float(c.MAX_MAPPED_INTEGER)
        if not (abs(self.low) < limit and self.step <= limit / SAMPLES):
            return False
        scaled = self.step * (1 << STEP_FRACTION_BITS)
        return dtype.kind == "f" or (self.low.is_integer() and scaled.is_integer())

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        out.pack("ddB", self.low, self.step, self.frame_axis)
        out.varint(len(self.sigma))
        out.raw(self.sigma)

    @classmethod
    def read(cls, data: FieldReader, dtype: np.dtype[np.generic]) -> Av1Fields:
        """Parse and check; FormatError when a field is out of range."""
        if not cls.codes(dtype):
            raise FormatError(f"brick header: method av1 does not code {dtype}", kind="bad-method")
        low, step = data.float64(), data.float64()
        (frame_axis,) = data.unpack("B")
        sigma = data.raw(data.varint(limit=c.MAX_SIGMA_BYTES, name="size of the sigma tables"))
        if frame_axis > 2:
            raise FormatError(
                f"brick header: expected a frame axis of 0..2, found {frame_axis}", kind="bad-av1"
            )
        fields = cls(low, step, sigma, frame_axis)
        if not fields.fits(dtype):
            raise FormatError(
                f"brick header: samples from {low!r} in steps of {step!r} are out of range for "
                f"{dtype}",
                kind="bad-mapping",
            )
        return fields
