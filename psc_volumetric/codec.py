"""Bricks of voxels to bytes and back: the only place where methods and layers meet.

Part of the format (SPEC section 3.6). A brick is a base method (``constant``, ``none``, or one of
:mod:`psc_volumetric.methods`) under up to two exact layers (``bounded``, ``lossless``). Decoding
reads only the byte ranges that a region and a level need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from psc_volumetric.arrays import Mask, Triple, Values
from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import BrickIndex, write_brick
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.layers.brick import encode_layers
from psc_volumetric.layers.guarantee import LOSSY, Guarantee
from psc_volumetric.layers.reading import KeptSegments, Known, Region, read_level
from psc_volumetric.layers.segments import Below, EncodedLayer
from psc_volumetric.methods.apart import encode_base_apart
from psc_volumetric.methods.choice import AUTO
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import DecodedBrick, EncodedBase, EncodeJob, Resources
from psc_volumetric.methods.registry import REGISTRY, read_index
from psc_volumetric.records import TileRecord, tile_records
from psc_volumetric.tiling import Box, TileGrid, default_brick_shape
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.values.special import SpecialMap

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior, PriorSource

__all__ = [
    "BrickOptions",
    "CodecParameters",
    "DecodedBrick",
    "EncodedBrick",
    "Guarantee",
    "IntensityMapping",
    "TileRecord",
    "base_names",
    "decode_brick",
    "decode_with",
    "default_brick_shape",
    "encode_brick",
    "read_index",
]

NO_BASE = "none"
RECORDED = 512  # bytes of a brick for each record; with fewer, and without tiles, it has one
Denoisers = Callable[["Prior", str], Any]


def base_names() -> tuple[str, ...]:
    """What `encode_brick` takes as ``base``: ``"auto"``, the methods there are, ``"none"``."""
    return (AUTO, *REGISTRY.names, NO_BASE)


@dataclass(frozen=True)
class BrickOptions:
    """What coding a brick may take into account beyond geometry, quality and prior.

    Attributes
    ----------
    base : str
        Name of a method (``psc`` needs a prior), ``"auto"`` (the smallest at the error of ``psc``;
        without a prior the best of the others for a lossy brick and nothing for another), or
        ``"none"``.
    special_values : tuple of float
        Stored values that are not measurements; kept exactly. NaN and infinities always are.
    limits : (least, largest), optional
        Stored values that the source's format can hold, where they are narrower than the dtype;
        decoded values of no level leave them.
    exact_mask : (vz, vy, vx) array of bool, optional
        Voxels to keep exactly although the rest is not.
    tile_shape : (z, y, x), optional
        Tiles of the records of a brick without tiles of its own; default one record.
    seed : int
        Key of the noise, 0 <= seed < 2**32.
    is_thorough : bool
        Whether fewer bytes at the same error are worth twice the time (``wavelet``).
    is_draft : bool
        Whether bytes and errors need only be told roughly: methods that can be quick are.
    device, denoisers
        See :class:`psc_volumetric.methods.protocol.Resources`.
    """

    base: str = AUTO
    special_values: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None
    exact_mask: Mask | None = field(default=None, repr=False, compare=False)
    tile_shape: Triple | None = None
    seed: int = 0
    is_thorough: bool = False
    is_draft: bool = False
    device: str = "auto"
    denoisers: Denoisers | None = None


DEFAULTS = BrickOptions()


@dataclass(frozen=True)
class EncodedBrick:
    """Bytes of a brick and what is known about them.

    Attributes
    ----------
    data : bytes
    index : BrickIndex
        As a reader finds it.
    records : tuple of TileRecord
    choice : str
        Why this base, where there was a choice.
    coverage : tuple of (float, float, float)
        Per level of the base, the share of measured voxels within 1, 2 and 3 sigma; empty where
        nothing was measured.
    last : (z, y, x) array
        Stored values that a reader gets at the last level.
    compared : mapping
        Method -> bytes at the same error, of every base that was coded near it.
    """

    data: bytes
    index: BrickIndex = field(repr=False)
    records: tuple[TileRecord, ...]
    choice: str = ""
    coverage: tuple[tuple[float, float, float], ...] = ()
    last: Values | None = field(default=None, repr=False, compare=False)
    compared: Mapping[str, int] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The base with its layers and their coders: ``"none+lossless:context"``."""
        return self.index.coding


def encode_brick(
    values: Values,
    *,
    position: tuple[int, ...],
    shape: tuple[int, int, int],
    mapping: IntensityMapping | None,
    parameters: CodecParameters,
    prior: Prior | None,
    guarantee: Guarantee = LOSSY,
    options: BrickOptions = DEFAULTS,
) -> EncodedBrick:
    """Encode the valid part of one brick.

    Parameters
    ----------
    values : (vz, vy, vx) array
        Stored values, any supported dtype, any byte order.
    position : tuple of int
        Chunk grid index of the brick in its array, all axes; written into the header.
    shape : (z, y, x)
        Nominal brick shape, whole tiles.
    mapping : IntensityMapping or None
        Stored values to normalised units; None forces base ``none``.
    parameters : CodecParameters
        Setting, effort and quantiser step.
    prior : Prior or None
        The diffusion prior; None forces base ``none``.
    guarantee : Guarantee
        Error promised for every voxel. A brick that its base method cannot code (label maps,
        booleans, too many special values) is lossless whatever is asked for.
    options : BrickOptions

    Raises
    ------
    ParameterError
        Unsupported dtype, or extents that do not fit.
    """
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    valid = _check_arguments(values, position, shape, options)
    header = BrickHeader("constant", values.dtype, tuple(position), shape, valid)
    first = values.reshape(-1)[:1]
    if np.array_equal(_bits(values), np.broadcast_to(_bits(first), values.shape)):
        data, index = write_brick(header, [], methods=REGISTRY, constant=first.tobytes())
        records = tile_records(values, [values], TileGrid(valid, valid), [(len(data),)], None)
        return EncodedBrick(data, index, records, last=values)
    fits = SpecialMap.fits(values, options.special_values)
    special = SpecialMap.find(values, options.special_values) if fits else None
    ends = ValueLimits.of(options.limits, values, None if special is None else special.index == 0)
    coded, tile = None, options.tile_shape or valid
    if fits and mapping is not None and options.base != NO_BASE:
        job = EncodeJob(
            values, header, special, ends, mapping, parameters, prior, tile, options.seed,
            options.is_thorough and not options.is_draft, options.is_draft,
        )  # fmt: skip
        resources = Resources(device=options.device, denoisers=options.denoisers)
        choice, ends = encode_base_apart(
            job, resources, options.special_values, base=options.base,
            lossy=guarantee.mode == "lossy",
        )  # fmt: skip
        coded = choice.base
        if choice.bound is not None:
            guarantee = replace(guarantee, mode="bounded", max_error=choice.bound)
    guarantee = replace(guarantee, reserved=options.special_values)
    below = None if coded is None else Below(coded.levels[-1], coded.needs_network)
    layers = encode_layers(
        values, below, guarantee, special=special, limits=ends, lossless_only=not fits,
        exact_mask=options.exact_mask,
    )  # fmt: skip
    return _join(header, values, coded, layers, special, ends, tile)


def _join(
    header: BrickHeader,
    values: Values,
    base: EncodedBase | None,
    layers: Sequence[EncodedLayer],
    special: SpecialMap | None,
    limits: ValueLimits | None,
    tile: Triple,
) -> EncodedBrick:
    """Bytes and records of a brick; ``tile`` is that of the records of a base without tiles.

    A record costs some ten bytes of an archive: a small brick without tiles has only one.
    """
    lossy = base is not None or any(layer.fields.kind == "bounded" for layer in layers)
    sections = [("special", b"" if special is None else special.pack())] if lossy else []
    data, index = write_brick(
        replace(header, method=NO_BASE if base is None else base.method),
        [*sections, *(() if base is None else base.sections)],
        methods=REGISTRY,
        fields=None if base is None else base.fields,
        layers=[(layer.fields, layer.segments) for layer in layers],
        limits=limits,
    )
    of_base = [()] * len(TileGrid(header.valid, tile)) if base is None else list(base.tile_nbytes)
    if base is not None and base.fields.tile is not None:
        tile = base.fields.tile
    elif len(data) < RECORDED * len(of_base):
        tile, of_base = header.valid, [tuple(map(sum, zip(*of_base, strict=True)))]
    grid = TileGrid(header.valid, tile)
    levels = [*(() if base is None else base.levels), *(layer.decoded for layer in layers)]
    nbytes: list[tuple[int, ...]] = []
    for number in range(len(grid)):
        part = math.prod(s.stop - s.start for s in grid.box(number))
        share = [layer.nbytes * part // values.size for layer in layers]
        nbytes.append((*of_base[number], *share))
    measured = special.index == 0 if lossy and special is not None else None
    records = tile_records(values, levels, grid, nbytes, measured)
    if base is None:
        return EncodedBrick(data, index, records, last=levels[-1])
    return EncodedBrick(data, index, records, base.choice, base.coverage, levels[-1], base.compared)


def decode_brick(
    read: ReadRange,
    *,
    selection: Box,
    level: int | None = None,
    prior: PriorSource | None = None,
    spread: bool = False,
    device: str = "auto",
    index: BrickIndex | None = None,
    denoisers: Denoisers | None = None,
) -> DecodedBrick:
    """Decode a region of a brick at a level, reading only what it needs.

    Parameters
    ----------
    read : callable
        ``read(offset, length) -> bytes``.
    selection : (slice, slice, slice)
        Half-open box inside the brick's valid part, step 1.
    level : int, optional
        Quality level, 0 the coarsest; None or past the last = everything.
    prior : callable, optional
        Digest -> :class:`~psc_volumetric.prior.Prior`; needed for levels of a ``psc`` base, and
        for layers that refer to one.
    spread : bool
        Also return one sigma per voxel: 0 where values are exact, bound / sqrt(3) at a bounded
        level.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    index : BrickIndex, optional
        Already parsed header.
    denoisers : callable, optional
        See :class:`psc_volumetric.methods.protocol.Resources`.

    Returns
    -------
    DecodedBrick

    Raises
    ------
    FormatError
        Damaged or impossible bytes.
    PriorMismatchError
        The prior is missing or another one.
    ParameterError
        Selection outside the valid part, or a negative level.
    """
    resources = Resources(prior, device, denoisers)
    return decode_with(
        read, resources, selection=selection, level=level, spread=spread, index=index
    )


def decode_with(
    read: ReadRange,
    resources: Resources,
    *,
    selection: Box,
    level: int | None = None,
    spread: bool = False,
    index: BrickIndex | None = None,
    known: Known | None = None,
    kept: KeptSegments | None = None,
) -> DecodedBrick:
    """Decode a region of a brick as :func:`decode_brick` does, and what levels share only once.

    ``known(level, box, spread)`` gives what was decoded before of a level that another stands on,
    or None. ``kept`` are decoders of segments that go on.
    """
    if level is not None and level < 0:
        raise ParameterError(f"level must be >= 0, found {level}", kind="bad-level")
    index = read_index(read) if index is None else index
    selection = _normalise(selection, index)
    TileGrid(index.valid, index.shape).covering(selection)
    wanted = index.levels - 1 if level is None else min(level, index.levels - 1)
    if index.method == "constant":
        shape = tuple(s.stop - s.start for s in selection)
        values: Values = np.full(shape, np.frombuffer(index.constant, index.dtype)[0], index.dtype)
        return DecodedBrick(values, np.zeros(shape, np.float32) if spread else None)

    def base(level: int, box: Box, spread: bool) -> Region:
        found = REGISTRY.method(index.method).decode(
            read, index, box=box, level=level, resources=resources, spread=spread
        )
        return found.values, found.spread

    return DecodedBrick(
        *read_level(read, index, wanted, selection, spread, base=base, known=known, kept=kept)
    )


def _check_arguments(
    values: Values,
    position: tuple[int, ...],
    shape: tuple[int, int, int],
    options: BrickOptions,
) -> tuple[int, int, int]:
    """Extent of the values, or ParameterError."""
    base, exact_mask = options.base, options.exact_mask
    if values.dtype not in c.DTYPE_CODES:
        raise ParameterError(
            f"brick {position}: dtype {values.dtype!r} is not supported; supported are "
            + ", ".join(str(d) for d in c.DTYPE_CODES),
            kind="unsupported-dtype",
        )
    if values.ndim != 3 or any(not 1 <= v <= s for v, s in zip(values.shape, shape, strict=True)):
        raise ParameterError(
            f"brick {position}: values of shape {values.shape} do not fit brick {shape}",
            kind="bad-shape",
        )
    if base not in base_names():
        raise ParameterError(
            f"base must be one of {', '.join(base_names())}, found {base!r}", kind="bad-base"
        )
    if exact_mask is not None and (exact_mask.shape != values.shape or exact_mask.dtype != bool):
        raise ParameterError(
            f"brick {position}: expected a mask of booleans {values.shape}, found "
            f"{exact_mask.dtype} {exact_mask.shape}",
            kind="bad-mask",
        )
    z, y, x = values.shape
    return z, y, x


def _bits(values: Values) -> Values:
    return values.view(f"<u{values.dtype.itemsize}")


def _normalise(selection: Box, index: BrickIndex) -> Box:
    z, y, x = (
        slice(0 if s.start is None else s.start, v if s.stop is None else s.stop, s.step)
        for s, v in zip(selection, index.valid, strict=True)
    )
    if math.prod(index.valid) > c.MAX_BRICK_VOXELS:
        raise FormatError("brick is larger than a reader accepts", kind="limit")
    return z, y, x
