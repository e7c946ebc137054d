"""The range coder in compiled loops, for numbers whose probabilities change with each of them.

Part of the format (SPEC sections 7.1 and 15.4): the same coder as that of constriction, which codes
lists of symbols whose probabilities are known before (`entropy.symbols`). Writing and reading are
one code path, chosen by ``w.coder[DECODE]``; ``w`` are the :class:`Words` of a stream. Numba checks
no bounds: every index is bounded by construction, whatever the bytes are.

Functions take what they need and no more: each array that is handed on is seven numbers to the
compiler, in every call, and what takes only ``w`` is compiled once for all coders.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric import machine_code

__all__ = [
    "DECODE",
    "FAILED",
    "LOW",
    "STATE_SIZE",
    "Words",
    "compiled",
    "end",
    "inlined",
    "inner",
    "plain_bits",
    "scale_of",
    "start",
    "take",
]

LOW, RANGE, CACHE, PENDING, CARRY, POSITION, DECODE, FAILED = range(8)
STATE_SIZE = 8
WORD = np.uint64(32)  # bits
LARGEST_WORD = np.uint64(0xFFFFFFFF)
ONE_WORD = 4  # bytes


class Words(NamedTuple):
    """One stream of a coder, as machine code knows it.

    Attributes
    ----------
    data : (n,) uint8
        Bytes of the words: those to read, or room for those to write.
    coder : (STATE_SIZE,) int64
        The state; numbers of 64 bits without sign lie in it bit for bit.
    check : (1,) int64
        What `entropy.binary.note` makes of the values so far.
    """

    data: NDArray[np.uint8]
    coder: NDArray[np.int64]
    check: NDArray[np.int64]

    @classmethod
    def over(cls, data: NDArray[np.uint8], *, decode: bool) -> Words:
        """A stream that begins with ``data``, which are its bytes or room for them."""
        words = cls(data, np.zeros(STATE_SIZE, np.int64), np.zeros(1, np.int64))
        words.coder[DECODE] = decode
        return words


def compiled(function: Any = None, **options: Any) -> Any:
    """Compile to machine code that holds no lock and counts no references."""
    decorate = machine_code.compiled(error_model="numpy", _nrt=False, **options)
    return decorate if function is None else decorate(function)


def inner(function: Any = None, **options: Any) -> Any:
    """Compile for other loops only: without what Python would call, it takes half the time."""
    return compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)


def inlined(function: Any) -> Any:
    """Compile into every loop that calls it, with nothing between that costs a call."""
    return inner(forceinline=True)(function)


@compiled
def start(w):  # type: ignore[no-untyped-def]
    """Begin a stream; when reading, ``LOW`` holds what lies between the words and the low end."""
    w.coder[RANGE] = -1  # 2^64 - 1
    w.coder[CACHE] = -1
    if w.coder[DECODE]:
        for _ in range(2):
            w.coder[LOW] = (w.coder[LOW] << 32) | _next_word(w)


@inner
def _next_word(w):  # type: ignore[no-untyped-def]
    """The next word; zero once where they end, since an encoder may leave out the last."""
    position = w.coder[POSITION]
    w.coder[POSITION] = position + ONE_WORD
    word = 0
    if position + ONE_WORD <= w.data.shape[0]:
        for i in range(ONE_WORD):
            word |= int(w.data[position + i]) << (8 * i)
    elif position != w.data.shape[0]:
        w.coder[FAILED] = 1
    return word


@inner
def _put(w, word):  # type: ignore[no-untyped-def]
    position = w.coder[POSITION]
    if position + ONE_WORD <= w.data.shape[0]:
        for i in range(ONE_WORD):
            w.data[position + i] = (word >> (8 * i)) & 255
        w.coder[POSITION] = position + ONE_WORD
    else:
        w.coder[FAILED] = 1


@inner
def _put_held(w):  # type: ignore[no-untyped-def]
    """Give out the words that were held back, now that no carry can reach them any more."""
    if w.coder[CACHE] >= 0:
        _put(w, (w.coder[CACHE] + w.coder[CARRY]) & 0xFFFFFFFF)
    while w.coder[PENDING] > 0:
        _put(w, (0xFFFFFFFF + w.coder[CARRY]) & 0xFFFFFFFF)
        w.coder[PENDING] -= 1


@inner
def _shift_low(w):  # type: ignore[no-untyped-def]
    """Take the top word off ``LOW``; it is held back while a carry could still reach it."""
    low = np.uint64(w.coder[LOW])
    top = low >> WORD
    if w.coder[CARRY] or top != LARGEST_WORD:
        _put_held(w)
        w.coder[CACHE], w.coder[CARRY] = np.int64(top), 0
    else:
        w.coder[PENDING] += 1
    w.coder[LOW] = np.int64(low << WORD)


@inner(inline="always")
def scale_of(w, precision):  # type: ignore[no-untyped-def]
    """What one of 2^``precision`` parts of the range is, as uint64."""
    return np.uint64(w.coder[RANGE]) >> np.uint64(precision)


@inner(inline="always")
def take(w, below, part):  # type: ignore[no-untyped-def]
    """Go on with ``part`` of the range, above ``below``; both uint64, in units of the range."""
    low = np.uint64(w.coder[LOW])
    if w.coder[DECODE]:
        low -= below
    else:
        low += below
        w.coder[CARRY] |= np.int64(low < below)
    w.coder[LOW], w.coder[RANGE] = np.int64(low), np.int64(part)
    if part <= LARGEST_WORD:
        w.coder[RANGE] = np.int64(part << WORD)
        if w.coder[DECODE]:
            w.coder[LOW] = (w.coder[LOW] << 32) | _next_word(w)
        else:
            _shift_low(w)


@inner(inline="always")
def plain_bits(w, bits, count):  # type: ignore[no-untyped-def]
    """Code ``count`` equally likely bits, 1 .. 16 of them, in one step."""
    scale = scale_of(w, count)
    if w.coder[DECODE]:
        bits = np.int64(np.uint64(w.coder[LOW]) // scale)
        if bits >> count:
            w.coder[FAILED] = 1
            bits = 0
    take(w, np.uint64(bits) * scale, scale)
    return bits


@compiled
def end(w):  # type: ignore[no-untyped-def]
    """End a stream; its length in bytes, or -1 if it is damaged or too long."""
    if w.coder[DECODE]:
        if w.coder[POSITION] < w.data.shape[0]:
            w.coder[FAILED] = 1
        return -1 if w.coder[FAILED] else w.data.shape[0]
    low = np.uint64(w.coder[LOW])
    last = low + LARGEST_WORD
    w.coder[CARRY] |= np.int64(last < low)
    _put_held(w)
    _put(w, np.int64(last >> WORD))
    if (low + np.uint64(w.coder[RANGE])) >> WORD == last >> WORD:
        _put(w, 0)
    return -1 if w.coder[FAILED] else w.coder[POSITION]
