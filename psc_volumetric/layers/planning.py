"""What a region takes of the layers of a brick: segments, slices of them, bytes.

Nothing is decoded or read here (:mod:`psc_volumetric.layers.reading` does it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from psc_volumetric.arrays import Triple
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.layer_fields import LayerFields
from psc_volumetric.bitstream.sections import ByteRange
from psc_volumetric.coders.slicewise import SLICEWISE
from psc_volumetric.layers.segment_decoder import SegmentDecoder, slices_seen
from psc_volumetric.tiling import Box

__all__ = [
    "Part",
    "decodes_slicewise",
    "extent",
    "has_all",
    "holds",
    "layer_ranges",
    "moved",
    "relative",
    "segments_of",
]


def decodes_slicewise(index: BrickIndex, level: int) -> bool:
    """Whether a level is decoded slice after slice, as far as it is wanted.

    That takes a coder that can, and a level below that is known without it, or can, too: a base
    method would be decoded anew for each slice.
    """
    number = level - index.base_levels
    if number < 0 or not index.layers[number].is_whole:
        return False
    layer = index.layers[number]
    return layer.coder in SLICEWISE and (not layer.on_base or decodes_slicewise(index, level - 1))


class Part:
    """What a region takes of the segments of a layer; boxes count from the cover.

    Attributes
    ----------
    cover : box
        That the segments tile, in the brick.
    common : box
        Of the region, what they hold, in the brick.
    wanted : sequence of int
        Segments that the region touches.
    """

    def __init__(self, index: BrickIndex, number: int, selection: Box) -> None:
        self.layer: LayerFields = index.layers[number]
        self._dtype = index.dtype
        self.is_slicewise = decodes_slicewise(index, number + index.base_levels)
        self.cover, self.segments = self.layer.covered(index.valid)
        self.common = _common(selection, self.cover)
        self.inner = relative(self.common, self.cover)
        self.wanted = self.segments.covering(self.inner)

    def end(self, segment: int) -> int:
        """Slices of a segment that have to be decoded."""
        z = self.segments.box(segment)[0]
        stop: int = min(self.inner[0].stop, z.stop) if self.is_slicewise else z.stop
        return stop - int(z.start)

    def seen(self, segment: int, done: int) -> Box:
        """What decoding a segment takes of the level below, after ``done`` slices."""
        z, y, x = self.segments.box(segment)
        last = slices_seen(self.layer, self._dtype, self.end(segment), z.stop - z.start)
        return slice(z.start + max(done - 1, 0), z.start + last), y, x

    def near(self, done: Mapping[int, int]) -> Box:
        """The smallest box around what segments take, after so many slices of each."""
        boxes = [self.seen(n, slices) for n, slices in done.items()]
        z, y, x = (
            slice(min(s.start for s in along), max(s.stop for s in along))
            for along in zip(*boxes, strict=True)
        )
        return z, y, x


def layer_ranges(
    index: BrickIndex,
    number: int,
    selection: Box,
    below: Callable[[Box], Sequence[ByteRange]],
) -> list[ByteRange]:
    """What `LayerReader` reads for a region; ``below`` says it of the level below."""
    part = Part(index, number, selection)
    coded = [n for n in part.wanted if part.layer.sizes[n]]
    sections = [index.segment(number, n) for n in coded]
    found = [(section.offset, section.nbytes) for section in sections]
    if len(coded) < len(part.wanted) or part.common != selection:
        found += below(selection)
    if part.layer.on_base and coded:
        found += below(moved(part.near(dict.fromkeys(coded, 0)), part.cover))
    if part.layer.grid is not None:
        special = index.section("special")
        found.append((special.offset, special.nbytes))
    return found


def segments_of(index: BrickIndex, level: int, selection: Box) -> tuple[int, tuple[int, ...]]:
    """The layer of a level of exact values, and the segments of it that a region touches."""
    number = level - index.base_levels
    return number, Part(index, number, selection).wanted


def has_all(
    index: BrickIndex,
    level: int,
    selection: Box,
    find: Callable[[int, int], SegmentDecoder | None],
) -> bool:
    """Whether a region of a level takes no bytes of the brick, nor do the levels that it stands on.

    ``find`` gives the decoder that is kept of a segment of a layer.
    """
    if not decodes_slicewise(index, level):
        return False
    number = level - index.base_levels
    part = Part(index, number, selection)
    for segment in part.wanted:
        decoder = find(number, segment)
        if decoder is None:
            return False
        if part.layer.on_base and decoder.done < part.end(segment):
            near = moved(part.seen(segment, decoder.done), part.cover)
            if not has_all(index, level - 1, near, find):
                return False
    return True


def _common(a: Box, b: Box) -> Box:
    """What two boxes share; an empty one at the corner of ``b`` if nothing."""
    both = [slice(max(s.start, t.start), min(s.stop, t.stop)) for s, t in zip(a, b, strict=True)]
    if any(s.start >= s.stop for s in both):
        both = [slice(t.start, t.start) for t in b]
    z, y, x = both
    return z, y, x


def holds(outer: Box, inner: Box) -> bool:
    """Whether one box lies in another."""
    return all(o.start <= i.start and i.stop <= o.stop for o, i in zip(outer, inner, strict=True))


def moved(box: Box, frame: Box) -> Box:
    """The box counted from where its frame is counted from."""
    z, y, x = (slice(b.start + f.start, b.stop + f.start) for b, f in zip(box, frame, strict=True))
    return z, y, x


def relative(box: Box, frame: Box) -> Box:
    """The box with its corner counted from that of the frame around it."""
    z, y, x = (slice(b.start - f.start, b.stop - f.start) for b, f in zip(box, frame, strict=True))
    return z, y, x


def extent(box: Box) -> Triple:
    """Its lengths."""
    z, y, x = (s.stop - s.start for s in box)
    return z, y, x
