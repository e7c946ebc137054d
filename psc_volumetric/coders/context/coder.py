"""Lossless coding of integer volumes by context mixing. Part of the format (SPEC section 15).

A segment (z, y, x) of integers becomes one byte string that decodes alone. The model is in
:mod:`psc_volumetric.coders.context.kernel`; this module writes the stream around it, which
:mod:`psc_volumetric.coders.context.decoder` reads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.coders.context.decoder import (
    LIGHT,
    LISTED,
    MIXED,
    NEURAL,
    IntegerDecoder,
    given_in,
    shape_problem,
)
from psc_volumetric.coders.context.fit import fit_predictors
from psc_volumetric.coders.context.given import Cells, Given, Window, check_inside
from psc_volumetric.coders.context.networks import NO_NETWORK, network
from psc_volumetric.coders.context.occurring import Levels
from psc_volumetric.coders.context.predictors import write_predictors
from psc_volumetric.coders.context.state import Coding, Settings
from psc_volumetric.coders.context.value_list import LevelTable
from psc_volumetric.coders.context.way import PLAIN, Way
from psc_volumetric.errors import ParameterError

__all__ = ["decode_integers", "encode_integers"]

Integers = NDArray[np.int64]
Shape = tuple[int, int, int]
AnyLevels = Levels | LevelTable
CLAMP_BITS = 15  # differences that the online predictors see are cut to this many bits


def encode_integers(
    values: NDArray[np.integer],
    *,
    reference: NDArray[np.integer] | None = None,
    cells: Cells | None = None,
    way: Way = PLAIN,
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
    way : Way

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
    problem = shape_problem(values.shape)
    if problem is not None:
        raise ParameterError(problem, kind="bad-shape", hint="cut it into smaller segments")
    if cells is not None:
        check_inside(values, cells)
    return _encode(values, reference, cells, way, may_list=True)


def decode_integers(
    data: bytes,
    shape: Shape,
    *,
    reference: NDArray[np.integer] | None = None,
    cells: Cells | None = None,
    may_foresee: bool = False,
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
    may_foresee : bool
        Whether the stream may name a network.
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
    found = IntegerDecoder(data, shape, what=what, may_foresee=may_foresee)
    return found.slices(shape[0], reference=reference, cells=cells)


def _encode(
    values: NDArray[np.integer],
    reference: NDArray[np.integer] | None,
    cells: Cells | None,
    way: Way,
    *,
    may_list: bool,
) -> bytes:
    levels: AnyLevels
    levels, index = Levels.find(values)
    listed = LevelTable.find(values) if may_list else None
    if listed is not None:
        levels, index = listed
    window = Window.whole(len(values))
    given = given_in(levels, values.shape, window, reference, cells, "segment")
    mixed = _encode_mixed(index, levels.top, given, way) if levels.top else b""
    width = (levels.top.bit_length() + 7) // 8
    is_mixed = 0 < len(mixed) < width * index.size
    out = FieldWriter()
    model = LIGHT * way.is_light + NEURAL * (way.network is not None)
    out.pack("B", (MIXED + model) * is_mixed + LISTED * (listed is not None))
    if isinstance(levels, LevelTable):
        plain = way._replace(network=None)
        levels.write(out, lambda steps: _encode(steps, None, None, plain, may_list=False))
    else:
        levels.write(out)
    if is_mixed:
        out.raw(mixed)
    else:
        planes = index.astype("<u4").reshape(-1).view(np.uint8).reshape(-1, 4)
        out.raw(planes[:, :width].tobytes())
    return out.getvalue()


def _encode_mixed(index: Integers, top: int, given: Given, way: Way) -> bytes:
    """Predictors and body of the model's stream; empty if longer than the packed integers."""
    predictors = fit_predictors(index, given, is_light=way.is_light)
    shift = max(0, top.bit_length() - CLAMP_BITS)
    out = FieldWriter()
    out.pack("B", shift)
    known = NO_NETWORK
    if way.network is not None:
        out.pack("B", way.network)
        known = network(way.network)
    predictors = write_predictors(out, predictors, index.size)
    z, y, x = index.shape
    settings = Settings((z, y, x), top, shift, predictors, way.is_light, known)
    room = np.zeros(index.size * ((top.bit_length() + 7) // 8), np.uint8)
    coding = Coding(settings, room, given.offsets, decode=False)
    if coding.code(Window.whole(z), given, index) is None:
        return b""
    out.raw(room[: coding.size].tobytes())
    return out.getvalue()
