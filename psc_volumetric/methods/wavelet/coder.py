"""Coefficients of a volume as one byte string. Part of the format (SPEC section 17).

The loop over coefficients is in :mod:`psc_volumetric.methods.wavelet.kernel`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader
from psc_volumetric.entropy.binary_tables import decision_tables
from psc_volumetric.errors import FormatError, NumericalError
from psc_volumetric.methods.wavelet.transform import bands, full_depth

if TYPE_CHECKING:
    from psc_volumetric.entropy.binary import Words

__all__ = ["Model", "decode_steps", "encode_steps", "new_model"]

Integers = NDArray[np.int64]
Steps = NDArray[np.int32]
Triple = tuple[int, int, int]

ROOM = 8  # bytes of output per coefficient, more than any takes
SPARE = 64


class Model(NamedTuple):
    """Memory of the compiled coder; see SPEC section 17.

    ``steps`` (z, y, x) are the coefficients; ``boxes`` to ``kinds`` describe the bands, the rest
    belongs to the binary coder.
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


def new_model(steps: Steps, depth: int, words: Words | None = None) -> Model:
    """Fresh memory around a stream, if there is one."""
    from psc_volumetric.entropy.binary import CONSTANT_INPUT, Words
    from psc_volumetric.methods.wavelet import kernel

    z, y, x = steps.shape
    found = bands((z, y, x), depth)
    siblings = np.full((len(found), 2), -1, np.int64)
    halved = np.zeros((len(found), 2), np.int64)
    for number, band in enumerate(found):
        siblings[number, : len(band.siblings)] = band.siblings
        if band.parent >= 0:
            coarser = found[band.parent].splits
            halved[number] = [coarser[axis] > band.splits[axis] for axis in (1, 2)]
    tables = decision_tables()
    inputs = np.zeros(max(kernel.INPUTS, kernel.SIGN_INPUTS + 1), np.int64)
    inputs[kernel.INPUTS - 1] = CONSTANT_INPUT
    of_signs = [kernel.first_sign_weights(number) for number in range(kernel.SIGN_SETS)]
    return Model(
        steps,
        np.array([[n for part in band.box for n in part] for band in found], np.int64),
        np.array([band.parent for band in found], np.int64),
        halved,
        siblings,
        np.array([band.kind for band in found], np.int64),
        np.array([kernel.sign_set(b.kind, b.splits[1], z_high=b.high[0]) for b in found], np.int64),
        np.zeros(kernel.PARTS, np.int64),
        Words.over(np.zeros(0, np.uint8), decode=False) if words is None else words,
        np.zeros(kernel.CONTEXT_VALUES * kernel.NODES, np.int32),
        np.array([*kernel.FIRST_WEIGHTS * kernel.MIXERS, *itertools.chain(*of_signs)], np.int32),
        inputs,
        np.zeros(kernel.COUNTERS, np.int64),
        tables.squash,
        tables.stretch,
        tables.rate,
    )


def _code(model: Model) -> int:
    """Length of the stream, or -1."""
    from psc_volumetric.entropy.binary import FAILED, finish, start
    from psc_volumetric.methods.wavelet.kernel import code_band

    start(model.words)
    for band in range(len(model.boxes)):
        code_band(model, band)
        if model.words.coder[FAILED]:
            return -1
    return int(finish(model.words))


def encode_steps(steps: Steps, depth: int) -> bytes:
    """Stream of (z, y, x) numbers of quantiser steps; z is split ``depth`` times.

    Raises
    ------
    NumericalError
        A number is too large, or all together take too many bytes (kind ``"too-fine"``).
    """
    from psc_volumetric.entropy.binary import Words
    from psc_volumetric.methods.wavelet.kernel import LARGEST

    if int(np.abs(steps).max(initial=0)) > LARGEST:
        raise NumericalError(
            f"wavelet: expected coefficients of at most {LARGEST} steps, found "
            f"{int(np.abs(steps).max())}",
            kind="too-fine",
            hint="ask for a larger error",
        )
    room = np.zeros(ROOM * steps.size + SPARE, np.uint8)
    model = new_model(steps.copy(), depth, Words.over(room, decode=False))
    length = _code(model)
    if length < 0:
        raise NumericalError(
            f"wavelet: {steps.size} coefficients take more than {room.size} bytes",
            kind="too-fine",
            hint="ask for a larger error",
        )
    return bytes([depth]) + room[:length].tobytes()


def decode_steps(data: bytes, shape: Triple, *, what: str) -> tuple[Steps, int]:
    """Numbers of quantiser steps (z, y, x) of a stream, and the splits of z.

    Parameters
    ----------
    data : bytes
        One stream, whole.
    shape : (z, y, x)
        Extents, checked by the caller against its limits.
    what : str
        Place, for messages.

    Raises
    ------
    FormatError
        Cut or damaged (kinds ``"truncated"``, ``"bad-payload"``, ``"bad-symbol"``). Damage that
        leaves an intact stream of other values is for the caller's checksum to find.
    """
    from psc_volumetric.entropy.binary import Words

    fields = FieldReader(data, what=what)
    (depth,) = fields.unpack("B")
    if depth > full_depth(shape[0]):
        raise FormatError(
            f"{what}: expected at most {full_depth(shape[0])} splits of z, found {depth}",
            kind="bad-payload",
        )
    body = np.frombuffer(data, np.uint8)[1:].copy()
    model = new_model(np.zeros(shape, np.int32), depth, Words.over(body, decode=True))
    if _code(model) != len(body):
        raise FormatError(
            f"{what}: the stream does not end with its check bits",
            kind="bad-symbol",
            hint="the stream is cut or damaged, run `psc-archive verify`",
        )
    return model.steps, depth
