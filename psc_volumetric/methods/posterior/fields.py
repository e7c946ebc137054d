"""Header fields of the ``posterior`` method. Part of the format (SPEC section 3.10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.wavelet.fields import WaveletFields

__all__ = [
    "DIGEST_SIZE",
    "MOST_GAIN",
    "MOST_OFFSET",
    "MOST_SCALE",
    "PosteriorFields",
    "View",
]

DIGEST_SIZE = 16
MOST_GAIN = 32  # sixteenths of the correction that the network gives
MOST_SCALE, MOST_OFFSET = (1 << 31) - 1, 1 << 24


@dataclass(frozen=True)
class View:
    """How the network of a brick sees it, and how far it is believed.

    Attributes
    ----------
    gain : int
        Sixteenths of the network's correction that are added, 1 .. 32.
    prior : bytes
        First 16 bytes of the digest of the posterior network.
    level : int
        Its level: a quantiser step as a share of the intensity range, and splits of z.
    scale, offset : int
        A sample m is ``rshift(m scale, 24) + offset`` in normalised units of 11 fraction bits.
    """

    gain: int
    prior: bytes
    level: int
    scale: int
    offset: int

    def fits(self) -> bool:
        """Whether all numbers are in range."""
        near = abs(self.offset) <= MOST_OFFSET and 1 <= self.scale <= MOST_SCALE
        return near and 1 <= self.gain <= MOST_GAIN and 0 <= self.level <= 255

    def write(self, out: FieldWriter) -> None:
        """Append what follows the gain."""
        out.raw(self.prior)
        out.pack("BIi", self.level, self.scale, self.offset)


@dataclass(frozen=True)
class PosteriorFields(WaveletFields):
    """Method fields of a ``posterior`` brick: those of the wavelet, then the view of the network.

    Attributes
    ----------
    view : View or None
        None where the network does not help: such a brick is what the wavelet made of it.
    """

    view: View | None = None

    METHOD: ClassVar[str] = "posterior"

    @property
    def prior_digest(self) -> bytes | None:
        """First 16 bytes of the network's SHA-256; None when it is not asked."""
        return None if self.view is None else self.view.prior

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        super().write(out)
        out.pack("B", 0 if self.view is None else self.view.gain)
        if self.view is not None:
            self.view.write(out)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> Self:
        """Parse and check; FormatError when a field is out of range."""
        fields = super().read(data, header)
        (gain,) = data.unpack("B")
        if gain == 0:
            return fields
        view = View(gain, data.raw(DIGEST_SIZE), *data.unpack("BIi"))
        if not view.fits():
            raise FormatError(
                f"brick header: expected a gain of 0..{MOST_GAIN}, a scale of 1..2^31 - 1 and an "
                f"offset within 2^24, found {gain}, {view.scale} and {view.offset}",
                kind="bad-posterior",
            )
        return replace(fields, view=view)
