"""Least and largest value that a format can hold: decoded values stay between. Part of the format.

SPEC section 3.9. A reader of DICOM with 12 bits stored, or of packed NetCDF, would make another
number of a value outside, so values that come from samples or from a grid are saturated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["ValueLimits", "saturate"]

Values = NDArray[np.generic]
Number = int | float


@dataclass(frozen=True)
class ValueLimits:
    """Least and largest stored value of a brick, both of its dtype and finite."""

    least: Number
    largest: Number

    @classmethod
    def of(
        cls, given: tuple[Number, Number] | None, values: Values, measured: NDArray[np.bool_] | None
    ) -> ValueLimits | None:
        """Limits for a brick; None where they would say no more than the dtype.

        Parameters
        ----------
        given : (least, largest) or None
            Of the format. A source that breaks them widens them for this brick, so that no value is
            farther away for it.
        values : array
            Stored values of the brick.
        measured : bool array or None
            Values that are measurements; None for all.

        Raises
        ------
        ParameterError
            Kind ``"bad-limits"``: not two finite numbers, the first one below the second.
        """
        if given is None or values.dtype.kind not in "iuf":
            return None
        least, largest = given
        if not (math.isfinite(least) and math.isfinite(largest) and least < largest):
            raise ParameterError(
                f"limits of values: expected two finite numbers, the smaller one first, found "
                f"{given!r}",
                kind="bad-limits",
            )
        inside = values if measured is None else values[measured]
        if inside.size:
            least, largest = min(least, inside.min().item()), max(largest, inside.max().item())
        if values.dtype.kind == "f":
            top = float(np.finfo(values.dtype.str).max)
            ends = np.array([max(least, -top), min(largest, top)], values.dtype)
            return cls(ends[0].item(), ends[1].item()) if ends[0] < ends[1] else None
        info = np.iinfo(values.dtype.str)
        least, largest = max(math.ceil(least), info.min), min(math.floor(largest), info.max)
        whole = (least, largest) == (info.min, info.max)
        return None if whole or least >= largest else cls(least, largest)

    @classmethod
    def all_of(cls, dtype: np.dtype[np.generic]) -> ValueLimits:
        """Everything that numbers of a type can be."""
        info = np.finfo(dtype.str) if dtype.kind == "f" else np.iinfo(dtype.str)
        return cls(dtype.type(info.min).item(), dtype.type(info.max).item())

    def apart_from(self, special_values: Sequence[float], measured: Values) -> ValueLimits:
        """Limits short of the special values that lie past either end of ``measured``."""
        least, largest = self.least, self.largest
        low, high = measured.min().item(), measured.max().item()
        for value in filter(math.isfinite, special_values):
            if high < value <= largest:
                largest = _beside(value, -1, measured.dtype)
            elif least <= value < low:
                least = _beside(value, 1, measured.dtype)
        return ValueLimits(least, largest) if least < largest else self

    def write(self, out: FieldWriter, dtype: np.dtype[np.generic]) -> None:
        """Append both numbers in the stored dtype."""
        out.raw(np.array([self.least, self.largest], dtype).tobytes())

    @classmethod
    def read(cls, data: FieldReader, dtype: np.dtype[np.generic]) -> ValueLimits | None:
        """Parse and check a flag and, if it is set, the numbers."""
        (flag,) = data.unpack("B")
        if not flag:
            return None
        if flag > 1 or dtype.kind not in "iuf":
            raise FormatError(f"brick header: limits {flag} of {dtype} values", kind="bad-limits")
        least, largest = np.frombuffer(data.raw(2 * dtype.itemsize), dtype).tolist()
        if not (math.isfinite(least) and math.isfinite(largest) and least < largest):
            raise FormatError(
                f"brick header: expected finite limits, the smaller one first, found {least!r} "
                f"and {largest!r}",
                kind="bad-limits",
            )
        return cls(least, largest)


def saturate(values: Values, limits: ValueLimits | None) -> Values:
    """The values with those outside the limits moved to the nearer one; in place."""
    if limits is not None:
        np.clip(values, limits.least, limits.largest, out=values)
    return values


def _beside(value: Number, way: int, dtype: np.dtype[np.generic]) -> Number:
    """The next number of a type, upwards or downwards."""
    if dtype.kind != "f":
        return int(value) + way
    found: float = np.nextafter(dtype.type(value), dtype.type(way * np.inf)).item()
    return found
