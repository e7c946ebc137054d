"""Exact layers of a brick: bounded error, and the stored bits. Part of the format (SPEC section 8).

A layer codes an array of the valid part segment by segment: grid indices (int32) for a bounded
layer, the stored values for a lossless one. Both ways know the level below only through a
function, so that nothing is decoded that a layer does not need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.layer_fields import GridFields, LayerFields, default_segment
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.registry import EXACT_CODERS
from psc_volumetric.coders.zstd import compress_lossless, decompress_lossless
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.layers.grid import INDEX, choose_grid, nearest_indices, restore, within
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.layers.interpolated import decode_interpolated_values, interpolate
from psc_volumetric.layers.slices import shapes_to_try
from psc_volumetric.threads import in_order, mapped
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.special import SpecialMap

__all__ = ["EncodedLayer", "decode_segment", "encode_bounded", "encode_lossless"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

SAMPLED = 2  # segments on which coders are compared
NETWORK_PENALTY = 1.05  # a reference that runs a network must save more than 5 % of the bytes
SPARSE_SEGMENT = (8, 32, 32)  # of a lossless layer for voxels that do not fill a box
REFERRING = ("zstd", "context")  # coders that can use the level below
OWN = ("context",)  # coders that no foreign library decides about


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
    outliers : int
        Voxels of a bounded layer that are kept exactly.
    """

    fields: LayerFields
    segments: list[bytes]
    decoded: Values
    needs_network: bool
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
    """

    values: Values
    needs_network: bool


def encode_bounded(
    values: Values,
    *,
    special: SpecialMap | None,
    limits: ValueLimits | None,
    below: Below | None,
    guarantee: Guarantee,
) -> EncodedLayer | None:
    """Code values within a maximum absolute error; None when only an exact layer can keep it.

    Every voxel is restored as a reader will restore it; those farther away than the bound
    are kept exactly. Indices of grid points compete with interpolation.
    """
    measured = values
    if special is not None:
        usual = values[special.index == 0]
        middle = np.sort(usual)[len(usual) // 2] if len(usual) else values.dtype.type(0)
        measured = special.fill(values, middle.item())
    grid = choose_grid(measured, guarantee.bound)
    if grid is None:
        return None
    layer = None
    if set(guarantee.allowed) != {"interpolation"}:
        layer = _indexed(values, measured, special, limits, grid, below, guarantee)
    if "interpolation" in guarantee.allowed and guarantee.reference != "base":
        by_context = layer is not None and layer.fields.coder == "context"
        fine = interpolate(measured, grid, rival=layer.nbytes if layer and by_context else None)
        if fine is not None:
            fields = LayerFields("bounded", False, "interpolation", fine.segments.tile, grid)
            decoded = saturate(fine.decoded, limits)
            other = _finished(values, special, fields, decoded, fine.pieces, False)
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
    shape = _shape(values)
    under = None if below is None else nearest_indices(below.values, grid)
    every = np.ones(shape, bool)
    segments, _, coded = _smallest(indices, under, every, guarantee, _penalty(below))
    fields = LayerFields("bounded", coded.on_base, coded.coder, segments.tile, grid)
    network = coded.on_base and below is not None and below.needs_network
    decoded = saturate(restore(indices, grid, values.dtype), limits)
    return _finished(values, special, fields, decoded, coded.pieces, network)


def _finished(
    values: Values,
    special: SpecialMap | None,
    fields: LayerFields,
    decoded: Values,
    pieces: list[bytes],
    network: bool,
) -> EncodedLayer:
    """The layer with the voxels that it must keep exactly, for ``decoded`` as it would be."""
    assert fields.grid is not None  # it is a bounded one
    if special is not None:
        special.apply(decoded, (slice(None),) * 3)
    far = ~within(decoded, values, fields.grid)
    if special is not None:
        far &= special.index == 0
    decoded[far] = values[far]
    segments = TileGrid(_shape(values), fields.segment)
    data = [
        pack_outliers(values[box], far[box]) + piece
        for box, piece in zip(map(segments.box, range(len(segments))), pieces, strict=True)
    ]
    return EncodedLayer(fields, data, decoded, network, int(far.sum()))


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
    segments, wanted, coded = _smallest(part, under, inside, guarantee, _penalty(below))
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
    inside: NDArray[np.bool_],
    guarantee: Guarantee,
    penalty: float,
) -> tuple[TileGrid, list[int], _Coded]:
    """Segments, those of them to code, and their code: in the usual shape or slice by slice."""
    found, usual = [], None if inside.all() else SPARSE_SEGMENT
    for shape in shapes_to_try(values, usual, is_alone=below is None):
        segments = TileGrid(_shape(values), default_segment(_shape(values), shape))
        wanted = [n for n in range(len(segments)) if inside[segments.box(n)].any()]
        coded = _Choice(values, below, segments, wanted).best(guarantee, penalty)
        found.append((segments, wanted, coded))
    return min(found, key=lambda one: sum(map(len, one[2].pieces)))


def _bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Smallest box around the voxels of a mask that has some."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return box[0], box[1], box[2]


def decode_segment(
    data: bytes,
    fields: LayerFields,
    shape: Triple,
    dtype: np.dtype[np.generic],
    *,
    reference: Values | None,
    limits: ValueLimits | None = None,
    what: str,
) -> tuple[Values, NDArray[np.bool_]]:
    """Stored values of one segment, and which of them have the bits of the source for certain.

    Parameters
    ----------
    data : bytes
    fields : LayerFields
    shape : (z, y, x)
        Extent of the segment.
    dtype : numpy.dtype
        Stored dtype.
    reference : array or None
        Stored values of the level below in the segment, if the layer refers to it.
    limits : ValueLimits or None
        Of the brick.
    what : str
        For messages.
    """
    if fields.grid is None:
        coder = EXACT_CODERS[fields.coder]
        return coder.decode(data, shape, dtype, reference, what=what), np.ones(shape, bool)
    places, exact, rest = unpack_outliers(data, shape, dtype, what=what)
    if fields.coder == "interpolation":
        values = decode_interpolated_values(rest, shape, fields.grid, dtype, what=what)
    else:
        under = None if reference is None else nearest_indices(reference, fields.grid)
        coder = EXACT_CODERS[fields.coder]
        indices = coder.decode(rest, shape, INDEX, under, what=what).astype(INDEX)
        values = restore(indices, fields.grid, dtype)
    saturate(values, limits)
    values.reshape(-1)[places] = exact
    kept = np.zeros(shape, bool)
    kept.reshape(-1)[places] = True
    return values, kept


def pack_outliers(values: Values, far: NDArray[np.bool_]) -> bytes:
    """Positions and bits of voxels that a segment keeps exactly (SPEC section 8.6)."""
    places = np.flatnonzero(far).astype("<u4")
    out = FieldWriter()
    out.varint(len(places))
    if len(places):
        gaps = np.diff(places, prepend=np.uint32(0)).astype("<u4")
        for part in (gaps, values[far]):
            packed = compress_lossless(part)
            out.varint(len(packed))
            out.raw(packed)
    return out.getvalue()


def unpack_outliers(
    data: bytes, shape: Triple, dtype: np.dtype[np.generic], *, what: str
) -> tuple[NDArray[np.int64], Values, bytes]:
    """Positions in the flattened segment, their values, and the bytes that follow."""
    fields = FieldReader(data, what=what)
    voxels = int(np.prod(shape))
    count = fields.varint(limit=voxels, name="exact voxels")
    places, exact = np.zeros(0, np.int64), np.zeros(0, dtype)
    if count:
        parts = []
        for kind in (np.dtype("<u4"), dtype):
            size = fields.varint(limit=len(data), name="length of exact voxels")
            parts.append(decompress_lossless(fields.raw(size), (count,), kind, what=what))
        places, exact = np.cumsum(parts[0].astype(np.int64)), parts[1]
        if (np.diff(places) < 1).any() or places[-1] >= voxels:
            raise FormatError(
                f"{what}: places of exact voxels do not rise or leave the segment",
                kind="bad-payload",
            )
    return places, exact, fields.raw(len(data) - fields.offset)


@dataclass(frozen=True)
class _Coded:
    coder: str
    on_base: bool
    pieces: list[bytes]


@dataclass(frozen=True)
class _Choice:
    """Segments to be coded, and the search for the coder that codes them in the fewest bytes."""

    values: Values
    below: Values | None
    segments: TileGrid
    wanted: list[int]

    def best(self, guarantee: Guarantee, penalty: float) -> _Coded:
        """Compare on a sample of segments, then code all with the best that can."""
        count = len(self.wanted)
        chosen = sorted({count // 3, 2 * count // 3}) if count > SAMPLED else range(count)
        sample = [self.wanted[i] for i in chosen]
        candidates = list(self._candidates(guarantee))
        scored = []
        tried = mapped(lambda candidate: self._encode(*candidate, sample), candidates)
        for order, ((coder, on_base), pieces) in enumerate(zip(candidates, tried, strict=True)):
            if pieces is not None:
                size = sum(map(len, pieces)) * (penalty if on_base else 1.0)
                scored.append((size, order, coder, on_base, pieces))
        for _, _, coder, on_base, pieces in sorted(scored, key=lambda item: item[:2]):
            known = dict(zip(sample, pieces, strict=True))
            rest = [number for number in self.wanted if number not in known]
            others = self._encode(coder, on_base, rest)
            if others is None:
                continue
            known |= zip(rest, others, strict=True)
            whole = [known[number] for number in self.wanted]
            trusted = guarantee.is_proven_later and coder in OWN
            if trusted or self._verified(coder, on_base, whole):
                return _Coded(coder, on_base, whole)
        raise ParameterError(
            f"no coder of {guarantee.allowed} can code {self.values.dtype} values of this brick",
            kind="no-coder",
            hint="allow 'zstd', which takes everything",
        )

    def _candidates(self, guarantee: Guarantee) -> Iterator[tuple[str, bool]]:
        possible, reference = self.below is not None, guarantee.reference
        for coder in guarantee.allowed:
            if coder in EXACT_CODERS:
                if reference != "base" or not possible or coder not in REFERRING:
                    yield coder, False
                if reference != "none" and possible and coder in REFERRING:
                    yield coder, True

    def _encode(self, coder: str, on_base: bool, numbers: Sequence[int]) -> list[bytes] | None:
        """Pieces of the segments ``numbers``; None if the coder cannot take one of them."""
        boxes = [self.segments.box(n) for n in numbers]
        if not all(EXACT_CODERS[coder].suits(self.values[box]) for box in boxes):
            return None

        def encode(box: Box) -> bytes:
            return EXACT_CODERS[coder].encode(
                self._cut(self.values, box), self._under(on_base, box)
            )

        try:
            return mapped(encode, boxes)
        except ParameterError:  # a library refuses an array that others take
            return None

    def _verified(self, coder: str, on_base: bool, pieces: list[bytes]) -> bool:
        """Decode everything again with the decoder that ships, and compare every bit."""

        def is_same(numbered: tuple[int, bytes]) -> bool:
            box = self.segments.box(numbered[0])
            source = self._cut(self.values, box)
            try:
                decoded = EXACT_CODERS[coder].decode(
                    numbered[1], _shape(source), source.dtype, self._under(on_base, box), what=coder
                )
            except FormatError:
                return False
            return decoded.tobytes() == source.tobytes()

        with in_order(is_same, zip(self.wanted, pieces, strict=True)) as same:
            return all(same)

    def _under(self, on_base: bool, box: Box) -> Values | None:
        return self._cut(self.below, box) if on_base and self.below is not None else None

    @staticmethod
    def _cut(values: Values, box: Box) -> Values:
        return np.ascontiguousarray(values[box])


def _penalty(below: Below | None) -> float:
    return NETWORK_PENALTY if below is not None and below.needs_network else 1.0


def _shape(values: Values) -> Triple:
    z, y, x = values.shape
    return z, y, x
