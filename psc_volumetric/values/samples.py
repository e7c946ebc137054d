"""Evenly spaced integer samples and the stored values they stand for. Part of the format.

What the header fields of methods that code samples have in common (SPEC section 3.7).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError

__all__ = ["STEP_FRACTION_BITS", "StoredSamples"]

STEP_FRACTION_BITS = 16  # of the step of integers
FARTHEST = 2.0**40  # stored units from low; beyond, every integer saturates
HALF = 1 << (STEP_FRACTION_BITS - 1)
CODED_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}


@dataclass(frozen=True)
class StoredSamples(ABC):
    """Where samples lie among stored values.

    Attributes
    ----------
    low : float
        Stored value of sample 0.
    step : float
        Stored units between neighbouring samples; for integers a multiple of 2^-16.
    sigma : bytes
        Packed :class:`~psc_volumetric.sigma.tables.SigmaTables` of one level; empty when nothing
        was measured.
    """

    low: float
    step: float
    sigma: bytes = b""

    METHOD: ClassVar[str]
    DETAIL: ClassVar[str]  # for messages
    LARGEST_DETAIL: ClassVar[int]
    WIDEST_STEP: ClassVar[float]  # of integers
    WIDEST_FLOAT_STEP: ClassVar[float]  # values then stay finite in single precision

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
        if dtype.kind == "f":
            return abs(self.low) < c.MAX_MAPPED_FLOAT and self.step <= self.WIDEST_FLOAT_STEP
        scaled = self.step * (1 << STEP_FRACTION_BITS)
        return (
            abs(self.low) < c.MAX_MAPPED_INTEGER
            and self.step <= self.WIDEST_STEP
            and self.low.is_integer()
            and scaled.is_integer()
        )

    def to_stored(
        self, samples: NDArray[np.integer[Any]], dtype: np.dtype[np.generic]
    ) -> NDArray[np.generic]:
        """Samples to stored values (SPEC 3.7).

        Integers: ``low + rshift(sample * step * 2^16, 16)``, saturating. Floats: one multiplication
        and one addition in IEEE double, then one conversion.
        """
        if dtype.kind == "f":
            floats: NDArray[np.generic] = self.low + samples.astype(np.float64) * self.step
            return floats.astype(dtype)
        most = math.ceil(FARTHEST / self.step)
        wide = np.clip(samples.astype(np.int64), -most, most)
        wide *= self.whole_step
        wide += HALF
        wide >>= STEP_FRACTION_BITS
        wide += int(self.low)
        info = np.iinfo(dtype.str)
        values: NDArray[np.generic] = np.clip(wide, info.min, info.max, out=wide).astype(dtype)
        return values

    @property
    def prior_digest(self) -> bytes | None:
        """Samples alone need no network."""
        return None

    @property
    def tile(self) -> None:
        """They code the brick as a whole."""
        return None

    def sections(self) -> tuple[tuple[str, int | None], ...]:
        """One level."""
        return (("base", None),)

    def tile_nbytes(self, section: str) -> None:
        """A section is one stream."""
        return None

    @property
    @abstractmethod
    def detail(self) -> int:
        """The one byte that methods differ in."""

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        out.pack("ddB", self.low, self.step, self.detail)
        out.varint(len(self.sigma))
        out.raw(self.sigma)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> Self:
        """Parse and check; FormatError when a field is out of range."""
        dtype = header.dtype
        if not cls.codes(dtype):
            raise FormatError(
                f"brick header: method {cls.METHOD} does not code {dtype}", kind="bad-method"
            )
        low, step = data.float64(), data.float64()
        (detail,) = data.unpack("B")
        sigma = data.raw(data.varint(limit=c.MAX_SIGMA_BYTES, name="size of the sigma tables"))
        if detail > cls.LARGEST_DETAIL:
            raise FormatError(
                f"brick header: expected {cls.DETAIL} of 0..{cls.LARGEST_DETAIL}, found {detail}",
                kind=f"bad-{cls.METHOD}",
            )
        fields = cls(low, step, sigma, detail)  # type: ignore[call-arg]
        if not fields.fits(dtype):
            raise FormatError(
                f"brick header: samples from {low!r} in steps of {step!r} are out of range for "
                f"{dtype}",
                kind="bad-mapping",
            )
        return fields
