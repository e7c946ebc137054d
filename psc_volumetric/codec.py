"""Bricks of voxels to bytes and back: the only place where the parts of the codec meet.

Part of the format. A brick is coded with the method that fits it: ``constant``, ``lossless``
(no network), or ``psc`` (a coarse base for the whole brick, then one progressive word sequence
per tile). Decoding reads only the byte ranges that a region and a level need.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.brick import BrickIndex, ReadRange, Section, read_index, write_brick
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.coding.plain import SpecialMap, compress_lossless, decompress_lossless
from psc_volumetric.errors import ChecksumError, FormatError, ParameterError
from psc_volumetric.parameters import CodecParameters
from psc_volumetric.tiling import Box, TileGrid, default_brick_shape

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior, PriorSource

__all__ = [
    "CodecParameters",
    "DecodedBrick",
    "EncodedBrick",
    "IntensityMapping",
    "TileRecord",
    "decode_brick",
    "default_brick_shape",
    "encode_brick",
]

Values = NDArray[np.generic]
PSC_KINDS = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}


@dataclass(frozen=True)
class TileRecord:
    """What the encoder measured about one tile after decoding it again.

    Attributes
    ----------
    position : (z, y, x)
        Index in the brick's tile grid.
    nbytes : tuple of int
        Bytes the tile adds at each level; entry 0 is its share of the base.
    mse, max_error : tuple of float
        Per level, in stored units (squared), over measured voxels.
    sha256 : str
        Digest of the decoded stored values (valid part, C order, little-endian), last level.
    """

    position: tuple[int, int, int]
    nbytes: tuple[int, ...]
    mse: tuple[float, ...]
    max_error: tuple[float, ...]
    sha256: str


@dataclass(frozen=True)
class EncodedBrick:
    """Bytes of a brick and what is known about them."""

    data: bytes
    method: str
    records: tuple[TileRecord, ...]


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
        Stored values to normalised units; None forces a network-free method.
    parameters : CodecParameters
        Setting, effort and quantiser step.
    prior : Prior or None
        The diffusion prior; None forces a network-free method.
    special_values : tuple of float
        Stored values that are not measurements; kept exactly. NaN and infinities always are.
    seed : int
        Key of the noise, 0 <= seed < 2**32.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.

    Returns
    -------
    EncodedBrick

    Raises
    ------
    ParameterError
        Unsupported dtype, or extents that do not fit.
    """
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
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
    valid = (values.shape[0], values.shape[1], values.shape[2])
    header = BrickHeader("constant", values.dtype, tuple(position), shape, valid)
    first = values.reshape(-1)[:1]
    if np.array_equal(_bits(values), np.broadcast_to(_bits(first), values.shape)):
        data = write_brick(header, [], constant=first.tobytes())
        return EncodedBrick(data, "constant", (_exact_record(values, len(data)),))
    able = values.dtype.str[1:] in PSC_KINDS
    if able and values.dtype.kind == "f" and mapping is not None:
        able = mapping.fits(values.dtype)  # floats too large for a spread in single precision
    able = able and SpecialMap.fits(values, special_values)
    if able and prior is not None and mapping is not None:
        from psc_volumetric.psc_brick import encode_psc

        return encode_psc(
            values,
            header=replace(header, method="psc"),
            mapping=mapping,
            parameters=parameters,
            prior=prior,
            special_values=special_values,
            seed=seed,
            device=device,
        )
    payload = compress_lossless(values)
    data = write_brick(replace(header, method="lossless"), [("data", payload)])
    return EncodedBrick(data, "lossless", (_exact_record(values, len(data)),))


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
        Quality level, 0 = base only; None or past the last = everything.
    prior : callable, optional
        Digest -> :class:`~psc_volumetric.prior.Prior`; needed for ``psc`` bricks.
    spread : bool
        Also return one sigma per voxel.
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
    shape = tuple(s.stop - s.start for s in selection)
    if index.method == "constant":
        value = np.frombuffer(index.constant, index.dtype)[0]
        values: Values = np.full(shape, value, index.dtype)
        return DecodedBrick(values, np.zeros(shape, np.float32) if spread else None)
    if index.method == "lossless":
        payload = read_section(read, index.section("data"), what=f"brick {index.position}")
        whole = decompress_lossless(
            payload, index.valid, index.dtype, what=f"brick {index.position}"
        )
        values = whole[selection].copy()
        return DecodedBrick(values, np.zeros(shape, np.float32) if spread else None)
    from psc_volumetric.psc_brick import decode_psc

    wanted = index.levels - 1 if level is None else min(level, index.levels - 1)
    return decode_psc(
        read, index, selection=selection, level=wanted, prior=prior, spread=spread, device=device
    )


def read_section(read: ReadRange, section: Section, *, what: str) -> bytes:
    """Read one whole section and check its length and CRC-32C."""
    data = read(section.offset, section.nbytes) if section.nbytes else b""
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
    return data


def digest_values(values: Values) -> str:
    """SHA-256 of stored values in C order, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _bits(values: Values) -> Values:
    return values.view(f"<u{values.dtype.itemsize}")


def _exact_record(values: Values, nbytes: int) -> TileRecord:
    return TileRecord((0, 0, 0), (nbytes,), (0.0,), (0.0,), digest_values(values))


def _normalise(selection: Box, index: BrickIndex) -> Box:
    z, y, x = (
        slice(0 if s.start is None else s.start, v if s.stop is None else s.stop, s.step)
        for s, v in zip(selection, index.valid, strict=True)
    )
    if math.prod(index.valid) > c.MAX_BRICK_VOXELS:
        raise FormatError("brick is larger than a reader accepts", kind="limit")
    return z, y, x
