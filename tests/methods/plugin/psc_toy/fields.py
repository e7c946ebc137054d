"""Header fields of the toy: its step."""

from __future__ import annotations

from dataclasses import dataclass

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError


@dataclass(frozen=True)
class ToyFields:
    """Quantiser step, a whole number of stored units."""

    step: int
    prior_digest: bytes | None = None
    tile: tuple[int, int, int] | None = None

    def sections(self) -> tuple[tuple[str, int | None], ...]:
        """Every fourth slice, then all of them."""
        return (("coarse", None), ("fine", None))

    def tile_nbytes(self, section: str) -> None:
        """Sections are read whole."""
        return None

    def write(self, out: FieldWriter) -> None:
        """One number."""
        out.varint(self.step)

    @classmethod
    def read(cls, data: FieldReader, header: BrickHeader) -> ToyFields:
        """Parse; FormatError for a step of 0."""
        step = data.varint(limit=1 << 16, name="toy step")
        if step < 1:
            raise FormatError("brick header: a toy step is at least 1, found 0", kind="bad-toy")
        return cls(step)
