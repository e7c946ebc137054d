"""The range coder in compiled loops, for numbers whose probabilities change with each of them.

Part of the format (SPEC sections 7.1 and 15.4): the same coder as that of constriction, which codes
lists of symbols whose probabilities are known before (`entropy.symbols`). Writing and reading are
one code path, chosen by ``m.coder[DECODE]``; ``m`` is the ``Model`` of a coder, ``m.data`` has the
bytes of the words, ``m.coder`` the state, whose numbers of 64 bits without sign lie in int64 bit
for bit. Numba checks no bounds: every index is bounded by construction, whatever the bytes are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from psc_volumetric import machine_code

__all__ = [
    "DECODE",
    "FAILED",
    "LOW",
    "STATE_SIZE",
    "compiled",
    "end",
    "inlined",
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


def compiled(function: Any = None, **options: Any) -> Any:
    """Compile to machine code that holds no lock and counts no references."""
    decorate = machine_code.compiled(error_model="numpy", _nrt=False, **options)
    return decorate if function is None else decorate(function)


def inlined(function: Any) -> Any:
    """Compile into every loop that calls it, with nothing between that costs a call."""
    return compiled(forceinline=True)(function)


@compiled
def start(m):  # type: ignore[no-untyped-def]
    """Begin a stream; when reading, ``LOW`` holds what lies between the words and the low end."""
    m.coder[RANGE] = -1  # 2^64 - 1
    m.coder[CACHE] = -1
    if m.coder[DECODE]:
        for _ in range(2):
            m.coder[LOW] = (m.coder[LOW] << 32) | _next_word(m)


@compiled
def _next_word(m):  # type: ignore[no-untyped-def]
    """The next word; zero once where they end, since an encoder may leave out the last."""
    position = m.coder[POSITION]
    m.coder[POSITION] = position + ONE_WORD
    word = 0
    if position + ONE_WORD <= m.data.shape[0]:
        for i in range(ONE_WORD):
            word |= int(m.data[position + i]) << (8 * i)
    elif position != m.data.shape[0]:
        m.coder[FAILED] = 1
    return word


@compiled
def _put(m, word):  # type: ignore[no-untyped-def]
    position = m.coder[POSITION]
    if position + ONE_WORD <= m.data.shape[0]:
        for i in range(ONE_WORD):
            m.data[position + i] = (word >> (8 * i)) & 255
        m.coder[POSITION] = position + ONE_WORD
    else:
        m.coder[FAILED] = 1


@compiled
def _put_held(m):  # type: ignore[no-untyped-def]
    """Give out the words that were held back, now that no carry can reach them any more."""
    if m.coder[CACHE] >= 0:
        _put(m, (m.coder[CACHE] + m.coder[CARRY]) & 0xFFFFFFFF)
    while m.coder[PENDING] > 0:
        _put(m, (0xFFFFFFFF + m.coder[CARRY]) & 0xFFFFFFFF)
        m.coder[PENDING] -= 1


@compiled
def _shift_low(m):  # type: ignore[no-untyped-def]
    """Take the top word off ``LOW``; it is held back while a carry could still reach it."""
    low = np.uint64(m.coder[LOW])
    top = low >> WORD
    if m.coder[CARRY] or top != LARGEST_WORD:
        _put_held(m)
        m.coder[CACHE], m.coder[CARRY] = np.int64(top), 0
    else:
        m.coder[PENDING] += 1
    m.coder[LOW] = np.int64(low << WORD)


@compiled(inline="always")
def scale_of(m, precision):  # type: ignore[no-untyped-def]
    """What one of 2^``precision`` parts of the range is, as uint64."""
    return np.uint64(m.coder[RANGE]) >> np.uint64(precision)


@compiled(inline="always")
def take(m, below, part):  # type: ignore[no-untyped-def]
    """Go on with ``part`` of the range, above ``below``; both uint64, in units of the range."""
    low = np.uint64(m.coder[LOW])
    if m.coder[DECODE]:
        low -= below
    else:
        low += below
        m.coder[CARRY] |= np.int64(low < below)
    m.coder[LOW], m.coder[RANGE] = np.int64(low), np.int64(part)
    if part <= LARGEST_WORD:
        m.coder[RANGE] = np.int64(part << WORD)
        if m.coder[DECODE]:
            m.coder[LOW] = (m.coder[LOW] << 32) | _next_word(m)
        else:
            _shift_low(m)


@compiled(inline="always")
def plain_bits(m, bits, count):  # type: ignore[no-untyped-def]
    """Code ``count`` equally likely bits, 1 .. 16 of them, in one step."""
    scale = scale_of(m, count)
    if m.coder[DECODE]:
        bits = np.int64(np.uint64(m.coder[LOW]) // scale)
        if bits >> count:
            m.coder[FAILED] = 1
            bits = 0
    take(m, np.uint64(bits) * scale, scale)
    return bits


@compiled
def end(m):  # type: ignore[no-untyped-def]
    """End a stream; its length in bytes, or -1 if it is damaged or too long."""
    if m.coder[DECODE]:
        if m.coder[POSITION] < m.data.shape[0]:
            m.coder[FAILED] = 1
        return -1 if m.coder[FAILED] else m.data.shape[0]
    low = np.uint64(m.coder[LOW])
    last = low + LARGEST_WORD
    m.coder[CARRY] |= np.int64(last < low)
    _put_held(m)
    _put(m, np.int64(last >> WORD))
    if (low + np.uint64(m.coder[RANGE])) >> WORD == last >> WORD:
        _put(m, 0)
    return -1 if m.coder[FAILED] else m.coder[POSITION]
