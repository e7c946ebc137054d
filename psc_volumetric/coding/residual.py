"""Lossless coding of integer volumes by context mixing. Part of the format (SPEC section 15).

A segment (z, y, x) of integers becomes one byte string that decodes alone. The model is in
:mod:`psc_volumetric.coding.residual_kernel`; this module has the stream around it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import MAX_BRICK_VOXELS
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coding.residual_fit import fit_coefficients
from psc_volumetric.coding.residual_kernel import (
    FRONT,
    MAX_SETS,
    NEIGHBOURS,
    PAD,
    code_segment,
)
from psc_volumetric.coding.residual_tables import residual_tables
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["decode_integers", "encode_integers"]

Integers = NDArray[np.int64]
Shape = tuple[int, int, int]
RAW, MIXED = 0, 1
MAX_TOP = (1 << 32) - 1
CLAMP_BITS = 15  # differences that adapt online are cut to this many bits
REFERENCE_TERMS = 5


def encode_integers(
    values: NDArray[np.integer],
    *,
    reference: NDArray[np.int32] | None = None,
    spread: NDArray[np.int32] | None = None,
) -> bytes:
    """Code a segment of integers without loss.

    Parameters
    ----------
    values : (z, y, x) integer
        At least one voxel; largest minus smallest value below 2^32.
    reference : (z, y, x) int32, optional
        A prediction of the values with 4 fraction bits. The decoder needs the same.
    spread : (z, y, x) int32, optional
        Expected deviation of the values from ``reference``, 4 fraction bits, not negative.

    Returns
    -------
    bytes
        A stream for :func:`decode_integers`, at most some 40 bytes longer than the values packed
        into whole bytes.

    Raises
    ------
    ParameterError
        Not three axes, no voxel, or values too far apart.
    """
    shape = _checked_shape(values.shape)
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest > MAX_TOP:
        raise ParameterError(
            f"values must span less than 2^32, found {lowest} .. {highest}",
            kind="bad-values",
            hint="split wider integers into words",
        )
    index = values.astype(np.int64) - lowest
    divisor = max(1, int(np.gcd.reduce(index, axis=None)))
    index //= divisor
    top = int(index.max())
    out = FieldWriter()
    extra = _regressors(reference, lowest, divisor, shape)
    mixed = _encode_mixed(index, top, extra)
    width = (top.bit_length() + 7) // 8
    out.pack("B", RAW if len(mixed) > width * index.size else MIXED)
    out.pack("q", lowest)
    out.varint(divisor)
    out.varint(top)
    if len(mixed) <= width * index.size:
        out.raw(mixed)
    else:
        out.raw(index.astype("<u4").reshape(-1).view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    return out.getvalue()


def decode_integers(
    data: bytes,
    shape: Shape,
    *,
    reference: NDArray[np.int32] | None = None,
    spread: NDArray[np.int32] | None = None,
    what: str,
) -> Integers:
    """Inverse of :func:`encode_integers`.

    Parameters
    ----------
    data : bytes
        One stream, whole.
    shape : tuple of int
        Extents (z, y, x), checked by the caller against its limits.
    reference, spread : (z, y, x) int32, optional
        As given to the encoder.
    what : str
        Name of the segment in messages.

    Returns
    -------
    (z, y, x) int64
        The values.

    Raises
    ------
    FormatError
        The bytes are not a stream of this shape (kinds ``truncated``, ``limit``, ``bad-payload``,
        ``bad-symbol``).
    """
    shape = _checked_shape(shape)
    fields = FieldReader(data, what=what)
    variant, lowest = fields.unpack("Bq")
    divisor = fields.varint(limit=MAX_TOP, name="divisor")
    top = fields.varint(limit=MAX_TOP, name="largest index")
    if top * divisor > MAX_TOP or abs(lowest) > (1 << 62) or variant > MIXED:
        raise FormatError(f"{what}: impossible header of a residual stream", kind="bad-payload")
    if variant == RAW:
        index = _decode_raw(fields.raw(len(data) - fields.offset), top, shape, what)
    else:
        extra = _regressors(reference, lowest, max(1, divisor), shape)
        index = _decode_mixed(fields, len(data), top, extra, shape, what)
    return index * divisor + lowest


def _checked_shape(shape: tuple[int, ...]) -> Shape:
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MAX_BRICK_VOXELS:
        raise ParameterError(
            f"a segment has three axes and 1 .. {MAX_BRICK_VOXELS} voxels, found {shape!r}",
            kind="bad-shape",
        )
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _decode_raw(data: bytes, top: int, shape: Shape, what: str) -> Integers:
    count, width = math.prod(shape), (top.bit_length() + 7) // 8
    if len(data) != count * width:
        raise FormatError(
            f"{what}: expected {count * width} bytes of packed integers, found {len(data)}",
            kind="bad-payload",
        )
    packed = np.zeros((count, 4), np.uint8)
    packed[:, :width] = np.frombuffer(data, np.uint8).reshape(count, width)
    index = packed.reshape(-1).view("<u4").astype(np.int64).reshape(shape)
    if int(index.max()) > top:
        raise FormatError(f"{what}: an integer exceeds {top}", kind="bad-symbol")
    return index


def _encode_mixed(index: Integers, top: int, extra: Integers) -> bytes:
    """Header and body of the model's stream; longer than the packed values if that did not fit."""
    padded = _padded(index.shape)
    padded[FRONT:, PAD:-PAD, PAD:-PAD] = index
    coefficients, first_sets = fit_coefficients(index, extra)
    shift = max(0, top.bit_length() - CLAMP_BITS)
    room = np.zeros(index.size * ((top.bit_length() + 7) // 8) + 64, np.uint8)
    size = _run(padded, top, shift, coefficients, first_sets, extra, room, decode=False)
    head = bytes([shift, first_sets, len(coefficients)])
    body = room.tobytes() if size < 0 else room[:size].tobytes()
    return head + coefficients.astype("<i2").tobytes() + body


def _decode_mixed(
    fields: FieldReader, end: int, top: int, extra: Integers, shape: Shape, what: str
) -> Integers:
    shift, first_sets, sets = fields.unpack("BBB")
    rest = sets - first_sets
    if shift > 32 or not (1 <= first_sets <= MAX_SETS and (shape[0] == 1 or 1 <= rest <= MAX_SETS)):
        raise FormatError(f"{what}: impossible predictors in a residual stream", kind="bad-payload")
    terms = len(NEIGHBOURS) + extra.shape[1]
    coefficients = np.frombuffer(fields.raw(2 * sets * terms), "<i2").reshape(sets, terms)
    body = np.frombuffer(fields.raw(end - fields.offset), np.uint8).copy()
    padded = _padded(shape)
    size = _run(
        padded, top, shift, coefficients.astype(np.int64), first_sets, extra, body, decode=True
    )
    if size != len(body):
        raise FormatError(
            f"{what}: the residual stream does not end with its check word",
            kind="bad-symbol",
            hint="the stream is cut or damaged, run `psc-archive verify`",
        )
    return padded[FRONT:, PAD:-PAD, PAD:-PAD].copy()


def _padded(shape: tuple[int, ...]) -> Integers:
    z, y, x = shape
    return np.zeros((z + FRONT, y + 2 * PAD, x + 2 * PAD), np.int64)


def _run(
    padded: Integers,
    top: int,
    shift: int,
    coefficients: Integers,
    first_sets: int,
    extra: Integers,
    data: NDArray[np.uint8],
    *,
    decode: bool,
) -> int:
    shape = np.array(padded.shape, np.int64) - (FRONT, 2 * PAD, 2 * PAD)
    _, rows, row = padded.shape
    offsets = NEIGHBOURS @ np.array([rows * row, row, 1], np.int64)
    return int(
        code_segment(
            padded, shape, top, shift, coefficients, first_sets, extra, data, int(decode),
            *residual_tables(), offsets,
        )
    )  # fmt: skip


def _regressors(
    reference: NDArray[np.int32] | None, lowest: int, divisor: int, shape: Shape
) -> Integers:
    """Reference at the voxel and its four neighbours in the slice, (voxels, terms), 8 bits."""
    count = math.prod(shape)
    if reference is None:
        return np.zeros((count, 0), np.int64)
    if reference.shape != shape:
        raise ParameterError(
            f"the reference must have the shape {shape!r}, found {reference.shape!r}",
            kind="bad-shape",
        )
    value = ((reference.astype(np.int64) - (lowest << 4)) << 4) // divisor
    padded = np.pad(value, ((0, 0), (1, 1), (1, 1)), mode="edge")
    y, x = slice(1, -1), slice(1, -1)
    views = (
        value, padded[:, y, :-2], padded[:, y, 2:], padded[:, :-2, x], padded[:, 2:, x],
    )  # fmt: skip
    return np.ascontiguousarray(np.stack(views, axis=-1).reshape(count, REFERENCE_TERMS))
