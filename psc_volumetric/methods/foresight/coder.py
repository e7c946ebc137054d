"""Coefficients of a volume as one byte string, foreseen by a network. Part of the format.

SPEC section 17.8. Scales come one after the other, the coarsest first, so that the network has seen
all planes of a scale before the next one is coded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.foresight.guess import Seer
from psc_volumetric.methods.wavelet.coder import ROOM, SPARE, Integers, Steps, Triple
from psc_volumetric.methods.wavelet.coder import new_model as plain_model
from psc_volumetric.methods.wavelet.transform import Band, bands, full_depth

if TYPE_CHECKING:
    from psc_volumetric.entropy.binary import Words

__all__ = ["Model", "decode_foreseen", "encode_foreseen", "new_model"]


class Model(NamedTuple):
    """Memory of the compiled coder: that of the wavelet's, and what is foreseen.

    ``guess`` and ``halves`` (z, y, x) are numbers of steps with 12 fraction bits and half octaves
    of the network's deviation; ``voices`` is how often signs foreseen so clearly were right.
    """

    steps: Steps
    boxes: Integers
    parents: Integers
    halved: Integers
    siblings: Integers
    kinds: Integers
    signs: Integers
    parts: Integers
    words: Words
    counters: NDArray[np.int32]
    weights: NDArray[np.int32]
    inputs: Integers
    slots: Integers
    squash: NDArray[np.int32]
    stretch: NDArray[np.int32]
    rate: NDArray[np.int32]
    guess: NDArray[np.int32]
    halves: NDArray[np.uint8]
    voices: Integers


def new_model(steps: Steps, depth: int, words: Words) -> Model:
    """Fresh memory around a stream; nothing is foreseen."""
    from psc_volumetric.entropy.binary import CONSTANT_INPUT
    from psc_volumetric.methods.foresight import kernel
    from psc_volumetric.methods.wavelet.kernel import NODES, SIGN_SETS

    inputs = np.zeros(max(kernel.INPUTS, kernel.SIGN_WIDTH), np.int64)
    inputs[kernel.INPUTS - 1] = CONSTANT_INPUT
    of_signs = [kernel.first_sign_weights(number) for number in range(SIGN_SETS)]
    weights = [*kernel.FIRST_WEIGHTS * kernel.MIXERS, *itertools.chain(*of_signs)]
    fresh = {
        "counters": np.zeros(kernel.CONTEXT_VALUES * NODES, np.int32),
        "weights": np.array(weights, np.int32),
        "inputs": inputs,
        "slots": np.zeros(kernel.COUNTERS + 1, np.int64),
        "guess": np.zeros(steps.shape, np.int32),
        "halves": np.zeros(steps.shape, np.uint8),
        "voices": np.full(4 * kernel.VOICES, 1 << 15, np.int64),
    }
    return Model(**(plain_model(steps, depth, words)._asdict() | fresh))


def _rounds(found: tuple[Band, ...]) -> Iterator[tuple[int, list[int]]]:
    """Splits of y and x, and numbers of the bands that have so many; 0 for the coarsest of all."""
    scales = [max(band.splits[1:]) if band.kind else 0 for band in found]
    for splits in (0, *range(max(scales), 0, -1)):
        yield splits, [number for number, scale in enumerate(scales) if scale == splits]


def _code(model: Model, depth: int, seer: Seer) -> int:
    """Length of the stream, or -1."""
    from psc_volumetric.entropy.binary import FAILED, finish, start
    from psc_volumetric.methods.foresight.kernel import code_foreseen_band

    start(model.words)
    z, y, x = model.steps.shape
    for splits, numbers in _rounds(bands((z, y, x), depth)):
        glimpse = seer.glimpse(splits)
        if glimpse is not None:
            for guess in seer.foresee(model.steps, depth, glimpse):
                model.guess[guess.box], model.halves[guess.box] = guess.steps, guess.halves
        for number in numbers:
            code_foreseen_band(model, number)
            if model.words.coder[FAILED]:
                return -1
    return int(finish(model.words))


def encode_foreseen(steps: Steps, depth: int, seer: Seer) -> bytes | None:
    """Stream of (z, y, x) numbers of quantiser steps; None if it would be longer than any is.

    Parameters
    ----------
    steps : (z, y, x) int32
        At most `LARGEST` in magnitude, as those that the wavelet's coder takes.
    depth : int
        Splits of z.
    seer : Seer
    """
    from psc_volumetric.entropy.binary import Words

    room = np.zeros(ROOM * steps.size + SPARE, np.uint8)
    model = new_model(steps.copy(), depth, Words.over(room, decode=False))
    length = _code(model, depth, seer)
    return None if length < 0 else bytes([depth]) + room[:length].tobytes()


def decode_foreseen(data: bytes, shape: Triple, seer: Seer, *, what: str) -> tuple[Steps, int]:
    """Numbers of quantiser steps (z, y, x) of a stream, and the splits of z.

    Parameters and errors are those of :func:`psc_volumetric.methods.wavelet.coder.decode_steps`.
    """
    from psc_volumetric.entropy.binary import Words

    (depth,) = FieldReader(data, what=what).unpack("B")
    if depth > full_depth(shape[0]):
        raise FormatError(
            f"{what}: expected at most {full_depth(shape[0])} splits of z, found {depth}",
            kind="bad-payload",
        )
    body = np.frombuffer(data, np.uint8)[1:].copy()
    model = new_model(np.zeros(shape, np.int32), depth, Words.over(body, decode=True))
    if _code(model, depth, seer) != len(body):
        raise FormatError(
            f"{what}: the stream does not end with its check bits",
            kind="bad-symbol",
            hint="the stream is cut or damaged, run `psc-archive verify`",
        )
    return model.steps, depth
