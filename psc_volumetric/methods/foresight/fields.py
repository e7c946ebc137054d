"""Header fields of the ``foresight`` method. Part of the format (SPEC section 3.13)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.posterior.fields import MOST_SCALE, PosteriorFields, View
from psc_volumetric.methods.wavelet.transform import full_depth

__all__ = ["MOST_FORESEEN", "ForesightFields", "Glimpse"]

MOST_FORESEEN = 4  # coarsest scale that may be foreseen


@dataclass(frozen=True)
class Glimpse:
    """How the network sees what is decoded when a scale is about to come.

    Attributes
    ----------
    splits : int
        The scale, by the splits of y and x of its bands, 1 .. `MOST_FORESEEN`.
    level : int
        Of the network, as in `View`.
    zoom : int
        The network's samples are those of the coarser planes times this, 24 fraction bits.
    scale : int
        As in `View`, of the network's samples.
    """

    splits: int
    level: int
    zoom: int
    scale: int

    def fits(self) -> bool:
        """Whether all numbers are in range."""
        return 1 <= self.zoom <= MOST_SCALE and 1 <= self.scale <= MOST_SCALE

    def view(self, view: View) -> View:
        """How the network sees the coarser planes; all of its correction counts."""
        return replace(view, gain=16, level=self.level, scale=self.scale)


@dataclass(frozen=True)
class ForesightFields(PosteriorFields):
    """Method fields of a ``foresight`` brick: those of ``posterior``, then the scales foreseen.

    Attributes
    ----------
    glimpses : tuple of Glimpse
        Coarse scales first. Without any the stream is one of the wavelet's.
    """

    glimpses: tuple[Glimpse, ...] = ()

    METHOD: ClassVar[str] = "foresight"

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        super().write(out)
        if self.view is None:
            return
        out.pack("B", sum(1 << (glimpse.splits - 1) for glimpse in self.glimpses))
        for glimpse in self.glimpses:
            out.pack("BII", glimpse.level, glimpse.zoom, glimpse.scale)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> Self:
        """Parse and check; FormatError when a field is out of range."""
        fields = super().read(data, header)
        if fields.view is None:
            return fields
        (scales,) = data.unpack("B")
        most = min(MOST_FORESEEN, *(full_depth(extent) for extent in header.valid[1:]))
        if scales >= 1 << most:
            raise _refused(f"expected scales of 1..{most} to be foreseen, found the bits {scales}")
        splits = [n for n in range(most, 0, -1) if scales >> (n - 1) & 1]
        glimpses = tuple(Glimpse(n, *data.unpack("BII")) for n in splits)
        if not all(glimpse.fits() for glimpse in glimpses):
            raise _refused(f"expected zooms and scales of 1..{MOST_SCALE}, found {glimpses}")
        return replace(fields, glimpses=glimpses)


def _refused(found: str) -> FormatError:
    return FormatError(f"brick header: {found}", kind="bad-foresight")
