"""Volumes within a largest error, interpolated from coarse to fine. Part of the format.

SPEC section 16. A segment (z, y, x) of integers becomes one byte string that decodes alone to
integers no farther than a bound from the source. The loop over voxels is in
:mod:`psc_volumetric.coders.interpolation.kernel`; this module has the stream around it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.interpolation.order import (
    CONTEXT_NEIGHBOURS,
    MAX_PASSES,
    MAX_TAPS,
    MAX_VOXELS,
    Lattice,
    lattices,
    neighbours,
)
from psc_volumetric.entropy.binary_tables import decision_tables
from psc_volumetric.errors import FormatError, LimitExceededError

if TYPE_CHECKING:
    from psc_volumetric.entropy.binary import Words

__all__ = [
    "MAX_BOUND",
    "MAX_COEFFICIENT",
    "MAX_CUT",
    "MAX_TOP",
    "Model",
    "Pass",
    "Stream",
    "code_pass",
    "decode_interpolated",
    "new_model",
]

Integers = NDArray[np.int64]
Triple = tuple[int, int, int]

MAX_BOUND = 1 << 24
MAX_TOP = (1 << 31) - 1
MAX_CUT = 14
MAX_COEFFICIENT = (1 << 18) - 1


class Pass(NamedTuple):
    """How one pass is coded.

    Attributes
    ----------
    half : int
        Largest error of its voxels.
    taps : int
        Neighbours that predict.
    cut : int
        Fraction bits of the coefficients.
    """

    half: int
    taps: int
    cut: int


class Stream(NamedTuple):
    """What stands before the code bytes.

    Attributes
    ----------
    fineness : int
        Bins of a grid index to either side of the middle one: an index is 2 fineness + 1 integers.
    low, top : int
        The integers are low .. low + top.
    axes : tuple of int
        Axes whose strides are halved, in order.
    passes : tuple of Pass
        The first, then one for each axis.
    """

    fineness: int
    low: int
    top: int
    axes: tuple[int, ...]
    passes: tuple[Pass, ...]

    @property
    def turns(self) -> range:
        """For each pass how many follow."""
        return range(len(self.axes), -1, -1)

    def write(self, out: FieldWriter) -> None:
        """Append the fields."""
        for number in (self.fineness, self.low, self.top, len(self.axes)):
            out.varint(number)
        for axis in self.axes:
            out.pack("B", axis)
        for one in self.passes:
            out.varint(one.half)
            out.pack("BB", one.taps, one.cut)

    @classmethod
    def read(cls, fields: FieldReader, what: str) -> Stream:
        """Parse and check."""
        fineness = fields.varint(limit=MAX_BOUND, name="fineness")
        low = fields.varint(limit=MAX_TOP, name="smallest integer")
        top = fields.varint(limit=MAX_TOP - low, name="span of the integers")
        count = fields.varint(limit=MAX_PASSES - 1, name="passes")
        axes = tuple(fields.unpack(f"{count}B")) if count else ()
        passes = []
        for _ in range(count + 1):
            half = fields.varint(limit=fineness, name="largest error of a pass")
            passes.append(Pass(half, *fields.unpack("BB")))
        wrong = [one for one in passes if not (one.taps <= MAX_TAPS and one.cut <= MAX_CUT)]
        if wrong or any(axis > 2 for axis in axes):
            raise FormatError(
                f"{what}: an interpolated segment with axes {axes} and passes {wrong}",
                kind="bad-payload",
            )
        return cls(fineness, low, top, axes, tuple(passes))


class Model(NamedTuple):
    """Memory of the compiled coder; see SPEC section 16.

    ``source``, ``volume`` and ``sizes`` (int32, C order) hold the values to write, those decoded
    and the sizes of what was added to their predictions. ``extent`` to ``coefficients`` belong to
    a pass and its neighbours, the rest to the binary coder.
    """

    source: NDArray[np.int32]
    volume: NDArray[np.int32]
    sizes: NDArray[np.int32]
    extent: Integers
    pitch: Integers
    pair: Integers
    steps: Integers
    flat: Integers
    is_later: NDArray[np.uint8]
    places: Integers
    coefficients: Integers
    words: Words
    counters: NDArray[np.int32]
    weights: NDArray[np.int32]
    inputs: Integers
    slots: Integers
    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    rate: NDArray[np.int32]

    def on(self, lattice: Lattice, shape: Triple, taps: int) -> Model:
        """The same memory, for a pass that is predicted from ``taps`` neighbours."""
        count = max(taps, CONTEXT_NEIGHBOURS)
        steps = neighbours(lattice)[:count]
        pitch = np.array([shape[1] * shape[2], shape[2], 1]) * np.array(lattice.strides)
        pair = np.zeros(2, np.int64)
        later = np.ones(count, np.uint8)
        if lattice.axis < 3:
            unit = np.eye(3, dtype=np.int64)[lattice.axis]
            pair = np.flatnonzero((np.abs(steps) == unit).all(axis=1))
            later = (steps[:, lattice.axis] % 2 == 0).astype(np.uint8)
        return self._replace(
            extent=np.array(lattice.extent, np.int64),
            pitch=pitch.astype(np.int64),
            pair=pair.astype(np.int64),
            steps=np.ascontiguousarray(steps),
            flat=steps @ pitch.astype(np.int64),
            is_later=later,
            places=np.zeros(count, np.int64),
            coefficients=np.zeros(taps, np.int64),
        )


def new_model(source: NDArray[np.int32], voxels: int, words: Words) -> Model:
    """Fresh memory around a stream."""
    from psc_volumetric.coders.interpolation import kernel
    from psc_volumetric.entropy.binary import CONSTANT_INPUT, NEW_COUNTER

    tables = decision_tables()
    weights = np.full((kernel.MIXERS, kernel.INPUTS), kernel.FIRST_WEIGHT, np.int32)
    weights[:, -1] = 0
    nodes = kernel.COUNTERS * kernel.CONTEXT_SIZE * kernel.NODES
    inputs = np.zeros(kernel.INPUTS, np.int64)
    inputs[-1] = CONSTANT_INPUT
    none = np.zeros(0, np.int64)
    return Model(
        source, np.zeros(voxels, np.int32), np.zeros(voxels, np.int32),
        none, none, none, np.zeros((0, 3), np.int64), none, np.zeros(0, np.uint8), none, none,
        words, np.full(nodes, NEW_COUNTER, np.int32),
        weights.reshape(-1), inputs, np.zeros(kernel.COUNTERS, np.int64),
        tables.squash, tables.stretch, tables.rate,
    )  # fmt: skip


def code_pass(model: Model, lattice: Lattice, stream: Stream, one: Pass, turn: int) -> None:
    """Code the coefficients in ``model`` and the voxels of a pass, as `Model.on` prepared them."""
    from psc_volumetric.coders.interpolation import kernel

    kernel.code_coefficients(model)
    kernel.code_pass(model, lattice.axis, stream.top, one.cut, one.half, turn)


def decode_interpolated(data: bytes, shape: Triple, *, what: str) -> tuple[Integers, int]:
    """Integers of a segment and their fineness.

    Parameters
    ----------
    data : bytes
        One stream, whole.
    shape : (z, y, x)
        Extents, checked by the caller against its limits.
    what : str
        Name of the segment in messages.

    Returns
    -------
    (z, y, x) int64, int
        The integers, 0 .. 2^31 - 1, and how many of them lie between the middle of a grid index
        and its end.

    Raises
    ------
    FormatError
        The bytes are not a stream of this shape (kinds ``truncated``, ``limit``, ``bad-payload``,
        ``bad-symbol``). Damage that leaves an intact stream of other values is for the caller's
        checksum to find.
    """
    from psc_volumetric.entropy.binary import FAILED, Words, finish, start

    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise LimitExceededError(
            f"{what}: expected at most {MAX_VOXELS} voxels, found {shape}", kind="limit"
        )
    fields = FieldReader(data, what=what)
    stream = Stream.read(fields, what)
    visited = lattices(shape, stream.axes)
    if visited is None:
        raise FormatError(f"{what}: {shape} cannot have passes {stream.axes}", kind="bad-payload")
    body = np.frombuffer(fields.raw(len(data) - fields.offset), np.uint8).copy()
    words = Words.over(body, decode=True)
    model = new_model(np.zeros(1, np.int32), math.prod(shape), words)
    start(words)
    for left, lattice, one in zip(stream.turns, visited, stream.passes, strict=True):
        code_pass(model.on(lattice, shape, one.taps), lattice, stream, one, left)
        if words.coder[FAILED]:
            break
    if finish(words) != len(body):
        raise FormatError(
            f"{what}: the stream does not end with its check bits",
            kind="bad-symbol",
            hint="the stream is cut or damaged, run `psc-archive verify`",
        )
    values: Integers = model.volume.astype(np.int64).reshape(shape) + stream.low
    return values, stream.fineness
