"""What one read asks of the bricks of a variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psc_volumetric.archive.decoded import decoded_regions
from psc_volumetric.archive.levels import Level, level_number
from psc_volumetric.archive.unfinished import unfinished_segments

if TYPE_CHECKING:
    from psc_volumetric.archive.layout import VariableSpec
    from psc_volumetric.archive.quota import Deadline
    from psc_volumetric.bitstream.index import BrickIndex
    from psc_volumetric.bitstream.sections import ByteRange

__all__ = ["Wanted"]

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Wanted:
    """What is asked of the bricks of a variable."""

    spec: VariableSpec
    level: Level
    spread: bool
    clock: Deadline

    def units(self, index: BrickIndex, box: Box) -> Box:
        """The box of whole tiles or segments around one."""
        from psc_volumetric.needed import whole_units

        return whole_units(index, box, level_number(index, self.level))

    def ranges(self, place: tuple[Any, ...], box: Box, index: BrickIndex) -> list[ByteRange]:
        """Bytes that decoding a box takes, without those of levels that are decoded already."""
        from psc_volumetric.needed import byte_ranges

        number, kept = level_number(index, self.level), unfinished_segments().of(place)

        def known(level: int, box: Box) -> bool:
            whole = decoded_regions().has(place, self.spread, level, box)
            return whole or kept.has(index, level, box)

        return byte_ranges(index, self.units(index, box), number, known)
