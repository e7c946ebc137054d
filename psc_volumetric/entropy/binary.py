"""Binary range coder and mixing of probabilities, for every coder of decisions.

Part of the format (SPEC sections 15.4 and 15.5). Writing and reading are one code path, chosen by
``m.coder[DECODE]``; ``m`` is the ``Model`` of a coder. Numba checks no bounds: every index is
bounded by construction, whatever the bytes are. The functions count no references, all memory is
the caller's; the small ones are compiled into their caller, which doubles the speed.
"""

from __future__ import annotations

from typing import Any

from psc_volumetric import machine_code
from psc_volumetric.entropy.binary_tables import COUNT_LIMIT, LOGIT_LIMIT

__all__ = [
    "CONSTANT_INPUT",
    "DECODE",
    "FAILED",
    "NEW_COUNTER",
    "STATE_SIZE",
    "bit_mixer",
    "compiled",
    "finish",
    "note",
    "plain_bit",
    "plain_bits",
    "quotient",
    "start",
]

LOW, RANGE, CACHE, PENDING, POSITION, DECODE, FAILED = range(7)
STATE_SIZE = 7
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
def _teach_weight(m, at, step):  # type: ignore[no-untyped-def]
    m.weights[at] = min(max(m.weights[at] + step, -WEIGHT_LIMIT), WEIGHT_LIMIT)


@compiled(inline="always")
def _teach_counters(m, bit, node, counters):  # type: ignore[no-untyped-def]
    """Move the counters of a decision, one in each context, towards the bit."""
    target = bit * 0x3FFFFF
    for i in range(counters):
        state = int(m.counters[m.slots[i] + node])
        count = state & 511
        probability = state >> 9
        probability += ((target - probability) * int(m.rate[count])) >> 16
        m.counters[m.slots[i] + node] = (probability << 9) | min(count + 1, COUNT_LIMIT)


def bit_mixer(given: int, counters: int, *, sets: int = 1, fresh: bool = False) -> Any:
    """Make the function that codes one bit with several opinions and teaches those who gave them.

    The opinions are logits: ``given`` of them stand in ``m.inputs`` already, then come those of
    counters, then a constant.

    Parameters
    ----------
    given : int
        Opinions that the caller puts into ``m.inputs``.
    counters : int
        Contexts; the counters of each begin at ``m.slots``.
    sets : int
        1, or 2 where the weights are the mean of two sets.
    fresh : bool
        Whether a counter that was never asked, which is 0, begins at what the caller says.

    Returns
    -------
    compiled function
        ``(m, bit, node, first, second, share, speed) -> bit``: ``node`` is the decision inside
        each context, ``first`` and ``second`` are the places of the weights, ``share`` is the
        16-bit probability at which fresh counters begin, ``speed`` the rate at which weights learn.
    """
    inputs, shift = given + counters + 1, 15 + sets

    @compiled(inline="always")
    def mixed_bit(m, bit, node, first, second, share, speed):  # type: ignore[no-untyped-def]
        for i in range(counters):
            at = m.slots[i] + node
            if fresh and m.counters[at] == 0:
                m.counters[at] = share << 15
            m.inputs[given + i] = m.stretch[m.counters[at] >> 19]
        total = 0
        for i in range(inputs):
            weight = int(m.weights[first + i])
            if sets == 2:
                weight += int(m.weights[second + i])
            total += weight * m.inputs[i]
        p = int(m.squash[min(max(total >> shift, -LOGIT_LIMIT), LOGIT_LIMIT) + LOGIT_LIMIT])
        p = min(max(p, PROBABILITY_MARGIN), 65536 - PROBABILITY_MARGIN)
        bit = plain_bit(m, bit, p)
        error = ((bit << 16) - p) * speed
        for i in range(inputs):
            step = (m.inputs[i] * error + (1 << (LEARNING_SHIFT - 1))) >> LEARNING_SHIFT
            _teach_weight(m, first + i, step)
            if sets == 2:
                _teach_weight(m, second + i, step)
        _teach_counters(m, bit, node, counters)
        return bit

    return mixed_bit


@compiled(inline="always")
def note(m, value):  # type: ignore[no-untyped-def]
    """Add a value to the check that ends a stream."""
    m.check[0] = (m.check[0] * 40503 + value + 1) & 0xFFFF


@compiled
def finish(m):  # type: ignore[no-untyped-def]
    """End a stream with the 16 bits of its check; its length, or -1 if damaged or too long."""
    for i in range(0, 16, 8):
        given = (m.check[0] >> i) & 255
        if plain_bits(m, given, 8) != given:
            m.coder[FAILED] = 1
    if not m.coder[DECODE]:
        for _ in range(5):
            _shift_low(m)
    return -1 if m.coder[FAILED] else m.coder[POSITION]
