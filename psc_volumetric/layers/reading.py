"""How a region of a layer is read. Part of the format (SPEC section 8).

:mod:`psc_volumetric.codec` is the public face, :mod:`psc_volumetric.layers.segment_decoder` decodes
segments, :mod:`psc_volumetric.layers.brick` chooses what is coded. The level below the first layer
is a function that is handed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import (
    ReadRange,
    check_section,
    read_section,
)
from psc_volumetric.layers.grid import cells_around, uniform_spread
from psc_volumetric.layers.planning import (
    Part,
    decodes_slicewise,
    extent,
    holds,
    moved,
    relative,
)
from psc_volumetric.layers.segment_decoder import SegmentDecoder
from psc_volumetric.threads import in_order
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap

__all__ = [
    "KeptSegments",
    "Known",
    "LayerReader",
    "Region",
    "read_level",
]

Region = tuple[Values, NDArray[np.float32] | None]  # stored values; if asked for, sigma of each
LevelBelow = Callable[[Box, bool], Region]  # decodes a region, with sigma or without
LevelOf = Callable[[int, Box, bool], Region]
Known = Callable[[int, Box, bool], Region | None]


class KeptSegments(Protocol):
    """Decoders of a brick's segments that may go on later, by layer and segment."""

    def find(self, layer: int, segment: int) -> SegmentDecoder | None:
        """One that is kept and can go on."""
        ...

    def keep(self, layer: int, segment: int, decoder: SegmentDecoder) -> SegmentDecoder:
        """Keep one; returns the one that is kept, which may be that of another thread."""
        ...

    def trim(self) -> None:
        """Drop what is too much, after decoders have gone on."""
        ...


class LayerReader:
    """One layer of a brick, for what is asked of it and of the layers above it at once.

    Parameters
    ----------
    read, index
        As in :func:`psc_volumetric.codec.decode_brick`.
    number : int
        Which layer of the brick.
    asked : box
        What the caller asked for, of whichever level: segments that lie in it as a whole are not
        kept, for a reader of whole bricks does not come back.
    below : callable
        Decodes a region of the level below, where the layer refers to it. From several threads.
    kept : KeptSegments, optional
        Decoders that go on; segments of which only a part is asked for are left there.

    Notes
    -----
    Safe to use from several threads.
    """

    def __init__(
        self,
        read: ReadRange,
        index: BrickIndex,
        number: int,
        *,
        asked: Box,
        below: LevelBelow,
        kept: KeptSegments | None,
    ) -> None:
        self._read, self._index, self._number = read, index, number
        self._asked, self._below, self._kept = asked, below, kept
        self._layer, self._what = index.layers[number], f"brick {index.position}"
        self._special: SpecialMap | None = None
        self._knows_special = self._layer.grid is None  # else its values have them
        self._lock = threading.Lock()

    def region(self, selection: Box, spread: bool) -> Region:
        """Decode a region, reading the segments that it touches.

        Returns
        -------
        values : (z, y, x) array
        spread : (z, y, x) float32 or None
            One sigma per voxel in stored units.
        """
        part = Part(self._index, self._number, selection)
        decoders = self._decoders(part)
        shape = tuple(s.stop - s.start for s in selection)
        values = np.empty(shape, self._index.dtype)
        sigma = np.zeros(shape, np.float32) if spread else None
        if len(decoders) < len(part.wanted) or part.common != selection:
            values[...], under_sigma = self._below(selection, spread)  # which some voxels keep
            if sigma is not None and under_sigma is not None:
                sigma[...] = under_sigma
        goes_on = self._going_on(part, decoders)
        place, grid = relative(part.common, selection), self._layer.grid
        overlaps = [
            one for one in part.segments.overlaps(part.inner, part.wanted) if one[0] in decoders
        ]

        def decoded_segment(overlap: tuple[int, Box, Box]) -> SegmentDecoder:
            goes_on(overlap[0])
            return decoders[overlap[0]]

        with in_order(decoded_segment, overlaps) as found:
            for (segment, inside, part_of), decoder in zip(overlaps, found, strict=True):
                del decoders[segment]
                target = moved(part_of, place)
                values[target] = decoder.values[inside]
                if sigma is not None:
                    sigma[target] = 0 if grid is None else uniform_spread(grid.bound)
                    sigma[target][decoder.exact[inside]] = 0
        if self._kept is not None:
            self._kept.trim()
        return values, sigma

    def _decoders(self, part: Part) -> dict[int, SegmentDecoder]:
        """A decoder for each segment that is not empty: one that goes on, or a new one."""
        kept, found = self._kept, {}
        if kept is not None:
            known = ((n, kept.find(self._number, n)) for n in part.wanted)
            found = {n: decoder for n, decoder in known if decoder is not None}
        lacking = [n for n in part.wanted if n not in found]
        for n, data in self._segments(lacking).items():
            box = moved(part.segments.box(n), part.cover)
            decoder = SegmentDecoder(
                data, self._layer, extent(box), self._index.dtype, limits=self._index.limits,
                special=self._special_of(box), what=f"{self._what}: {self._layer.kind}[{n}]",
            )  # fmt: skip
            if kept is not None and part.is_slicewise and not holds(self._asked, box):
                decoder = kept.keep(self._number, n, decoder)
            found[n] = decoder
        return found

    def _going_on(
        self, part: Part, decoders: Mapping[int, SegmentDecoder]
    ) -> Callable[[int], None]:
        """What decodes a segment as far as it is wanted."""
        begun = {n: one.done for n, one in decoders.items()}  # once: other threads go on with them
        done = {n: slices for n, slices in begun.items() if slices < part.end(n)}
        below = self._below_segments(part, done)

        def go_on(segment: int) -> None:
            if segment not in done:
                return
            seen = part.seen(segment, done[segment])
            near = None if below is None else self._reference(below, moved(seen, part.cover))
            first = seen[0].start - part.segments.box(segment)[0].start
            decoders[segment].decode(part.end(segment), near, first)

        return go_on

    def _below_segments(self, part: Part, done: Mapping[int, int]) -> LevelBelow | None:
        """The level below, for each segment by itself; None where the layer does not refer to it.

        Where it has the same segments, each is decoded right before the one that stands on it, by
        the same thread. Else all that they take is decoded at once, for tiles of a base method
        would be decoded for several segments.
        """
        if not self._layer.on_base or not done:
            return None
        if self._stands_on_segments():
            return self._below
        near = moved(part.near(done), part.cover)
        values, sigma = self._below(near, self._layer.refines)

        def cut(box: Box, spread: bool) -> Region:
            inside = relative(box, near)
            return np.ascontiguousarray(values[inside]), None if sigma is None else sigma[inside]

        return cut

    def _stands_on_segments(self) -> bool:
        """Whether the level below is decoded slice after slice, too, in the same segments."""
        index, level = self._index, self._number + self._index.base_levels
        if not decodes_slicewise(index, level):
            return False
        return index.layers[self._number - 1].segment == self._layer.segment

    def _reference(self, below: LevelBelow, box: Box) -> Values:
        """What a layer refers to: the level below, or what the source can be after it."""
        under, spread = below(box, self._layer.refines)
        if spread is None:
            return under
        grid = self._index.layers[self._number - 1].grid
        assert grid is not None  # of a bounded layer: the header was checked
        return cells_around(under, spread == 0, grid.bound)

    def _special_of(self, box: Box) -> SpecialMap | None:
        """Voxels of a segment that are no measurements; their section is read once."""
        with self._lock:
            if not self._knows_special:
                section = self._index.section("special")
                data = read_section(self._read, section, what=self._what)
                self._special = SpecialMap.unpack(data, self._index.valid, self._index.dtype)
                self._knows_special = True
        return None if self._special is None else self._special.part(box)

    def _segments(self, wanted: Sequence[int]) -> dict[int, bytes]:
        """Bytes of the segments, neighbours in one read; empty ones are left out."""
        index, number = self._index, self._number
        sections = {n: index.segment(number, n) for n in wanted if self._layer.sizes[n]}
        pieces = {}
        for _, run in groupby(enumerate(sections), key=lambda item: item[1] - item[0]):
            numbers = [n for _, n in run]
            first, last = sections[numbers[0]], sections[numbers[-1]]
            data = self._read(first.offset, last.offset + last.nbytes - first.offset)
            for n in numbers:
                start = sections[n].offset - first.offset
                piece = data[start : start + sections[n].nbytes]
                check_section(piece, sections[n], what=self._what)
                pieces[n] = piece
        return pieces


def read_level(
    read: ReadRange,
    index: BrickIndex,
    level: int,
    selection: Box,
    spread: bool,
    *,
    base: LevelOf,
    known: Known | None,
    kept: KeptSegments | None,
) -> Region:
    """A region of a level that a brick has; those below it only where a layer refers to them.

    Parameters
    ----------
    read, index, level, selection, spread, known, kept
        As in :func:`psc_volumetric.codec.decode_with`.
    base : callable
        Decodes levels of the base method.
    """

    def below(level: int, box: Box, spread: bool) -> Region:
        found = None if known is None else known(level, box, spread)
        return of_level(level, box, spread) if found is None else found

    def of_level(level: int, box: Box, spread: bool) -> Region:
        number = level - index.base_levels
        return base(level, box, spread) if number < 0 else layers[number].region(box, spread)

    layers = [
        LayerReader(
            read, index, number, asked=selection, kept=kept,
            below=partial(below, number + index.base_levels - 1),
        )
        for number in range(len(index.layers))
    ]  # fmt: skip
    return of_level(level, selection, spread)
