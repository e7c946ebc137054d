"""Decoders of segments that were left in the middle, kept in memory for the next slices.

A segment of our own coders is decoded slice after slice. Whoever looks through a volume asks for
the next slice soon: then it costs one slice, not all before it. One limit holds for all archives
that a process has open.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from psc_volumetric.of_process import of_this_process

if TYPE_CHECKING:
    from psc_volumetric.bitstream.index import BrickIndex
    from psc_volumetric.layers.segment_decoder import SegmentDecoder
    from psc_volumetric.tiling import Box

__all__ = ["LIMIT", "BrickSegments", "UnfinishedSegments", "unfinished_segments"]

LIMIT = 192 << 20  # bytes

_of_process: dict[int, UnfinishedSegments] = {}


def unfinished_segments() -> UnfinishedSegments:
    """Those of this process."""
    return of_this_process(_of_process, UnfinishedSegments)


class UnfinishedSegments:
    """Decoders by brick, layer and segment; the ones that were not used longest go first.

    Attributes
    ----------
    limit : int
        Bytes that are kept at most; 0 keeps nothing.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[tuple[Hashable, int, int], SegmentDecoder] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        with self._lock:
            return sum(decoder.nbytes for decoder in self._kept.values())

    def of(self, brick: Hashable) -> BrickSegments:
        """Those of one brick: owner and place of it."""
        return BrickSegments(self, brick)

    def find(self, key: tuple[Hashable, int, int]) -> SegmentDecoder | None:
        """One that is kept; None where none is, or it cannot go on."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found.error is not None:
                del self._kept[key]
                return None
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: tuple[Hashable, int, int], decoder: SegmentDecoder) -> SegmentDecoder:
        """Keep one; returns the one that is kept, which may be that of another thread."""
        with self._lock:
            found = self._kept.get(key)
            if found is None or found.error is not None:
                self._kept[key] = found = decoder
            return found

    def trim(self) -> None:
        """Drop what is too much."""
        with self._lock:
            sizes = {key: decoder.nbytes for key, decoder in self._kept.items()}  # others go on
            nbytes = sum(sizes.values())
            for key, size in sizes.items():
                if nbytes <= self.limit:
                    break
                del self._kept[key]
                nbytes -= size


class BrickSegments:
    """Those of one brick, as `psc_volumetric.layers.reading.KeptSegments`."""

    def __init__(self, all_of_them: UnfinishedSegments, brick: Hashable) -> None:
        self._all, self._brick = all_of_them, brick

    def find(self, layer: int, segment: int) -> SegmentDecoder | None:
        """One that is kept and can go on."""
        return self._all.find((self._brick, layer, segment))

    def keep(self, layer: int, segment: int, decoder: SegmentDecoder) -> SegmentDecoder:
        """Keep one; returns the one that is kept."""
        return self._all.keep((self._brick, layer, segment), decoder)

    def trim(self) -> None:
        """Drop what is too much."""
        self._all.trim()

    def has(self, index: BrickIndex, level: int, box: Box) -> bool:
        """Whether all that a region of a level takes was begun, so that no byte is read for it."""
        from psc_volumetric.layers.planning import has_all

        return has_all(index, level, box, self.find)
