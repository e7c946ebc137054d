"""Layers over the base of a brick: which are coded, and how a level is read. Part of the format.

:mod:`psc_volumetric.codec` is the public face; :mod:`psc_volumetric.coding.layers` codes segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.brick import BrickIndex, ReadRange, read_index, write_brick
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.codec import (
    DecodedBrick,
    EncodedBase,
    EncodedBrick,
    check_section,
    read_section,
)
from psc_volumetric.coding.layers import (
    Below,
    EncodedLayer,
    decode_segment,
    encode_bounded,
    encode_lossless,
)
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.guarantee import Guarantee
from psc_volumetric.records import tile_records
from psc_volumetric.tiling import Box, TileGrid

if TYPE_CHECKING:
    from psc_volumetric.prior import PriorSource

__all__ = ["decode_level", "encode_layers", "join"]

Values = NDArray[np.generic]
Mask = NDArray[np.bool_]

MANY_OUTLIERS = 1e-3  # share of voxels; an exact layer may then be smaller than a bounded one


def encode_layers(
    values: Values,
    base: EncodedBase | None,
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
    base : EncodedBase or None
        None means method ``none``, which has at least one layer.
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
    below = None if base is None else Below(base.levels[-1], base.needs_network)
    layers: list[EncodedLayer] = []
    bounded = None
    if guarantee.bound and not lossless_only:
        bounded = encode_bounded(
            values, special=special, limits=limits, below=below, guarantee=guarantee
        )
    if bounded is not None:
        layers.append(bounded)
        below = Below(bounded.decoded, bounded.needs_network)
    if guarantee.is_exact or below is None or (guarantee.bound and bounded is None):
        layers.append(encode_lossless(values, below=below, guarantee=guarantee))
    elif exact_mask is not None and exact_mask.any():
        layers.append(encode_lossless(values, below=below, mask=exact_mask, guarantee=guarantee))
    elif base is None and bounded is not None and bounded.outliers > MANY_OUTLIERS * values.size:
        exact = encode_lossless(values, below=None, guarantee=guarantee)
        layers = [exact] if exact.nbytes <= bounded.nbytes else layers
    return layers


def join(
    header: BrickHeader,
    values: Values,
    base: EncodedBase | None,
    layers: Sequence[EncodedLayer],
    *,
    special: SpecialMap | None,
    limits: ValueLimits | None,
    tile: tuple[int, int, int],
) -> EncodedBrick:
    """Bytes and records of a brick from base and layers; ``tile`` is that of the records."""
    lossy = base is not None or any(layer.fields.kind == "bounded" for layer in layers)
    sections = [("special", b"" if special is None else special.pack())] if lossy else []
    sections += [] if base is None else base.sections
    data = write_brick(
        replace(header, method="none" if base is None else base.method),
        sections,
        psc=None if base is None else base.psc,
        classical=None if base is None else base.classical,
        layers=[(layer.fields, layer.segments) for layer in layers],
        limits=limits,
    )
    index = read_index(lambda start, length: data[start : start + length], len(data))
    grid = TileGrid(header.valid, tile)
    levels = [*(() if base is None else base.levels), *(layer.decoded for layer in layers)]
    nbytes: list[tuple[int, ...]] = []
    for number in range(len(grid)):
        part = math.prod(s.stop - s.start for s in grid.box(number))
        share = [layer.nbytes * part // values.size for layer in layers]
        nbytes.append((*(() if base is None else base.tile_nbytes[number]), *share))
    measured = special.index == 0 if lossy and special is not None else None
    records = tile_records(values, levels, grid, nbytes, measured)
    if base is None:
        return EncodedBrick(data, index.coding, records, last=levels[-1])
    return EncodedBrick(
        data, index.coding, records, base.choice, base.coverage, levels[-1], base.compared
    )


def decode_level(
    read: ReadRange,
    index: BrickIndex,
    *,
    selection: Box,
    level: int,
    prior: PriorSource | None,
    spread: bool,
    device: str,
) -> DecodedBrick:
    """Decode a region at a level that the brick has; see :func:`psc_volumetric.codec.decode_brick`.

    Levels below are decoded only where a layer refers to them.
    """
    if level < index.base_levels and index.method == "av1":
        from psc_volumetric.av1_brick import decode_av1

        return decode_av1(read, index, selection=selection, spread=spread)
    if level < index.base_levels and index.method == "wavelet":
        from psc_volumetric.wavelet_brick import decode_wavelet

        return decode_wavelet(read, index, selection=selection, spread=spread)
    if level < index.base_levels:
        from psc_volumetric.psc_brick import decode_psc

        return decode_psc(
            read, index, selection=selection, level=level, prior=prior, spread=spread, device=device
        )

    def below(box: Box, with_spread: bool) -> DecodedBrick:
        return decode_level(
            read, index, selection=box, level=level - 1, prior=prior, spread=with_spread,
            device=device,
        )  # fmt: skip

    return _decode_layer(read, index, level - index.base_levels, selection, spread, below)


class _Below(Protocol):
    def __call__(self, box: Box, with_spread: bool) -> DecodedBrick: ...


def _decode_layer(
    read: ReadRange,
    index: BrickIndex,
    number: int,
    selection: Box,
    spread: bool,
    below: _Below,
) -> DecodedBrick:
    """Read the segments of one layer that a region touches, and put them together."""
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
        under = below(selection, spread)
        values[...] = under.values
        if sigma is not None and under.spread is not None:
            sigma[...] = under.spread
    near = _around(segments, wanted) if layer.on_base and wanted else None
    under_all = None if near is None else below(_moved(near, cover), False).values
    special = _special(read, index, what) if layer.grid is not None else None
    place = _relative(common, selection)
    for segment, inside, part in segments.overlaps(inner, wanted):
        if segment not in pieces:
            continue
        box, target = segments.box(segment), _moved(part, place)
        reference = None
        if near is not None and under_all is not None:
            reference = np.ascontiguousarray(under_all[_relative(box, near)])
        decoded, exact = decode_segment(
            pieces[segment], layer, _extent(box), index.dtype, reference=reference,
            limits=index.limits, what=f"{what}: {layer.kind}[{segment}]",
        )  # fmt: skip
        values[target] = decoded[inside]
        if sigma is not None:
            sigma[target] = 0 if layer.grid is None else _uniform(layer.grid.bound)
            sigma[target][exact[inside]] = 0
    if special is not None:
        special.apply(values, selection)
        if sigma is not None:
            sigma[special.index[selection] > 0] = 0
    return DecodedBrick(values, sigma)


def _uniform(bound: float) -> np.float32:
    """Standard deviation of an error anywhere within the bound."""
    return np.float32(bound) / np.float32(math.sqrt(3))


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


def _extent(box: Box) -> tuple[int, int, int]:
    z, y, x = (s.stop - s.start for s in box)
    return z, y, x
