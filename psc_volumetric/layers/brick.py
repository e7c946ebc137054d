"""Layers over the base of a brick: which are coded, and how a level is read. Part of the format.

SPEC section 8. :mod:`psc_volumetric.codec` is the public face,
:mod:`psc_volumetric.layers.segments` codes segments. The level below the first layer is a function
that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Mask, Triple, Values
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.layer_fields import LayerFields
from psc_volumetric.bitstream.sections import (
    ByteRange,
    ReadRange,
    check_section,
    read_section,
)
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.coders.slicewise import SLICEWISE
from psc_volumetric.layers.grid import cells_around, uniform_spread
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.layers.progressive import BOUNDED_CODERS, REFINING_CODERS, keeps_budget
from psc_volumetric.layers.segment_decoder import SegmentDecoder, slices_seen
from psc_volumetric.layers.segments import (
    Below,
    EncodedLayer,
    encode_bounded,
    encode_lossless,
)
from psc_volumetric.threads import in_order
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap

__all__ = [
    "KeptSegments",
    "LevelBelow",
    "decode_layer",
    "decodes_slicewise",
    "encode_layers",
    "layer_ranges",
    "segments_of",
]

MANY_OUTLIERS = 1e-3  # share of voxels; an exact layer may then be smaller than a bounded one


def encode_layers(
    values: Values,
    base: Below | None,
    guarantee: Guarantee,
    *,
    special: SpecialMap | None,
    limits: ValueLimits | None,
    lossless_only: bool,
    exact_mask: Mask | None,
) -> list[EncodedLayer]:
    """The layers that keep a guarantee over a base.

    Parameters
    ----------
    values : (z, y, x) array
    base : Below or None
        Last level of the base method; None means method ``none``, which has at least one layer.
    guarantee : Guarantee
    special : SpecialMap or None
        Voxels that are not measurements.
    limits : ValueLimits or None
        That the bounded level stays within.
    lossless_only : bool
        There are more special bit patterns than a brick with a lossy level can list.
    exact_mask : (z, y, x) array of bool, optional
        Voxels to keep exactly.
    """
    below = base
    layers: list[EncodedLayer] = []
    bounded, bounding = None, guarantee
    if guarantee.budget is not None:
        guarantee = replace(guarantee, max_error=None, budget=None)  # if there is to be no level
        if (
            lossless_only
            or base is not None
            or not keeps_budget(values, bounding, special=special, limits=limits)
        ):
            bounding = guarantee
    if bounding.bound and not lossless_only:
        first = bounding if bounding.budget is None else replace(bounding, coders=BOUNDED_CODERS)
        bounded = encode_bounded(
            values, special=special, limits=limits, below=below, guarantee=first
        )
    if bounded is not None and bounding.budget is not None:
        guarantee = replace(bounding, coders=REFINING_CODERS)
    if bounded is not None:
        layers.append(bounded)
        below = Below.bounded(bounded)
    if guarantee.is_exact or below is None or (guarantee.bound and bounded is None):
        layers.append(encode_lossless(values, below=below, guarantee=guarantee))
    elif exact_mask is not None and exact_mask.any():
        layers.append(encode_lossless(values, below=below, mask=exact_mask, guarantee=guarantee))
    elif base is None and bounded is not None and bounded.outliers > MANY_OUTLIERS * values.size:
        exact = encode_lossless(values, below=None, guarantee=guarantee)
        layers = [exact] if exact.nbytes <= bounded.nbytes else layers
    return layers


class LevelBelow(Protocol):
    """Decodes a region of the level that a layer stands on."""

    def __call__(self, box: Box, spread: bool) -> tuple[Values, NDArray[np.float32] | None]:
        """Stored values, and one sigma per voxel if asked for."""
        ...


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


class _Part:
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
        self._slicewise = decodes_slicewise(index, number + index.base_levels)
        self.cover, self.segments = self.layer.covered(index.valid)
        self.common = _common(selection, self.cover)
        self.inner = _relative(self.common, self.cover)
        self.wanted = self.segments.covering(self.inner)

    def end(self, segment: int) -> int:
        """Slices of a segment that have to be decoded."""
        z = self.segments.box(segment)[0]
        stop: int = min(self.inner[0].stop, z.stop) if self._slicewise else z.stop
        return stop - int(z.start)

    def is_all(self, segment: int) -> bool:
        """Whether the region holds a segment."""
        box = self.segments.box(segment)
        return all(
            i.start <= b.start and b.stop <= i.stop for i, b in zip(self.inner, box, strict=True)
        )

    def keeps(self, segment: int) -> bool:
        """Whether a segment had better be kept for what may be asked next."""
        return self._slicewise and not self.is_all(segment)

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


def decode_layer(
    read: ReadRange,
    index: BrickIndex,
    number: int,
    *,
    selection: Box,
    spread: bool,
    below: LevelBelow,
    kept: KeptSegments | None = None,
) -> tuple[Values, NDArray[np.float32] | None]:
    """Decode a region of one layer, reading the segments that it touches.

    Parameters
    ----------
    read, index, selection, spread
        As in :func:`psc_volumetric.codec.decode_brick`.
    number : int
        Which layer of the brick.
    below : LevelBelow
        Called only where the layer refers to the level below.
    kept : KeptSegments, optional
        Decoders that go on; segments of which only a part is wanted are left there.

    Returns
    -------
    values : (z, y, x) array
    spread : (z, y, x) float32 or None
        One sigma per voxel in stored units.
    """
    part, what = _Part(index, number, selection), f"brick {index.position}"
    layer, common = part.layer, part.common
    decoders = _decoders(read, index, number, part, kept)
    shape = tuple(s.stop - s.start for s in selection)
    values = np.empty(shape, index.dtype)
    sigma = np.zeros(shape, np.float32) if spread else None
    if len(decoders) < len(part.wanted) or common != selection:  # some voxels keep the level below
        values[...], under_sigma = below(selection, spread)
        if sigma is not None and under_sigma is not None:
            sigma[...] = under_sigma
    begun = {n: one.done for n, one in decoders.items()}  # once: other threads go on with them
    done = {n: slices for n, slices in begun.items() if slices < part.end(n)}
    near = part.near(done) if layer.on_base and done else None
    under = None
    if near is not None:
        under = _reference(index, number, *below(_moved(near, part.cover), layer.refines))
    special = _special(read, index, what) if layer.grid is not None else None
    place = _relative(common, selection)
    overlaps = [
        one for one in part.segments.overlaps(part.inner, part.wanted) if one[0] in decoders
    ]

    def decoded_segment(overlap: tuple[int, Box, Box]) -> SegmentDecoder:
        segment = overlap[0]
        if segment in done:
            reference, seen = None, part.seen(segment, done[segment])
            if near is not None and under is not None:
                reference = np.ascontiguousarray(under[(..., *_relative(seen, near))])
            first = seen[0].start - part.segments.box(segment)[0].start
            decoders[segment].decode(part.end(segment), reference, first)
        return decoders[segment]

    with in_order(decoded_segment, overlaps) as found:
        for (segment, inside, part_of), decoder in zip(overlaps, found, strict=True):
            del decoders[segment]
            target = _moved(part_of, place)
            values[target] = decoder.values[inside]
            if sigma is not None:
                sigma[target] = 0 if layer.grid is None else uniform_spread(layer.grid.bound)
                sigma[target][decoder.exact[inside]] = 0
    if kept is not None:
        kept.trim()
    if special is not None:
        special.apply(values, selection)
        if sigma is not None:
            sigma[special.index[selection] > 0] = 0
    return values, sigma


def _decoders(
    read: ReadRange, index: BrickIndex, number: int, part: _Part, kept: KeptSegments | None
) -> dict[int, SegmentDecoder]:
    """A decoder for each segment that is not empty: one that goes on, or a new one."""
    layer, what, found = part.layer, f"brick {index.position}", {}
    if kept is not None:
        known = ((n, kept.find(number, n)) for n in part.wanted)
        found = {n: decoder for n, decoder in known if decoder is not None}
    lacking = [n for n in part.wanted if n not in found]
    for n, data in _read_segments(read, index, number, lacking, what).items():
        decoder = SegmentDecoder(
            data, layer, _extent(part.segments.box(n)), index.dtype,
            limits=index.limits, what=f"{what}: {layer.kind}[{n}]",
        )  # fmt: skip
        if kept is not None and part.keeps(n):
            decoder = kept.keep(number, n, decoder)
        found[n] = decoder
    return found


def layer_ranges(
    index: BrickIndex,
    number: int,
    selection: Box,
    below: Callable[[Box], Sequence[ByteRange]],
) -> list[ByteRange]:
    """What `decode_layer` reads for a region; ``below`` says it of the level below."""
    part = _Part(index, number, selection)
    coded = [n for n in part.wanted if part.layer.sizes[n]]
    sections = [index.segment(number, n) for n in coded]
    found = [(section.offset, section.nbytes) for section in sections]
    if len(coded) < len(part.wanted) or part.common != selection:
        found += below(selection)
    if part.layer.on_base and coded:
        found += below(_moved(part.near(dict.fromkeys(coded, 0)), part.cover))
    if part.layer.grid is not None:
        special = index.section("special")
        found.append((special.offset, special.nbytes))
    return found


def segments_of(index: BrickIndex, level: int, selection: Box) -> tuple[int, tuple[int, ...]]:
    """The layer of a level of exact values, and the segments of it that a region touches."""
    number = level - index.base_levels
    return number, _Part(index, number, selection).wanted


def _reference(
    index: BrickIndex, number: int, under: Values, spread: NDArray[np.float32] | None
) -> Values:
    """What a layer refers to: the level below, or what the source can be after it."""
    if spread is None:
        return under
    grid = index.layers[number - 1].grid
    assert grid is not None  # of a bounded layer: the header was checked
    return cells_around(under, spread == 0, grid.bound)


def _special(read: ReadRange, index: BrickIndex, what: str) -> SpecialMap | None:
    return SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )


def _read_segments(
    read: ReadRange, index: BrickIndex, layer: int, wanted: Sequence[int], what: str
) -> dict[int, bytes]:
    """Bytes of the segments, neighbours in one read; empty ones are left out."""
    sections = {n: index.segment(layer, n) for n in wanted if index.layers[layer].sizes[n]}
    pieces = {}
    for _, run in groupby(enumerate(sections), key=lambda item: item[1] - item[0]):
        numbers = [n for _, n in run]
        first, last = sections[numbers[0]], sections[numbers[-1]]
        data = read(first.offset, last.offset + last.nbytes - first.offset)
        for n in numbers:
            start = sections[n].offset - first.offset
            piece = data[start : start + sections[n].nbytes]
            check_section(piece, sections[n], what=what)
            pieces[n] = piece
    return pieces


def _common(a: Box, b: Box) -> Box:
    """What two boxes share; an empty one at the corner of ``b`` if nothing."""
    both = [slice(max(s.start, t.start), min(s.stop, t.stop)) for s, t in zip(a, b, strict=True)]
    if any(s.start >= s.stop for s in both):
        both = [slice(t.start, t.start) for t in b]
    z, y, x = both
    return z, y, x


def _moved(box: Box, frame: Box) -> Box:
    """The box with its corner counted from that of the frame around it."""
    z, y, x = (slice(b.start + f.start, b.stop + f.start) for b, f in zip(box, frame, strict=True))
    return z, y, x


def _relative(box: Box, frame: Box) -> Box:
    z, y, x = (slice(b.start - f.start, b.stop - f.start) for b, f in zip(box, frame, strict=True))
    return z, y, x


def _extent(box: Box) -> Triple:
    z, y, x = (s.stop - s.start for s in box)
    return z, y, x
