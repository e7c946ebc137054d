"""Memory of the compiled context coder, and its way through a segment. Part of the format.

SPEC section 15. All that is known between two slices lies in arrays: a segment is coded slice after
slice, in as many calls as its user likes, and by the same loop when it is written and when it is
read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.context import kernel
from psc_volumetric.coders.context.given import Given, Window
from psc_volumetric.coders.context.layout import (
    EXPERTS,
    FRONT,
    NARROW,
    PAD,
    WORK_SIZE,
    neighbours_of,
)
from psc_volumetric.coders.context.network import Network
from psc_volumetric.coders.context.networks import NO_NETWORK
from psc_volumetric.entropy import binary as coder
from psc_volumetric.entropy import decisions
from psc_volumetric.entropy.binary import Words
from psc_volumetric.entropy.binary_tables import decision_tables

__all__ = ["Coding", "Model", "Settings"]

Integers = NDArray[np.int64]
Signed = NDArray[np.signedinteger]
Shape = tuple[int, int, int]
FAILED = -1


class Model(NamedTuple):
    """Memory of the compiled coder, all of it allocated by :class:`Coding`; SPEC section 15.

    ``volume``, ``given``, ``least`` and ``most`` are of the slices that are coded together.
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
    network: Network
    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    rate: NDArray[np.int32]
    bend: NDArray[np.int32]
    rise: NDArray[np.int32]


class Settings(NamedTuple):
    """What a stream says of its model before the code bytes.

    Attributes
    ----------
    shape : (z, y, x)
        Of the segment.
    top : int
        Largest coded integer.
    shift : int
        Bits that differences lose before the online predictors see them.
    predictors : (first, others)
        Fitted coefficients.
    is_light : bool
        Which model it is.
    network : Network
        With room of its own for this segment; an empty one where the stream names none.
    """

    shape: Shape
    top: int
    shift: int
    predictors: tuple[Integers, Integers]
    is_light: bool
    network: Network = NO_NETWORK

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        """Of the coded integers in memory."""
        return np.dtype(np.int32 if self.top < NARROW else np.int64)


class Coding:
    """A segment that is coded slice after slice.

    Parameters
    ----------
    settings : Settings
    data : (n,) uint8
        Code bytes, or room for them.
    offsets : (e, 3) int64
        Where around a voxel what is given is looked at.
    decode : bool

    Attributes
    ----------
    done : int
        Slices that are coded.
    size : int
        Bytes of code, once the last one is.
    """

    def __init__(
        self, settings: Settings, data: NDArray[np.uint8], offsets: Integers, *, decode: bool
    ) -> None:
        self.settings, self.done, self.size = settings, 0, 0
        _, y, x = settings.shape
        self._frame = (y + 2 * PAD, x + 2 * PAD)
        self._last = np.zeros((FRONT, *self._frame), settings.dtype)
        plane, is_light = math.prod(self._frame), settings.is_light
        strides = np.array([plane, self._frame[1], 1], np.int64)
        weights = np.full((3 * kernel.WEIGHT_SETS, decisions.INPUTS), 8000, np.int32)
        weights[:, 0], weights[:, -1] = 48000 if is_light else 32000, 0
        nodes = sum(kernel.CONTEXTS) * decisions.NODES

        def zeros(count: int) -> Integers:
            return np.zeros(count, np.int64)

        none = zeros(0)
        self._model = Model(
            none, np.zeros(2 * plane, settings.dtype), np.zeros(WORK_SIZE, settings.dtype),
            Words.over(data, decode=decode), neighbours_of(is_light)[0] @ strides,
            *settings.predictors, none, offsets @ strides, none, none,
            np.zeros(2 * plane * EXPERTS, np.int32), np.zeros(EXPERTS, np.int32),
            zeros(EXPERTS), zeros(2 * kernel.BIAS_CONTEXTS), zeros(2 * kernel.BIAS_CONTEXTS),
            np.full(nodes, coder.NEW_COUNTER, np.int32), weights.reshape(-1),
            settings.network, *decision_tables(),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes in memory between two calls, without tables that all have in common."""
        model = self._model
        own = (*model.words, model.final, model.errors, model.counters, model.weights)
        return int(sum(part.nbytes for part in own) + self._last.nbytes)

    def code(self, window: Window, given: Given, values: Integers | None = None) -> Signed | None:
        """Code the next slices.

        Parameters
        ----------
        window : Window
            Begins with what is not done.
        given : Given
            Of the window.
        values : (z, y, x) int64, optional
            Coded integers of the window, when writing.

        Returns
        -------
        (z, y, x) array, or None
            The coded integers; None for damage, and for code bytes without room.
        """
        count = window.end - window.begin
        volume = np.zeros((FRONT + count, *self._frame), self.settings.dtype)
        volume[:FRONT] = self._last
        inside = volume[FRONT:, PAD:-PAD, PAD:-PAD]
        if values is not None:
            inside[...] = values
        none = np.zeros(0, np.int64)
        least, most = (none, none) if given.cells is None else given.cells
        model = self._model._replace(
            volume=volume.reshape(-1), given=given.volume.reshape(-1),
            least=least.reshape(-1), most=most.reshape(-1),
        )  # fmt: skip
        settings = self.settings
        size = kernel.code_segment(
            model, *window[:2], *settings.shape, settings.top, settings.shift, settings.is_light
        )
        self.done = window.end
        self._last = volume[-FRONT:].copy()
        self.size = int(size)
        return None if size == FAILED else inside
