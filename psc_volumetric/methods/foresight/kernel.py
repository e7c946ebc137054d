"""Contexts and decisions where coefficients are foreseen. Part of the format (SPEC section 17.8).

The decisions are those of the wavelet (:mod:`psc_volumetric.methods.wavelet.kernel`), with three
more contexts, a second set of weights, and one more voice for signs. ``m`` is the
:class:`psc_volumetric.methods.foresight.coder.Model`. Numba checks no bounds: every index is
bounded by construction.
"""

from __future__ import annotations

from psc_volumetric.entropy.binary import (
    CONSTANT_INPUT,
    FAILED,
    bit_mixer,
    compiled,
    inlined,
    note,
    plain_bit,
    quotient,
)
from psc_volumetric.entropy.decisions import bit_length
from psc_volumetric.methods.wavelet import kernel as plain
from psc_volumetric.methods.wavelet.kernel import (
    BITS,
    LARGEST,
    LEVELS,
    MOST_DIGITS,
    NODES,
    SIGN_INPUTS,
    SIGN_SPEED,
    SPEED,
    UNARY,
    choose_counters,
    expected_magnitude,
    hear_signs,
    level_of,
)

__all__ = [
    "CONTEXT_VALUES",
    "COUNTERS",
    "FIRST_WEIGHTS",
    "INPUTS",
    "MIXERS",
    "SIGN_WIDTH",
    "VOICES",
    "code_foreseen_band",
    "first_sign_weights",
]

COUNTERS = plain.COUNTERS + 3
INPUTS = 1 + COUNTERS + 1
FIRST_WEIGHTS = (45875, *(4369,) * COUNTERS, 0)
# by what is foreseen and level, by kind, deviation and level, by what is foreseen and deviation
FORESEEN = plain.CONTEXT_VALUES
SPREAD = FORESEEN + LEVELS**2
BOTH = SPREAD + 4 * LEVELS**2
CONTEXT_VALUES = BOTH + 4 * LEVELS**2
LEAST_HALF = 14  # half octaves of a deviation; fewer count as as many
MIXERS = 2 * plain.MIXERS  # by what is expected, then by what is foreseen
SIGN_WIDTH = SIGN_INPUTS + 2  # weights of a set: neighbours, what is foreseen, a constant
SIGN_WEIGHTS = MIXERS * INPUTS
VOICES = 64  # sixteenths of a step foreseen that are told apart, for each kind
SURE = 65536  # first weight of what is foreseen

_mixed_bit = bit_mixer(1, COUNTERS, sets=2, fresh=True)
_sign_bit = bit_mixer(SIGN_INPUTS + 1, 0)


def first_sign_weights(number: int) -> list[int]:
    """Weights of a set before anything was coded."""
    return [*plain.first_sign_weights(number)[:SIGN_INPUTS], SURE, 0]


@inlined
def _choose(m, band, expected, z, y, x):  # type: ignore[no-untyped-def]
    """Choose the counters of a coefficient; returns the level for the mixers."""
    level = choose_counters(m, band, expected)
    foreseen = level_of(abs(int(m.guess[z, y, x])))
    spread = min(max(int(m.halves[z, y, x]) - LEAST_HALF, 0), LEVELS - 1)
    m.slots[6] = (FORESEEN + foreseen * LEVELS + level) * NODES
    m.slots[7] = (SPREAD + (m.kinds[band] * LEVELS + spread) * LEVELS + level) * NODES
    m.slots[8] = (BOTH + (foreseen * LEVELS + spread) * 4 + min(level // 6, 3)) * NODES
    m.slots[9] = foreseen
    return level


@inlined
def _modelled_bit(m, bit, node, group, level, share):  # type: ignore[no-untyped-def]
    m.inputs[0] = m.stretch[share >> 4]
    first = (group * LEVELS + level) * INPUTS
    second = (plain.MIXERS + group * LEVELS + m.slots[9]) * INPUTS
    return _mixed_bit(m, bit, node, first, second, share, SPEED)


@inlined
def _code_sign(m, is_positive, band, z, y, x):  # type: ignore[no-untyped-def]
    hear_signs(m, band, z, y, x)
    guess = int(m.guess[z, y, x])
    voice = min(abs(guess) >> (BITS - 4), VOICES - 1) * 4 + m.kinds[band]
    said = int(m.stretch[m.voices[voice] >> 4])
    m.inputs[SIGN_INPUTS] = said if guess > 0 else -said
    m.inputs[SIGN_INPUTS + 1] = 0
    first = SIGN_WEIGHTS + m.signs[band] * SIGN_WIDTH
    bit = _sign_bit(m, is_positive, 0, first, 0, 32768, SIGN_SPEED)
    if guess != 0:
        agrees = bit if guess > 0 else 1 - bit
        m.voices[voice] += (65535 * agrees - m.voices[voice]) >> 6
    m.inputs[INPUTS - 1] = CONSTANT_INPUT
    return bit


@inlined
def _code_steps(m, number, band, expected, z, y, x):  # type: ignore[no-untyped-def]
    """Code a signed number of steps, at most ``LARGEST`` in magnitude."""
    level = _choose(m, band, expected, z, y, x)
    capped = min(expected, 1 << 36)
    share = min(max(quotient(capped << 16, capped + (1 << BITS)), 16), 65520)
    given = abs(number)
    size = 0
    while size < UNARY:
        bit = 1 if given > size else 0
        if not _modelled_bit(m, bit, size, min(size, 2), level, share):
            break
        size += 1
    if size == UNARY:
        rest = given - UNARY + 1
        wanted = bit_length(rest)
        digits = 1
        while digits < MOST_DIGITS:
            bit = 1 if wanted > digits else 0
            if not _modelled_bit(m, bit, UNARY + digits - 1, 3, level, 32768):
                break
            digits += 1
        known = 1
        for place in range(digits - 2, -1, -1):
            known = 2 * known + plain_bit(m.words, (rest >> place) & 1, 32768)
        size = known + UNARY - 1
    if size == 0:
        return 0
    return size if _code_sign(m, 1 if number > 0 else 0, band, z, y, x) else -size


@compiled
def code_foreseen_band(m, band):  # type: ignore[no-untyped-def]
    """Code the numbers of steps of one band in place."""
    z0, z1, y0, y1, x0, x1 = m.boxes[band]
    for z in range(z0, z1):
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected = expected_magnitude(m, band, z, y, x)
                number = _code_steps(m, int(m.steps[z, y, x]), band, expected, z, y, x)
                if abs(number) > LARGEST:
                    m.words.coder[FAILED] = 1
                    number = 0
                m.steps[z, y, x] = number
                note(m.words, number)
            if m.words.coder[FAILED]:
                return
