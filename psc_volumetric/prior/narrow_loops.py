"""Loops of networks whose numbers fit 16 bits: convolutions, channels last.

Not part of the format. Channels are counted as they are kept: a multiple of `LANES`. Every array is
one row of numbers; `narrow.py` makes them and sees to their sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.machine_code import compiled
from psc_volumetric.prior.narrow_lanes import (
    LANES,
    ROWS,
    add_up,
    narrow,
    requantise,
    sums_of_nine,
    transform,
)

__all__ = [
    "AT_ONCE",
    "PARTS",
    "SLACK",
    "Addend",
    "Extents",
    "Room",
    "Scaling",
    "Weights",
    "nine",
    "one",
]

AT_ONCE = 4 * ROWS  # tiles, or pixels, that are worked on before the next
SLACK = 32  # numbers between the parts of a room, so that they do not share a cache's rows
PARTS = 16  # products of a tile

_inner = compiled(_nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)

Halves = NDArray[np.int16]
Numbers = NDArray[np.int32]


class Scaling(NamedTuple):
    """How a register becomes an input: ``((x << up) + half) >> down``, cut to low and high."""

    up: int
    half: int
    down: int
    low: int
    high: int


class Weights(NamedTuple):
    """A convolution.

    Attributes
    ----------
    pairs : int16
        For every part of a tile, every `LANES` outputs and every two inputs: both weights of each
        output.
    bias, down, up : (outputs,) int32
        Added to a sum, which is then shifted down, cut to 16 bits, and shifted up.
    limit : int
        Outputs are cut to +-limit.
    """

    pairs: Halves
    bias: Numbers
    down: Numbers
    up: Numbers
    limit: int


class Addend(NamedTuple):
    """Numbers that are added to outputs, or not: then any that may be read."""

    numbers: Halves
    is_added: int


class Extents(NamedTuple):
    """How many planes, of what extents, with how many channels."""

    planes: int
    height: int
    width: int
    inputs: int
    outputs: int


class Room(NamedTuple):
    """What is written on the way: inputs, parts of tiles, their sums."""

    inputs: Halves
    parts: Halves
    sums: Numbers


@_inner
def _surround(source, scaling, extents, plane, inputs) -> None:  # type: ignore[no-untyped-def]
    """Inputs of a plane, with a pixel of zeros around, and another where an extent is odd."""
    channels, length = extents.inputs, extents.width * extents.inputs
    row = ((extents.width + 1) // 2 * 2 + 2) * channels
    for y in range((extents.height + 1) // 2 * 2 + 2):
        at = y * row
        if y == 0 or y > extents.height:
            inputs[at : at + row] = 0
            continue
        first, begin = (plane * extents.height + y - 1) * length, at + channels
        inputs[at:begin] = 0
        for k in range(0, length, LANES):
            narrow(source, first + k, scaling, inputs, begin + k)
        inputs[begin + length : at + row] = 0


@_inner
def _cut(extents, room, first, count) -> None:  # type: ignore[no-untyped-def]
    """Parts of tiles from one on."""
    across, channels = (extents.width + 1) // 2, extents.inputs
    row = (2 * across + 2) * channels
    apart = AT_ONCE * channels + SLACK
    y, x = first // across, first % across
    for t in range(count):
        place = 2 * y * row + 2 * x * channels
        for c in range(0, channels, LANES):
            transform(room.inputs, place + c, row, channels, room.parts, t * channels + c, apart)
        x += 1
        if x == across:
            x = 0
            y += 1


@_inner
def _multiply(pairs, extents, room, parts, count) -> None:  # type: ignore[no-untyped-def]
    """Sums of all products of so many parts of so many tiles, or pixels."""
    inputs, outputs = extents.inputs, extents.outputs
    apart, summed = AT_ONCE * inputs + SLACK, AT_ONCE * outputs + SLACK
    for part in range(parts):
        for o in range(0, outputs, LANES):
            own = (part * outputs + o) * inputs
            for t in range(0, count, ROWS):
                places = (
                    own, part * apart + t * inputs, inputs, part * summed + t * outputs + o, outputs
                )  # fmt: skip
                add_up(pairs, room.parts, room.sums, inputs // 2, places)


@_inner
def _join(w, extents, room, plane, first, count, add, out) -> None:  # type: ignore[no-untyped-def]
    """Outputs of tiles; those outside of the plane go to the last pixel."""
    height, width, channels = extents.height, extents.width, extents.outputs
    across, summed = (width + 1) // 2, AT_ONCE * channels + SLACK
    nothing = extents.planes * height * width * channels
    y, x = first // across, first % across
    for t in range(count):
        place = ((plane * height + 2 * y) * width + 2 * x) * channels
        has_right, has_below = 2 * x + 1 < width, 2 * y + 1 < height
        right = place + channels if has_right else nothing
        below = place + width * channels if has_below else nothing
        last = place + (width + 1) * channels if has_right and has_below else nothing
        for o in range(0, channels, LANES // 2):
            places = place + o, right + o, below + o, last + o
            sums_of_nine(room.sums, (o, t * channels + o, summed), w, add, out, places)
        x += 1
        if x == across:
            x = 0
            y += 1


@compiled(_nrt=False)
def nine(source, scaling, w, extents, room, add, out) -> None:  # type: ignore[no-untyped-def]
    """3 x 3 convolution of a register into ``out``."""
    tiles = (extents.width + 1) // 2 * ((extents.height + 1) // 2)
    for plane in range(extents.planes):
        _surround(source, scaling, extents, plane, room.inputs)
        for first in range(0, tiles, AT_ONCE):
            count = min(AT_ONCE, tiles - first)
            _cut(extents, room, first, count)
            _multiply(w.pairs, extents, room, PARTS, count)
            _join(w, extents, room, plane, first, count, add, out)


@compiled(_nrt=False)
def one(source, scaling, w, extents, room, add, out) -> None:  # type: ignore[no-untyped-def]
    """1 x 1 convolution of a register into ``out``."""
    inputs, outputs = extents.inputs, extents.outputs
    pixels = extents.planes * extents.height * extents.width
    for first in range(0, pixels, AT_ONCE):
        count = min(AT_ONCE, pixels - first)
        for k in range(0, count * inputs, LANES):
            narrow(source, first * inputs + k, scaling, room.parts, k)
        _multiply(w.pairs, extents, room, 1, count)
        for t in range(count):
            for o in range(0, outputs, LANES // 2):
                to = (first + t) * outputs + o
                requantise(room.sums, (o, t * outputs + o), w, add, out, to)
