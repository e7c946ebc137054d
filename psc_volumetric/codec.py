"""Bricks of voxels to bytes and back: the only place where the parts of the codec meet.

Part of the format. A brick is a base method (``constant``, ``none``, ``av1``, ``wavelet``, or
``psc``: a coarse base for the whole brick, then one progressive word sequence per tile) under up to
two exact layers (``bounded``, ``lossless``). Decoding reads only the byte ranges that a region and
a level need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.brick import (
    BrickIndex,
    PscFields,
    ReadRange,
    Section,
    read_index,
    write_brick,
)
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping
from psc_volumetric.bitstream.stored_samples import StoredSamples
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.errors import ChecksumError, FormatError, ParameterError
from psc_volumetric.guarantee import LOSSY, Guarantee
from psc_volumetric.parameters import CodecParameters
from psc_volumetric.records import TileRecord, tile_records
from psc_volumetric.tiling import Box, TileGrid, default_brick_shape

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior, PriorSource

__all__ = [
    "CodecParameters",
    "DecodedBrick",
    "EncodedBase",
    "EncodedBrick",
    "Guarantee",
    "IntensityMapping",
    "TileRecord",
    "decode_brick",
    "default_brick_shape",
    "encode_brick",
]

Values = NDArray[np.generic]
Mask = NDArray[np.bool_]
BASES = ("auto", "psc", "av1", "wavelet", "none")


@dataclass(frozen=True)
class EncodedBrick:
    """Bytes of a brick and what is known about them.

    ``method`` is the base with its layers and their coders: ``"none+lossless:context"``; ``choice``
    says why this base, where there was a choice. ``coverage`` has, per level of the base, the share
    of measured voxels within 1, 2 and 3 sigma; empty where nothing was measured. ``last`` are the
    stored values (z, y, x) that a reader gets at the last level. ``compared`` are the bytes of the
    bases psc, av1 and wavelet at the same error; 0 for one that was not coded.
    """

    data: bytes
    method: str
    records: tuple[TileRecord, ...]
    choice: str = ""
    coverage: tuple[tuple[float, float, float], ...] = ()
    last: Values | None = field(default=None, repr=False, compare=False)
    compared: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class EncodedBase:
    """A coded base method before layers are added.

    Attributes
    ----------
    psc, classical : header fields
        Of the method; None for the other kind.
    sections : list of (name, bytes)
        Without ``special``.
    levels : tuple of (z, y, x) arrays
        Stored values a reader gets at each level.
    tile_nbytes : tuple of tuples
        Bytes per tile and level.
    method : str
    needs_network : bool
        Whether its last level takes a network to decode.
    choice : str
        Why this method: bytes of both at the same error.
    coverage : tuple of (float, float, float)
        Share of voxels within 1, 2 and 3 sigma at each level.
    compared : (int, int, int)
        Bytes of psc, av1 and wavelet at the same error; 0 for one that was not coded.
    """

    psc: PscFields | None
    sections: list[tuple[str, bytes]]
    levels: tuple[Values, ...]
    tile_nbytes: tuple[tuple[int, ...], ...]
    method: str = "psc"
    needs_network: bool = True
    classical: StoredSamples | None = None
    choice: str = ""
    coverage: tuple[tuple[float, float, float], ...] = ()
    compared: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class DecodedBrick:
    """Decoded region: stored values, and one sigma per voxel in stored units if asked for."""

    values: Values
    spread: NDArray[np.float32] | None = None


def encode_brick(
    values: Values,
    *,
    position: tuple[int, ...],
    shape: tuple[int, int, int],
    mapping: IntensityMapping | None,
    parameters: CodecParameters,
    prior: Prior | None,
    special_values: tuple[float, ...] = (),
    seed: int = 0,
    device: str = "auto",
    guarantee: Guarantee = LOSSY,
    base: str = "auto",
    exact_mask: Mask | None = None,
    tile_shape: tuple[int, int, int] | None = None,
    limits: tuple[float | int, float | int] | None = None,
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
    special_values : tuple of float
        Stored values that are not measurements; kept exactly. NaN and infinities always are.
    seed : int
        Key of the noise, 0 <= seed < 2**32.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    guarantee : Guarantee
        Error promised for every voxel. A brick that its base method cannot code (label maps,
        booleans, too many special values) is lossless whatever is asked for.
    base : str
        ``"psc"`` (the prior, where it is given and can code the values), ``"av1"`` or ``"wavelet"``
        (the classical methods), ``"auto"`` (the smallest at the error of ``psc``; without a prior
        the better classical one for a lossy brick and nothing for another), or ``"none"``.
    exact_mask : (vz, vy, vx) array of bool, optional
        Voxels to keep exactly although the rest is not.
    tile_shape : (z, y, x), optional
        Tiles of the records of a brick without tiles of its own; default one record.
    limits : (least, largest), optional
        Stored values that the source format can hold; no level leaves them, unless the values do.

    Returns
    -------
    EncodedBrick

    Raises
    ------
    ParameterError
        Unsupported dtype, extents that do not fit, or limits that are none.
    """
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    valid = _check_arguments(values, position, shape, base, exact_mask)
    header = BrickHeader("constant", values.dtype, tuple(position), shape, valid)
    first = values.reshape(-1)[:1]
    if np.array_equal(_bits(values), np.broadcast_to(_bits(first), values.shape)):
        data = write_brick(header, [], constant=first.tobytes())
        whole = TileGrid(valid, valid)
        records = tile_records(values, [values], whole, [(len(data),)], None)
        return EncodedBrick(data, "constant", records, last=values)
    from psc_volumetric.layered_brick import encode_layers, join

    fits = SpecialMap.fits(values, special_values)
    special = SpecialMap.find(values, special_values) if fits else None
    ends = ValueLimits.of(limits, values, None if special is None else special.index == 0)
    coded = None
    if fits and base != "none" and mapping is not None:
        from psc_volumetric.base_choice import encode_base, grid_bound

        coded = encode_base(
            values, base=base, header=header, mapping=mapping, parameters=parameters, prior=prior,
            special=special, limits=ends, seed=seed, device=device, tile=tile_shape,
            lossy=guarantee.mode == "lossy",
        )  # fmt: skip
        if coded is None and guarantee.mode == "lossy":
            step = parameters.step * (mapping.high - mapping.low) / 2
            bound = grid_bound(values, special, step)
            guarantee = (
                guarantee if bound is None else replace(guarantee, mode="bounded", max_error=bound)
            )
    layers = encode_layers(
        values, coded, guarantee, special=special, limits=ends, lossless_only=not fits,
        exact_mask=exact_mask,
    )  # fmt: skip
    tile = coded.psc.tile if coded is not None and coded.psc is not None else tile_shape or valid
    return join(header, values, coded, layers, special=special, limits=ends, tile=tile)


def decode_brick(
    read: ReadRange,
    *,
    selection: Box,
    level: int | None = None,
    prior: PriorSource | None = None,
    spread: bool = False,
    device: str = "auto",
    index: BrickIndex | None = None,
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
    from psc_volumetric.layered_brick import decode_level

    return decode_level(
        read, index, selection=selection, level=wanted, prior=prior, spread=spread, device=device
    )


def read_section(read: ReadRange, section: Section, *, what: str) -> bytes:
    """Read one whole section and check its length and CRC-32C."""
    data = read(section.offset, section.nbytes) if section.nbytes else b""
    check_section(data, section, what=what)
    return data


def check_section(data: bytes, section: Section, *, what: str) -> None:
    """Refuse bytes that are cut or have another CRC-32C than the header says (FormatError)."""
    if len(data) != section.nbytes:
        raise FormatError(
            f"{what}: section {section.name!r} at offset {section.offset}: expected "
            f"{section.nbytes} bytes, found {len(data)}",
            kind="truncated",
            hint="the chunk is cut, run `psc-archive verify`",
        )
    found = crc32c(data)
    if found != section.crc:
        raise ChecksumError(
            f"{what}: section {section.name!r} at offset {section.offset}: expected CRC-32C "
            f"{section.crc:08x}, found {found:08x}",
            kind="section-checksum",
            hint="the chunk is damaged, run `psc-archive verify`",
        )


def _check_arguments(
    values: Values,
    position: tuple[int, ...],
    shape: tuple[int, int, int],
    base: str,
    exact_mask: Mask | None,
) -> tuple[int, int, int]:
    """Extent of the values, or ParameterError."""
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
    if base not in BASES:
        raise ParameterError(f"base must be one of {BASES}, found {base!r}", kind="bad-base")
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
