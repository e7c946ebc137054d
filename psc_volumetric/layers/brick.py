"""Layers over the base of a brick: which are coded, and how a level is read. Part of the format.

SPEC section 8. :mod:`psc_volumetric.codec` is the public face,
:mod:`psc_volumetric.layers.segments` codes segments. The level below the first layer is a function
that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Mask, Triple, Values
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import (
    ByteRange,
    ReadRange,
    check_section,
    read_section,
)
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.layers.grid import cells_around, uniform_spread
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.layers.progressive import BOUNDED_CODERS, REFINING_CODERS, keeps_budget
from psc_volumetric.layers.segments import (
    Below,
    EncodedLayer,
    decode_segment,
    encode_bounded,
    encode_lossless,
)
from psc_volumetric.threads import in_order
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.special import SpecialMap

__all__ = ["LevelBelow", "decode_layer", "encode_layers", "layer_ranges"]

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


def decode_layer(
    read: ReadRange,
    index: BrickIndex,
    number: int,
    *,
    selection: Box,
    spread: bool,
    below: LevelBelow,
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

    Returns
    -------
    values : (z, y, x) array
    spread : (z, y, x) float32 or None
        One sigma per voxel in stored units.
    """
    layer, what = index.layers[number], f"brick {index.position}"
    cover, segments = layer.covered(index.valid)
    common = _common(selection, cover)
    inner = _relative(common, cover)
    wanted = segments.covering(inner)
    pieces = _read_segments(read, index, number, wanted, what)
    shape = tuple(s.stop - s.start for s in selection)
    values = np.empty(shape, index.dtype)
    sigma = np.zeros(shape, np.float32) if spread else None
    if len(pieces) < len(wanted) or common != selection:  # some voxels keep the level below
        values[...], under_sigma = below(selection, spread)
        if sigma is not None and under_sigma is not None:
            sigma[...] = under_sigma
    near = _around(segments, wanted) if layer.on_base and wanted else None
    under_all = None
    if near is not None:
        under_all = _reference(index, number, *below(_moved(near, cover), layer.refines))
    special = _special(read, index, what) if layer.grid is not None else None
    place = _relative(common, selection)
    overlaps = [found for found in segments.overlaps(inner, wanted) if found[0] in pieces]

    def decoded_segment(overlap: tuple[int, Box, Box]) -> tuple[Values, Mask]:
        box = segments.box(overlap[0])
        reference = None
        if near is not None and under_all is not None:
            reference = np.ascontiguousarray(under_all[(..., *_relative(box, near))])
        return decode_segment(
            pieces[overlap[0]], layer, _extent(box), index.dtype, reference=reference,
            limits=index.limits, what=f"{what}: {layer.kind}[{overlap[0]}]",
        )  # fmt: skip

    with in_order(decoded_segment, overlaps) as found:
        for (_, inside, part), (decoded, exact) in zip(overlaps, found, strict=True):
            target = _moved(part, place)
            values[target] = decoded[inside]
            if sigma is not None:
                sigma[target] = 0 if layer.grid is None else uniform_spread(layer.grid.bound)
                sigma[target][exact[inside]] = 0
    if special is not None:
        special.apply(values, selection)
        if sigma is not None:
            sigma[special.index[selection] > 0] = 0
    return values, sigma


def layer_ranges(
    index: BrickIndex,
    number: int,
    selection: Box,
    below: Callable[[Box], Sequence[ByteRange]],
) -> list[ByteRange]:
    """What `decode_layer` reads for a region; ``below`` says it of the level below."""
    layer = index.layers[number]
    cover, segments = layer.covered(index.valid)
    common = _common(selection, cover)
    wanted = segments.covering(_relative(common, cover))
    coded = [index.segment(number, n) for n in wanted if layer.sizes[n]]
    found = [(section.offset, section.nbytes) for section in coded]
    if len(coded) < len(wanted) or common != selection:
        found += below(selection)
    if layer.on_base and wanted:
        found += below(_moved(_around(segments, wanted), cover))
    if layer.grid is not None:
        special = index.section("special")
        found.append((special.offset, special.nbytes))
    return found


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


def _around(grid: TileGrid, numbers: Sequence[int]) -> Box:
    """Smallest box that holds these tiles."""
    first, last = grid.box(numbers[0]), grid.box(numbers[-1])
    z, y, x = (slice(a.start, b.stop) for a, b in zip(first, last, strict=True))
    return z, y, x


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
