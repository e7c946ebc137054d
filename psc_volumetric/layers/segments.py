"""Exact layers of a brick: bounded error, and the stored bits. Part of the format (SPEC section 8).

A layer codes an array of the valid part segment by segment: grid indices (int32) for a bounded
layer, the stored values for a lossless one. Both ways know the level below only through a
function, so that nothing is decoded that a layer does not need.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.layer_fields import GridFields, LayerFields, default_segment
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.coders.exact_places import write_places
from psc_volumetric.layers.coder_choice import Coded, CoderChoice, extent_of
from psc_volumetric.layers.grid import (
    cells_around,
    choose_grid,
    nearest_indices,
    restore,
    uniform_spread,
    within,
)
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.layers.interpolated import interpolate
from psc_volumetric.layers.slices import middle_rows, shapes_to_try
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.special import SpecialMap, special_mask

__all__ = ["EncodedLayer", "encode_bounded", "encode_lossless"]

Values = NDArray[np.generic]
Mask = NDArray[np.bool_]
Triple = tuple[int, int, int]

NETWORK_PENALTY = 1.05  # a reference that runs a network must save more than 5 % of the bytes
WORTH_A_SAMPLE, SAMPLE = 1 << 20, 1 << 18  # voxels of which, and on which shapes are compared
SPARSE_SEGMENT = (8, 32, 32)  # of a lossless layer for voxels that do not fill a box


@dataclass(frozen=True)
class EncodedLayer:
    """A layer with its segments, and the level it gives.

    Attributes
    ----------
    fields : LayerFields
        Without sizes and checks, which :func:`~psc_volumetric.bitstream.index.write_brick` adds.
    segments : list of bytes
    decoded : (z, y, x) array
        Stored values a reader gets at this level.
    needs_network : bool
        Whether a reader must run the network of the base for it.
    exact : (z, y, x) array of bool or None
        Voxels that a bounded layer keeps exactly.
    outliers : int
        How many of them are measurements.
    """

    fields: LayerFields
    segments: list[bytes]
    decoded: Values
    needs_network: bool
    exact: Mask | None = None
    outliers: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return sum(len(data) for data in self.segments)


@dataclass(frozen=True)
class Below:
    """The level a layer stands on.

    Attributes
    ----------
    values : (z, y, x) array
        Stored values of that level.
    needs_network : bool
        Whether a reader must run a network to have them.
    cells : (2, z, y, x) array or None
        The least and the largest that each value of the source can be, where the level says so.
    """

    values: Values
    needs_network: bool
    cells: Values | None = None

    @classmethod
    def bounded(cls, layer: EncodedLayer) -> Below:
        """A bounded layer as what the next stands on."""
        assert layer.fields.grid is not None and layer.exact is not None
        exact = layer.exact | (uniform_spread(layer.fields.grid.bound) == 0)
        cells = cells_around(layer.decoded, exact, layer.fields.grid.bound)
        return cls(layer.decoded, layer.needs_network, cells)


def encode_bounded(
    values: Values,
    *,
    special: SpecialMap | None,
    limits: ValueLimits | None,
    below: Below | None,
    guarantee: Guarantee,
) -> EncodedLayer | None:
    """Code values within a maximum absolute error; None when only an exact layer can keep it.

    Every voxel is restored as a reader will restore it; those farther away than the bound, and
    measurements that would be taken for something else, are kept exactly. Indices of grid points
    compete with interpolation.
    """
    measured = values
    if special is not None:
        usual = values[special.index == 0]
        middle = np.sort(usual)[len(usual) // 2] if len(usual) else values.dtype.type(0)
        measured = special.fill(values, middle.item())
    grid = choose_grid(measured, guarantee.bound, guarantee.reserved)
    if grid is None:
        return None
    layer = None
    if set(guarantee.allowed) != {"interpolation"}:
        layer = _indexed(values, measured, special, limits, grid, below, guarantee)
    if "interpolation" in guarantee.allowed and guarantee.reference != "base":
        by_context = layer is not None and layer.fields.coder in ("context", "neural")
        fine = interpolate(measured, grid, rival=layer.nbytes if layer and by_context else None)
        if fine is not None:
            fields = LayerFields("bounded", False, "interpolation", fine.segments.tile, grid)
            decoded = saturate(fine.decoded, limits)
            other = _finished(values, special, fields, decoded, fine.pieces, guarantee.reserved)
            if layer is None or other.nbytes < layer.nbytes:
                return other
    return layer


def _indexed(
    values: Values,
    measured: Values,
    special: SpecialMap | None,
    limits: ValueLimits | None,
    grid: GridFields,
    below: Below | None,
    guarantee: Guarantee,
) -> EncodedLayer:
    """Code the indices of the nearest grid points."""
    indices = nearest_indices(measured, grid)
    shape = extent_of(values)
    under = None if below is None else nearest_indices(below.values, grid)
    every = np.ones(shape, bool)
    segments, _, coded = _smallest(indices, under, None, every, guarantee, _penalty(below))
    fields = LayerFields("bounded", coded.on_base, coded.coder, segments.tile, grid)
    network = coded.on_base and below is not None and below.needs_network
    decoded = saturate(restore(indices, grid, values.dtype), limits)
    layer = _finished(values, special, fields, decoded, coded.pieces, guarantee.reserved)
    return replace(layer, needs_network=network)


def _finished(
    values: Values,
    special: SpecialMap | None,
    fields: LayerFields,
    decoded: Values,
    pieces: list[bytes],
    reserved: tuple[float, ...],
) -> EncodedLayer:
    """The layer with the voxels that it must keep exactly, for ``decoded`` as it would be."""
    assert fields.grid is not None  # it is a bounded one
    if special is not None:
        special.apply(decoded, (slice(None),) * 3)
    far = ~within(decoded, values, fields.grid) | special_mask(decoded, reserved)
    if special is not None:
        far &= special.index == 0
    decoded[far] = values[far]
    segments = TileGrid(extent_of(values), fields.segment)
    data = [
        _exactly(values[box], far[box]) + piece
        for box, piece in zip(map(segments.box, range(len(segments))), pieces, strict=True)
    ]
    kept = far if special is None else far | (special.index > 0)
    return EncodedLayer(fields, data, decoded, False, kept, int(far.sum()))


def encode_lossless(
    values: Values,
    *,
    below: Below | None,
    guarantee: Guarantee,
    mask: NDArray[np.bool_] | None = None,
) -> EncodedLayer:
    """Code the stored bits; with a mask, of the segments that it touches inside its bounding box.

    Raises
    ------
    ParameterError
        None of the coders allowed can code the values.
    """
    if mask is None or below is None:
        mask = np.ones(values.shape, bool)
    box = _bounding_box(mask)
    inside, part = mask[box], values[box]
    under = None if below is None else below.values[box]
    cells = None if below is None or below.cells is None else below.cells[(..., *box)]
    segments, wanted, coded = _smallest(part, under, cells, inside, guarantee, _penalty(below))
    data = [b""] * len(segments)
    decoded = values.copy() if below is None else below.values.copy()
    for n, piece in zip(wanted, coded.pieces, strict=True):
        data[n] = piece
        decoded[box][segments.box(n)] = part[segments.box(n)]
    cover = None if part.shape == values.shape else box
    fields = LayerFields("lossless", coded.on_base, coded.coder, segments.tile, cover=cover)
    needs = coded.on_base or cover is not None or len(wanted) < len(segments)
    return EncodedLayer(fields, data, decoded, needs and below is not None and below.needs_network)


def _smallest(
    values: Values,
    below: Values | None,
    cells: Values | None,
    inside: Mask,
    guarantee: Guarantee,
    penalty: float,
) -> tuple[TileGrid, list[int], Coded]:
    """Segments, those of them to code, and their code: in the usual shape or slice by slice."""
    usual = None if inside.all() else SPARSE_SEGMENT
    shapes = shapes_to_try(values, usual, is_alone=below is None)

    def coded(part: Box, shape: Triple | None) -> tuple[TileGrid, list[int], Coded]:
        whole, places = values[part], inside[part]
        segments = TileGrid(extent_of(whole), default_segment(extent_of(whole), shape))
        wanted = [n for n in range(len(segments)) if places[segments.box(n)].any()]
        under = None if below is None else below[part]
        choice = CoderChoice(whole, under, segments, wanted, cells, guarantee.is_light)
        return segments, wanted, choice.best(guarantee, penalty)

    every = slice(0, values.shape[0]), slice(0, values.shape[1]), slice(0, values.shape[2])
    if len(shapes) > 1 and values.size >= WORTH_A_SAMPLE and inside.all() and cells is None:
        part = middle_rows(extent_of(values), SAMPLE)
        sizes = [sum(map(len, coded(part, shape)[2].pieces)) for shape in shapes]
        shapes = [shapes[sizes.index(min(sizes))]]
    found = [coded(every, shape) for shape in shapes]
    return min(found, key=lambda one: sum(map(len, one[2].pieces)))


def _bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Smallest box around the voxels of a mask that has some."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return box[0], box[1], box[2]


def _exactly(values: Values, far: Mask) -> bytes:
    """Positions and bits of voxels that a segment keeps exactly (SPEC section 8.6)."""
    out = FieldWriter()
    write_places(out, values, far)
    return out.getvalue()


def _penalty(below: Below | None) -> float:
    return NETWORK_PENALTY if below is not None and below.needs_network else 1.0
