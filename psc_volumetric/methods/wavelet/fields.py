"""Header fields of the ``wavelet`` method. Part of the format (SPEC section 3.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from psc_volumetric.values.samples import StoredSamples

__all__ = ["WaveletFields"]


@dataclass(frozen=True)
class WaveletFields(StoredSamples):
    """Method fields of a ``wavelet`` brick.

    Attributes
    ----------
    shift : int
        Samples are shifted right by it for the classes of the sigma tables.
    """

    shift: int = 0

    METHOD: ClassVar[str] = "wavelet"
    DETAIL: ClassVar[str] = "a shift"
    LARGEST_DETAIL: ClassVar[int] = 40
    WIDEST_STEP: ClassVar[float] = 2.0**26
    WIDEST_FLOAT_STEP: ClassVar[float] = 2.0**88

    @property
    def detail(self) -> int:
        """The shift."""
        return self.shift
