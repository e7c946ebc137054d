"""Lossless coding of integer volumes by context mixing. Part of the format (SPEC section 15).

A segment (z, y, x) of integers becomes one byte string that decodes alone. The model is in
:mod:`psc_volumetric.coders.context.kernel`; this module has the stream around it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.context.fit import fit_predictors
from psc_volumetric.coders.context.given import (
    NOTHING,
    Cells,
    Given,
    check_inside,
    given_cells,
    given_reference,
)
from psc_volumetric.coders.context.layout import (
    EXPERTS,
    FRONT,
    MAX_PADDED,
    MAX_SHIFT,
    NARROW,
    PAD,
    WORK_SIZE,
    neighbours_of,
)
from psc_volumetric.coders.context.occurring import Levels
from psc_volumetric.coders.context.predictors import read_predictors, write_predictors
from psc_volumetric.coders.context.value_list import LevelTable
from psc_volumetric.entropy.binary_tables import decision_tables
from psc_volumetric.errors import FormatError, LimitExceededError, ParameterError

if TYPE_CHECKING:
    from psc_volumetric.entropy.binary import Words

__all__ = ["Model", "decode_integers", "encode_integers"]

Integers = NDArray[np.int64]
Signed = NDArray[np.signedinteger]
Shape = tuple[int, int, int]
AnyLevels = Levels | LevelTable
MIXED, LISTED, LIGHT = 1, 2, 4  # bits of the first byte
CLAMP_BITS = 15  # differences that the online predictors see are cut to this many bits


def encode_integers(
    values: NDArray[np.integer],
    *,
    reference: NDArray[np.integer] | None = None,
    cells: Cells | None = None,
    is_light: bool = False,
) -> bytes:
    """Code a segment of integers without loss.

    Parameters
    ----------
    values : (z, y, x) integer
        At least one voxel, at most MAX_PADDED with padding; largest minus smallest value below
        2^32, none beyond +-2^62.
    reference : (z, y, x) integer, optional
        A prediction of the values with 4 fraction bits. The decoder needs the same.
    cells : Cells, optional
        In place of a reference: the least and the largest that each value can be. The decoder needs
        the same.
    is_light : bool
        Leave out the parts of the model that cost most time for what they save; the stream says
        so.

    Returns
    -------
    bytes
        A stream for :func:`decode_integers`, not much longer than the values packed into whole
        bytes.

    Raises
    ------
    ParameterError
        Not three axes, no voxel, shapes that differ, values too far apart or outside their cells.
    """
    problem = _shape_problem(values.shape)
    if problem is not None:
        raise ParameterError(problem, kind="bad-shape", hint="cut it into smaller segments")
    if cells is not None:
        check_inside(values, cells)
    return _encode(values, reference, cells, may_list=True, is_light=is_light)


def decode_integers(
    data: bytes,
    shape: Shape,
    *,
    reference: NDArray[np.integer] | None = None,
    cells: Cells | None = None,
    what: str,
) -> Integers:
    """Inverse of :func:`encode_integers`.

    Parameters
    ----------
    data : bytes
        One stream, whole.
    shape : tuple of int
        Extents (z, y, x), checked by the caller against its limits.
    reference, cells : optional
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
        ``bad-symbol``). Damage that leaves an intact stream of other values is for the caller's
        checksum to find.
    """
    problem = _shape_problem(shape)
    if problem is not None:
        raise LimitExceededError(f"{what}: {problem}", kind="limit")
    return _decode(data, shape, reference, cells, what, may_list=True)


def _encode(
    values: NDArray[np.integer],
    reference: NDArray[np.integer] | None,
    cells: Cells | None,
    *,
    may_list: bool,
    is_light: bool,
) -> bytes:
    levels: AnyLevels
    levels, index = Levels.find(values)
    listed = LevelTable.find(values) if may_list else None
    if listed is not None:
        levels, index = listed
    shape = (values.shape[0], values.shape[1], values.shape[2])
    given = _given(levels, shape, reference, cells, "segment")
    mixed = _encode_mixed(index, levels.top, given, is_light) if levels.top else b""
    width = (levels.top.bit_length() + 7) // 8
    is_mixed = 0 < len(mixed) < width * index.size
    out = FieldWriter()
    light = LIGHT * (is_light and is_mixed)
    out.pack("B", MIXED * is_mixed + LISTED * (listed is not None) + light)
    if isinstance(levels, LevelTable):
        levels.write(
            out, lambda steps: _encode(steps, None, None, may_list=False, is_light=is_light)
        )
    else:
        levels.write(out)
    if is_mixed:
        out.raw(mixed)
    else:
        planes = index.astype("<u4").reshape(-1).view(np.uint8).reshape(-1, 4)
        out.raw(planes[:, :width].tobytes())
    return out.getvalue()


def _decode(
    data: bytes,
    shape: Shape,
    reference: NDArray[np.integer] | None,
    cells: Cells | None,
    what: str,
    *,
    may_list: bool,
) -> Integers:
    fields = FieldReader(data, what=what)
    (variant,) = fields.unpack("B")
    known = MIXED + LISTED * may_list + LIGHT * (variant & MIXED)
    if variant & ~known:
        raise FormatError(f"{what}: unknown context stream {variant}", kind="bad-payload")
    levels: AnyLevels
    if variant & LISTED:
        levels = LevelTable.read(
            fields, lambda part, size: _decode(part, size, None, None, what, may_list=False), what
        )
    else:
        levels = Levels.read(fields, what)
    if variant & MIXED:
        given = _given(levels, shape, reference, cells, what)
        is_light = variant & LIGHT > 0
        index = _decode_mixed(fields, len(data), levels.top, given, shape, what, is_light)
    else:
        index = _decode_packed(fields.raw(len(data) - fields.offset), levels.top, shape, what)
    return levels.values(index)


class Model(NamedTuple):
    """Memory of the compiled coder, all of it allocated by :func:`_run`; see SPEC section 15.

    ``volume``, ``final`` and ``work`` have 32 bits where all their numbers fit, else 64.
    """

    volume: NDArray[np.signedinteger]
    final: NDArray[np.signedinteger]
    work: NDArray[np.signedinteger]
    words: Words
    offsets: NDArray[np.int64]
    first: NDArray[np.int64]
    others: NDArray[np.int64]
    given: NDArray[np.int64]
    places: NDArray[np.int64]
    least: NDArray[np.int64]
    most: NDArray[np.int64]
    errors: NDArray[np.int32]
    sums: NDArray[np.int32]
    guesses: NDArray[np.int64]
    bias_sum: NDArray[np.int64]
    bias_count: NDArray[np.int64]
    counters: NDArray[np.int32]
    weights: NDArray[np.int32]
    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    rate: NDArray[np.int32]
    bend: NDArray[np.int32]
    rise: NDArray[np.int32]


def _run(
    padded: Signed,
    top: int,
    shift: int,
    predictors: tuple[Integers, Integers],
    given: Given,
    data: NDArray[np.uint8],
    *,
    decode: bool,
    is_light: bool,
) -> int:
    """Code ``padded`` in place; returns the length of the stream, or -1."""
    from psc_volumetric.coders.context import kernel
    from psc_volumetric.entropy import binary as coder
    from psc_volumetric.entropy import decisions

    depth, rows, row = padded.shape
    plane = rows * row
    weights = np.full((3 * kernel.WEIGHT_SETS, decisions.INPUTS), 8000, np.int32)
    weights[:, 0], weights[:, -1] = 48000 if is_light else 32000, 0
    nodes = sum(kernel.CONTEXTS) * decisions.NODES

    strides = np.array([plane, row, 1], np.int64)

    def zeros(count: int) -> Integers:
        return np.zeros(count, np.int64)

    least, most = (zeros(0), zeros(0)) if given.cells is None else given.cells

    model = Model(
        padded.reshape(-1), np.zeros(2 * plane, padded.dtype), np.zeros(WORK_SIZE, padded.dtype),
        coder.Words.over(data, decode=decode), neighbours_of(is_light)[0] @ strides, *predictors,
        given.volume.reshape(-1), given.offsets @ strides, least.reshape(-1), most.reshape(-1),
        np.zeros(2 * plane * EXPERTS, np.int32), np.zeros(EXPERTS, np.int32),
        zeros(EXPERTS), zeros(2 * kernel.BIAS_CONTEXTS), zeros(2 * kernel.BIAS_CONTEXTS),
        np.full(nodes, coder.NEW_COUNTER, np.int32), weights.reshape(-1),
        *decision_tables(),
    )  # fmt: skip
    size = depth - FRONT, rows - 2 * PAD, row - 2 * PAD
    return int(kernel.code_segment(model, *size, top, shift, is_light))


def _encode_mixed(index: Integers, top: int, given: Given, is_light: bool) -> bytes:
    """Predictors and body of the model's stream; empty if longer than the packed integers."""
    predictors = fit_predictors(index, given, is_light=is_light)
    shift = max(0, top.bit_length() - CLAMP_BITS)
    out = FieldWriter()
    out.pack("B", shift)
    predictors = write_predictors(out, predictors, index.size)
    padded = _padded(index.shape, top)
    padded[FRONT:, PAD:-PAD, PAD:-PAD] = index
    room = np.zeros(index.size * ((top.bit_length() + 7) // 8), np.uint8)
    size = _run(padded, top, shift, predictors, given, room, decode=False, is_light=is_light)
    if size < 0:
        return b""
    out.raw(room[:size].tobytes())
    return out.getvalue()


def _decode_mixed(
    fields: FieldReader,
    end: int,
    top: int,
    given: Given,
    shape: Shape,
    what: str,
    is_light: bool,
) -> Integers:
    (shift,) = fields.unpack("B")
    if shift > MAX_SHIFT or top == 0:
        raise FormatError(f"{what}: impossible header of a context stream", kind="bad-payload")
    predictors = read_predictors(fields, len(given.offsets), shape[0] > 1, is_light, what)
    body = np.frombuffer(fields.raw(end - fields.offset), np.uint8).copy()
    padded = _padded(shape, top)
    size = _run(padded, top, shift, predictors, given, body, decode=True, is_light=is_light)
    if size != len(body):
        raise FormatError(
            f"{what}: the context stream does not end with its check bits",
            kind="bad-symbol",
            hint="the stream is cut or damaged, run `psc-archive verify`",
        )
    return padded[FRONT:, PAD:-PAD, PAD:-PAD].astype(np.int64)


def _decode_packed(data: bytes, top: int, shape: Shape, what: str) -> Integers:
    count, width = math.prod(shape), (top.bit_length() + 7) // 8
    if len(data) != count * width:
        raise FormatError(
            f"{what}: expected {count * width} bytes of packed integers, found {len(data)}",
            kind="bad-payload",
        )
    planes = np.zeros((count, 4), np.uint8)
    planes[:, :width] = np.frombuffer(data, np.uint8).reshape(count, width)
    index = planes.reshape(-1).view("<u4").astype(np.int64).reshape(shape)
    if int(index.max()) > top:
        raise FormatError(f"{what}: a packed integer exceeds {top}", kind="bad-symbol")
    return index


def _padded(shape: tuple[int, ...], top: int) -> Signed:
    """Room for a segment of integers up to ``top`` and what lies around it."""
    z, y, x = shape
    dtype = np.int32 if top < NARROW else np.int64
    return np.zeros((z + FRONT, y + 2 * PAD, x + 2 * PAD), dtype)


def _shape_problem(shape: tuple[int, ...]) -> str | None:
    """Why no segment can have this shape; None if one can."""
    if len(shape) != 3 or min(shape) < 1:
        return f"a segment has three axes and a voxel, found the shape {shape!r}"
    padded = math.prod(n + p for n, p in zip(shape, (FRONT, 2 * PAD, 2 * PAD), strict=True))
    if padded > MAX_PADDED:
        return f"a segment has at most {MAX_PADDED} voxels with its padding, found {padded}"
    return None


def _given(
    levels: AnyLevels,
    shape: Shape,
    reference: NDArray[np.integer] | None,
    cells: Cells | None,
    what: str,
) -> Given:
    """What is known beforehand, in coded integers."""
    found = cells.least if cells is not None else reference
    if found is None:
        return NOTHING
    if found.shape != shape:
        raise ParameterError(
            f"what is given must have the shape {shape!r}, found {found.shape!r}",
            kind="bad-shape",
        )
    if cells is not None:
        return given_cells(levels, cells, what=what)
    return given_reference(levels, found)
