"""Binary range coder and mixing of probabilities for the residual coder.

Part of the format (SPEC section 15). The functions run with and without a bit given: writing and
reading are one code path, chosen by ``coder[DECODE]``. Numba checks no bounds: every index here
is bounded by construction, whatever the bytes are.
"""

from __future__ import annotations

from numba import njit

__all__ = [
    "COUNTERS",
    "DECODE",
    "FAILED",
    "INPUTS",
    "STATE_SIZE",
    "finish",
    "modelled_bit",
    "plain_bit",
    "start",
]

LOW, RANGE, CACHE, PENDING, POSITION, DECODE, FAILED = range(7)
STATE_SIZE = 7
INPUTS = 9  # two distributions, six counters, one constant
COUNTERS = 6
LEARNING_SHIFT = 18
COUNT_LIMIT = 255
WEIGHT_LIMIT = 1 << 20


@njit(nogil=True, cache=True)
def start(coder, data, decode):  # type: ignore[no-untyped-def]
    """Begin a stream; when reading, ``LOW`` holds the code word."""
    coder[:] = 0
    coder[RANGE] = 0xFFFFFFFF
    coder[DECODE] = decode
    coder[CACHE] = -1
    if decode:
        for _ in range(4):
            coder[LOW] = (coder[LOW] << 8) | _next_byte(coder, data)


@njit(nogil=True, cache=True)
def _next_byte(coder, data):  # type: ignore[no-untyped-def]
    position = coder[POSITION]
    coder[POSITION] = position + 1
    if position < data.shape[0]:
        return int(data[position])
    coder[FAILED] = 1
    return 0


@njit(nogil=True, cache=True)
def _put(coder, data, byte):  # type: ignore[no-untyped-def]
    position = coder[POSITION]
    if position < data.shape[0]:
        data[position] = byte
        coder[POSITION] = position + 1
    else:
        coder[FAILED] = 1


@njit(nogil=True, cache=True)
def _shift_low(coder, data):  # type: ignore[no-untyped-def]
    """Give out the top byte of ``low``, or hold it back while a carry could still reach it."""
    low = coder[LOW]
    if low < 0xFF000000 or low > 0xFFFFFFFF:
        carry = low >> 32
        if coder[CACHE] >= 0:
            _put(coder, data, (coder[CACHE] + carry) & 255)
        while coder[PENDING] > 0:
            _put(coder, data, (255 + carry) & 255)
            coder[PENDING] -= 1
        coder[CACHE] = (low >> 24) & 255
    else:
        coder[PENDING] += 1
    coder[LOW] = (low & 0x00FFFFFF) << 8


@njit(nogil=True, cache=True)
def plain_bit(coder, data, bit, probability):  # type: ignore[no-untyped-def]
    """Code one bit that is 1 with ``probability`` / 65536, 1 .. 65535."""
    bound = (coder[RANGE] >> 16) * probability
    if coder[DECODE]:
        bit = 1 if coder[LOW] < bound else 0
    if bit:
        coder[RANGE] = bound
    else:
        coder[RANGE] -= bound
        if coder[DECODE]:
            coder[LOW] -= bound
        else:
            coder[LOW] += bound
    while coder[RANGE] < 0x1000000:
        coder[RANGE] <<= 8
        if coder[DECODE]:
            coder[LOW] = ((coder[LOW] << 8) & 0xFFFFFFFF) | _next_byte(coder, data)
        else:
            _shift_low(coder, data)
    return bit


@njit(nogil=True, cache=True)
def modelled_bit(  # type: ignore[no-untyped-def]
    coder, data, bit, inputs, slots, node, counters, weights, mixer, squash, stretch, rate
):
    """Code one bit with mixed probabilities, then teach counters and weights.

    ``inputs[:2]`` hold the logits of the two distributions; ``slots`` the first counter of each
    context; ``node`` the decision inside a context.
    """
    for i in range(COUNTERS):
        inputs[2 + i] = stretch[counters[slots[i] + node] >> 19]
    total = 0
    for i in range(INPUTS):
        total += weights[mixer + i] * inputs[i]
    total >>= 16
    total = min(max(total, -3071), 3071)
    p = squash[total + 3072]
    p = min(max(p, 8), 65536 - 8)
    bit = plain_bit(coder, data, bit, p)
    error = (bit << 16) - p
    for i in range(INPUTS):
        step = (inputs[i] * error * 6 + (1 << (LEARNING_SHIFT - 1))) >> LEARNING_SHIFT
        weights[mixer + i] = min(max(weights[mixer + i] + step, -WEIGHT_LIMIT), WEIGHT_LIMIT)
    for i in range(COUNTERS):
        state = counters[slots[i] + node]
        count = state & 511
        p22 = state >> 9
        p22 += (((bit << 22) - bit - p22) * rate[count]) >> 16
        counters[slots[i] + node] = (p22 << 9) | min(count + 1, COUNT_LIMIT)
    return bit


@njit(nogil=True, cache=True)
def finish(coder, data, check):  # type: ignore[no-untyped-def]
    """End a stream with 16 check bits; returns its length, or -1 if damaged or too long."""
    for i in range(16):
        bit = plain_bit(coder, data, (check >> i) & 1, 32768)
        if bit != (check >> i) & 1:
            coder[FAILED] = 1
    if not coder[DECODE]:
        for _ in range(5):
            _shift_low(coder, data)
    return -1 if coder[FAILED] else coder[POSITION]
