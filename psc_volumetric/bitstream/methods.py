"""What a brick's header knows of base methods: a code, and fields that only the method understands.

The methods themselves are above this room. Whoever parses or writes a brick hands them in
(:data:`psc_volumetric.methods.registry.REGISTRY`), so a new method changes nothing here.
"""

from __future__ import annotations

from typing import Protocol

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter

__all__ = ["MethodFields", "Methods"]


class MethodFields(Protocol):
    """Header fields of one base method (SPEC 3.3, 3.7, 3.8)."""

    @property
    def prior_digest(self) -> bytes | None:
        """First 16 bytes of the prior's SHA-256; None when no network is needed."""
        ...

    @property
    def tile(self) -> tuple[int, int, int] | None:
        """Tiles (z, y, x) that levels are coded in; None for the brick as a whole."""
        ...

    def sections(self) -> tuple[tuple[str, int | None], ...]:
        """Name and size of each section, one for each quality level, coarsest first.

        A size of None is not known from the fields and stands in the index.
        """
        ...

    def tile_nbytes(self, section: str) -> tuple[int, ...] | None:
        """Bytes of each tile in a section where tiles follow one another.

        None for a section that is read whole whatever the region.
        """
        ...

    def write(self, out: FieldWriter) -> None:
        """Append the fields in SPEC order."""
        ...


class Methods(Protocol):
    """The base methods that a reader or writer knows."""

    def name_of(self, code: int) -> str:
        """Name behind the code in a header; UnsupportedVersionError for an unknown one."""
        ...

    def code_of(self, name: str) -> int:
        """Code of a method."""
        ...

    def read_fields(self, name: str, data: FieldReader, header: BrickHeader) -> MethodFields | None:
        """Parse and check the fields of a method; None for one that has none."""
        ...
