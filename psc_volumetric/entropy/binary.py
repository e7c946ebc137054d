"""Binary range coder and mixing of probabilities for the coders and the wavelet.

Part of the format (SPEC section 15). Writing and reading are one code path, chosen by
``m.coder[DECODE]``; ``m`` is the ``Model`` of a coder. Numba checks no bounds: every index is
bounded by construction, whatever the bytes are. The functions count no references, all memory is
the caller's; the small ones are compiled into their caller, which doubles the speed.
"""

from __future__ import annotations

from typing import Any

from psc_volumetric import machine_code
from psc_volumetric.entropy.binary_tables import COUNT_LIMIT

__all__ = [
    "CONSTANT_INPUT",
    "COUNTERS",
    "DECODE",
    "DISTRIBUTIONS",
    "FAILED",
    "INPUTS",
    "NEW_COUNTER",
    "STATE_SIZE",
    "compiled",
    "finish",
    "modelled_bit",
    "plain_bit",
    "plain_bits",
    "quotient",
    "start",
    "teach_counters",
]

LOW, RANGE, CACHE, PENDING, POSITION, DECODE, FAILED = range(7)
STATE_SIZE = 7
DISTRIBUTIONS = 3
COUNTERS = 2
INPUTS = DISTRIBUTIONS + COUNTERS + 1
CONSTANT_INPUT = 256
NEW_COUNTER = 1 << 30  # probability one half in 22 bits, then a count of nine
PROBABILITY_MARGIN = 8  # of 65536
LEARNING_SHIFT = 20
WEIGHT_LIMIT = 1 << 20


def compiled(function: Any = None, *, inline: str = "never") -> Any:
    """Compile to machine code that holds no lock and counts no references."""
    decorate = machine_code.compiled(error_model="numpy", _nrt=False, inline=inline)
    return decorate if function is None else decorate(function)


@compiled(inline="always")
def quotient(a, b):  # type: ignore[no-untyped-def]
    """``a // b`` for 0 <= a < 2^53 and b > 0, through double precision, which is faster.

    IEEE division rounds once, and a / b reaches the next integer only where a >= 2^53.
    """
    return int(a / b)


@compiled
def start(m):  # type: ignore[no-untyped-def]
    """Begin a stream; when reading, ``LOW`` holds the code word."""
    m.coder[RANGE] = 0xFFFFFFFF
    m.coder[CACHE] = -1
    if m.coder[DECODE]:
        for _ in range(4):
            m.coder[LOW] = (m.coder[LOW] << 8) | _next_byte(m)


@compiled
def _next_byte(m):  # type: ignore[no-untyped-def]
    position = m.coder[POSITION]
    m.coder[POSITION] = position + 1
    if position < m.data.shape[0]:
        return int(m.data[position])
    m.coder[FAILED] = 1
    return 0


@compiled
def _put(m, byte):  # type: ignore[no-untyped-def]
    position = m.coder[POSITION]
    if position < m.data.shape[0]:
        m.data[position] = byte
        m.coder[POSITION] = position + 1
    else:
        m.coder[FAILED] = 1


@compiled
def _shift_low(m):  # type: ignore[no-untyped-def]
    """Give out the top byte of ``LOW``, or hold it back while a carry could still reach it."""
    low = m.coder[LOW]
    if low < 0xFF000000 or low > 0xFFFFFFFF:
        carry = low >> 32
        if m.coder[CACHE] >= 0:
            _put(m, (m.coder[CACHE] + carry) & 255)
        while m.coder[PENDING] > 0:
            _put(m, (255 + carry) & 255)
            m.coder[PENDING] -= 1
        m.coder[CACHE] = (low >> 24) & 255
    else:
        m.coder[PENDING] += 1
    m.coder[LOW] = (low & 0x00FFFFFF) << 8


@compiled(inline="always")
def _renormalise(m):  # type: ignore[no-untyped-def]
    while m.coder[RANGE] < 0x1000000:
        m.coder[RANGE] <<= 8
        if m.coder[DECODE]:
            m.coder[LOW] = ((m.coder[LOW] << 8) & 0xFFFFFFFF) | _next_byte(m)
        else:
            _shift_low(m)


@compiled(inline="always")
def plain_bit(m, bit, probability):  # type: ignore[no-untyped-def]
    """Code one bit that is 1 with ``probability`` / 65536, 1 .. 65535."""
    bound = (m.coder[RANGE] >> 16) * probability
    if m.coder[DECODE]:
        bit = 1 if m.coder[LOW] < bound else 0
    rest = m.coder[RANGE] - bound
    m.coder[RANGE] = rest + bit * (bound - rest)  # no branch: nobody can foresee it
    m.coder[LOW] += (1 - bit) * (-bound if m.coder[DECODE] else bound)
    _renormalise(m)
    return bit


@compiled(inline="always")
def plain_bits(m, bits, count):  # type: ignore[no-untyped-def]
    """Code ``count`` equally likely bits, 1 .. 8 of them, in one step."""
    part = m.coder[RANGE] >> count
    if m.coder[DECODE]:
        bits = quotient(m.coder[LOW], part)
        if bits >> count:
            m.coder[FAILED] = 1
            bits = 0
    m.coder[RANGE] = part
    m.coder[LOW] += -bits * part if m.coder[DECODE] else bits * part
    _renormalise(m)
    return bits


@compiled(inline="always")
def teach_counters(m, bit, node, counters):  # type: ignore[no-untyped-def]
    """Move the counters of a decision, one in each context, towards the bit."""
    target = bit * 0x3FFFFF
    for i in range(counters):
        state = int(m.counters[m.slots[i] + node])
        count = state & 511
        probability = state >> 9
        probability += ((target - probability) * int(m.rate[count])) >> 16
        m.counters[m.slots[i] + node] = (probability << 9) | min(count + 1, COUNT_LIMIT)


@compiled(inline="always")
def modelled_bit(m, bit, node, mixer, speed):  # type: ignore[no-untyped-def]
    """Code one bit with mixed probabilities, then teach counters and weights.

    ``m.inputs`` begins with the logits of the distributions; ``m.slots`` holds the first counter
    of each context; ``node`` is the decision inside a context, ``mixer`` the set of weights and
    ``speed`` the rate at which they learn.
    """
    first = mixer * INPUTS
    total = 0
    for i in range(COUNTERS):
        m.inputs[DISTRIBUTIONS + i] = m.stretch[m.counters[m.slots[i] + node] >> 19]
    for i in range(INPUTS):
        total += int(m.weights[first + i]) * m.inputs[i]
    p = int(m.squash[min(max(total >> 16, -3071), 3071) + 3071])
    p = min(max(p, PROBABILITY_MARGIN), 65536 - PROBABILITY_MARGIN)
    bit = plain_bit(m, bit, p)
    error = ((bit << 16) - p) * speed
    for i in range(INPUTS):
        step = (m.inputs[i] * error + (1 << (LEARNING_SHIFT - 1))) >> LEARNING_SHIFT
        m.weights[first + i] = min(max(m.weights[first + i] + step, -WEIGHT_LIMIT), WEIGHT_LIMIT)
    teach_counters(m, bit, node, COUNTERS)
    return bit


@compiled
def finish(m, check):  # type: ignore[no-untyped-def]
    """End a stream with 16 check bits; returns its length, or -1 if damaged or too long."""
    for i in range(0, 16, 8):
        given = (check >> i) & 255
        if plain_bits(m, given, 8) != given:
            m.coder[FAILED] = 1
    if not m.coder[DECODE]:
        for _ in range(5):
            _shift_low(m)
    return -1 if m.coder[FAILED] else m.coder[POSITION]
