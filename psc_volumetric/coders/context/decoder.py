"""Reading a context stream, slice after slice. Part of the format (SPEC section 15)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.bitstream.wire import FieldReader
from psc_volumetric.coders.context.given import (
    NOTHING,
    Cells,
    Given,
    Window,
    given_cells,
    given_reference,
)
from psc_volumetric.coders.context.layout import FRONT, MAX_PADDED, MAX_SHIFT, PAD
from psc_volumetric.coders.context.networks import NO_NETWORK, known_networks, network
from psc_volumetric.coders.context.occurring import Levels
from psc_volumetric.coders.context.predictors import read_predictors
from psc_volumetric.coders.context.state import Coding, Settings
from psc_volumetric.coders.context.value_list import LevelTable
from psc_volumetric.errors import (
    FormatError,
    LimitExceededError,
    ParameterError,
    UnsupportedVersionError,
)

__all__ = ["LIGHT", "LISTED", "MIXED", "NEURAL", "IntegerDecoder", "given_in", "shape_problem"]

Integers = NDArray[np.int64]
Shape = tuple[int, int, int]
AnyLevels = Levels | LevelTable
MIXED, LISTED, LIGHT, NEURAL = 1, 2, 4, 8  # bits of the first byte


class IntegerDecoder:
    """The integers of one stream, from the first slice on as far as they are wanted.

    Parameters
    ----------
    data : bytes
        One stream, whole.
    shape : (z, y, x)
        Checked by the caller against its limits.
    what : str
        Name of the segment in messages.
    may_list, may_foresee : bool
        Whether it may have a list of values, and name a network.

    Attributes
    ----------
    done : int
        Slices that were given out.

    Raises
    ------
    FormatError, LimitExceededError
        See :func:`psc_volumetric.coders.context.coder.decode_integers`, as for all methods.

    Notes
    -----
    Not for several threads at once. After an error it is of no use any more.
    """

    def __init__(
        self,
        data: bytes,
        shape: Shape,
        *,
        what: str,
        may_list: bool = True,
        may_foresee: bool = False,
    ) -> None:
        problem = shape_problem(shape)
        if problem is not None:
            raise LimitExceededError(f"{what}: {problem}", kind="limit")
        self.done = 0
        self._shape, self._what = shape, what
        fields = FieldReader(data, what=what)
        (self._variant,) = fields.unpack("B")
        model = LIGHT | NEURAL * may_foresee if self._variant & MIXED else 0
        is_both = self._variant & LIGHT and self._variant & NEURAL
        if self._variant & ~(MIXED | LISTED * may_list | model) or is_both:
            raise FormatError(f"{what}: unknown context stream {self._variant}", kind="bad-payload")
        self._levels: AnyLevels
        if self._variant & LISTED:
            self._levels = LevelTable.read(fields, self._list, what)
        else:
            self._levels = Levels.read(fields, what)
        self._rest = fields.raw(len(data) - fields.offset)
        self._coding: Coding | None = None
        self._packed: Integers | None = None

    def _list(self, data: bytes, shape: Shape) -> Integers:
        return IntegerDecoder(data, shape, what=self._what, may_list=False).slices(shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes in memory between two calls."""
        coding = 0 if self._coding is None else self._coding.nbytes
        return coding + len(self._rest) + (0 if self._packed is None else self._packed.nbytes)

    @property
    def network(self) -> int | None:
        """Number of the network that it names; None where it names none, or has begun."""
        names = self._variant & MIXED and self._variant & NEURAL and len(self._rest) > 1
        return self._rest[1] if names else None

    def window(self, end: int) -> Window:
        """The slices that are coded next, up to ``end``."""
        return Window(self.done, end, self._shape[0])

    def slices(
        self,
        end: int,
        *,
        reference: NDArray[np.integer] | None = None,
        cells: Cells | None = None,
    ) -> Integers:
        """Values of the slices from ``done`` to ``end``, which is above it.

        Parameters
        ----------
        end : int
        reference, cells : optional
            What the encoder was given, of the slices ``window(end).seen``.

        Returns
        -------
        (end - done, y, x) int64
            The check bits behind the last slice were compared if it is among them.
        """
        window = self.window(end)
        if self._variant & MIXED:
            shape = (window.seen.stop - window.seen.start, *self._shape[1:])
            given = given_in(self._levels, shape, window, reference, cells, self._what)
            index = self._coded(window, given)
        else:
            index = self._unpacked()[window.begin : window.end]
        self.done = end
        if end == self._shape[0]:
            self._coding, self._packed, self._rest = None, None, b""
        return self._levels.values(index)

    def _coded(self, window: Window, given: Given) -> Integers:
        if self._coding is None:
            self._coding = self._begun(given)
        index = self._coding.code(window, given)
        if index is None:
            raise FormatError(
                f"{self._what}: the context stream does not end with its check bits",
                kind="bad-symbol",
                hint="the stream is cut or damaged, run `psc-archive verify`",
            )
        return index.astype(np.int64)

    def _begun(self, given: Given) -> Coding:
        fields, what = FieldReader(self._rest, what=self._what), self._what
        is_light, top, depth = self._variant & LIGHT > 0, self._levels.top, self._shape[0]
        (shift,) = fields.unpack("B")
        if shift > MAX_SHIFT or top == 0:
            raise FormatError(f"{what}: impossible header of a context stream", kind="bad-payload")
        known = NO_NETWORK
        if self._variant & NEURAL:
            (number,) = fields.unpack("B")
            if number >= known_networks():
                raise UnsupportedVersionError(
                    f"{what}: unknown network {number} in a context stream",
                    kind="unknown-network",
                    hint=NEWER,
                )
            known = network(number)
        predictors = read_predictors(fields, len(given.offsets), depth > 1, is_light, what)
        body = np.frombuffer(fields.raw(len(self._rest) - fields.offset), np.uint8).copy()
        self._rest = b""
        settings = Settings(self._shape, top, shift, predictors, is_light, known)
        return Coding(settings, body, given.offsets, decode=True)

    def _unpacked(self) -> Integers:
        if self._packed is None:
            data, self._rest = self._rest, b""
            self._packed = _decode_packed(data, self._levels.top, self._shape, self._what)
        return self._packed


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


def shape_problem(shape: tuple[int, ...]) -> str | None:
    """Why no segment can have this shape; None if one can."""
    if len(shape) != 3 or min(shape) < 1:
        return f"a segment has three axes and a voxel, found the shape {shape!r}"
    padded = math.prod(n + p for n, p in zip(shape, (FRONT, 2 * PAD, 2 * PAD), strict=True))
    if padded > MAX_PADDED:
        return f"a segment has at most {MAX_PADDED} voxels with its padding, found {padded}"
    return None


def given_in(
    levels: AnyLevels,
    shape: tuple[int, ...],
    window: Window,
    reference: NDArray[np.integer] | None,
    cells: Cells | None,
    what: str,
) -> Given:
    """What is known beforehand of a window, in coded integers; ``shape`` is what it must have."""
    found = cells.least if cells is not None else reference
    if found is None:
        return NOTHING
    if found.shape != shape:
        raise ParameterError(
            f"what is given must have the shape {shape!r}, found {found.shape!r}",
            kind="bad-shape",
        )
    if cells is not None:
        return given_cells(levels, cells, window, what=what)
    return given_reference(levels, found, window)
