"""How one value becomes binary decisions in the residual coder.

Part of the format (SPEC section 15). A value is an offset from the rounded prediction: first the
number of digits of its magnitude, then its sign, then the digits below the first.
"""

from __future__ import annotations

from numba import njit

from psc_volumetric.coding.residual_coder import DECODE, INPUTS, modelled_bit, plain_bit

__all__ = ["FRACTION", "NODES", "bit_length", "code_value"]

FRACTION = 8  # bits of a prediction
NODES = 160  # decisions that have counters


@njit(nogil=True, cache=True)
def bit_length(value):  # type: ignore[no-untyped-def]
    """Number of binary digits of a non-negative integer below 2^62."""
    count = 0
    if value >= 1 << 32:
        value >>= 32
        count += 32
    if value >= 1 << 16:
        value >>= 16
        count += 16
    if value >= 1 << 8:
        value >>= 8
        count += 8
    if value >= 1 << 4:
        value >>= 4
        count += 4
    if value >= 4:
        value >>= 2
        count += 2
    if value >= 2:
        value >>= 1
        count += 1
    return count + value


@njit(nogil=True, cache=True)
def _below(threshold, mean, scale, inverse, cdf):  # type: ignore[no-untyped-def]
    """30-bit probability that the logistic variable lies below ``threshold``."""
    limit = scale << 4
    distance = min(max(threshold - mean, -limit), limit)
    return cdf[min(max(((distance * inverse) >> 23) + 2048, 0), 4096)]


@njit(nogil=True, cache=True)
def _logit(part, whole, stretch):  # type: ignore[no-untyped-def]
    """Logit of part / whole."""
    return stretch[((part + 1) << 12) // (whole + 2)] if part < whole else 2300


@njit(nogil=True, cache=True)
def code_value(  # type: ignore[no-untyped-def]
    coder, data, value, top, means, scales, slots, group, inputs, counters, weights,
    squash, stretch, cdf, rate,
):  # fmt: skip
    """Code one value of 0 .. top around ``means``; returns it."""
    # long: one decision after the other, all about the same few numbers
    half = 1 << (FRACTION - 1)
    base = min(max((means[0] + half) >> FRACTION, 0), top)
    reach = max(base, top - base)
    classes = bit_length(reach)
    if classes == 0:
        return base
    inverse0 = (1 << 30) // scales[0]
    inverse1 = (1 << 30) // scales[1]
    centre = base << FRACTION
    magnitude = 0
    size = 0
    if not coder[DECODE]:
        magnitude = abs(value - base)
        size = bit_length(magnitude)
    # classes of magnitude: size is in low .. high
    low, high = 0, classes
    inside0 = 0
    inside1 = 0
    outside0 = 1 << 30
    outside1 = 1 << 30
    probe = min(max(bit_length(scales[0] >> FRACTION), 1), classes)
    going_up = True
    while low < high:
        # is the size at least `probe`?
        reach_low = ((1 << probe) >> 1 << FRACTION) - half
        mass0 = _below(centre + reach_low, means[0], scales[0], inverse0, cdf) - _below(
            centre - reach_low, means[0], scales[0], inverse0, cdf
        )
        mass1 = _below(centre + reach_low, means[1], scales[1], inverse1, cdf) - _below(
            centre - reach_low, means[1], scales[1], inverse1, cdf
        )
        inputs[0] = _logit(outside0 - mass0, outside0 - inside0, stretch)
        inputs[1] = _logit(outside1 - mass1, outside1 - inside1, stretch)
        node = probe if going_up else 40 + probe
        bit = modelled_bit(
            coder, data, 1 if size >= probe else 0, inputs, slots, node, counters, weights,
            (group * 3 + (0 if probe == 1 else 1)) * INPUTS, squash, stretch, rate,
        )  # fmt: skip
        if bit:
            low, inside0, inside1 = probe, mass0, mass1
            probe += 1
        else:
            high, outside0, outside1 = probe - 1, mass0, mass1
            if low < high:
                going_up = False
            probe -= 1
    if low == 0:
        return base
    # sign
    near = (1 << low) >> 1
    far = min(2 * near - 1, reach)
    sign = 0
    if not coder[DECODE]:
        sign = 1 if value > base else 0
    if base + near > top:
        sign = 0
    elif base - near < 0:
        sign = 1
    else:
        a = (near << FRACTION) - half
        b = (far << FRACTION) + half
        for k in range(2):
            inverse = inverse0 if k == 0 else inverse1
            up = _below(centre + b, means[k], scales[k], inverse, cdf) - _below(
                centre + a, means[k], scales[k], inverse, cdf
            )
            down = _below(centre - a, means[k], scales[k], inverse, cdf) - _below(
                centre - b, means[k], scales[k], inverse, cdf
            )
            inputs[k] = _logit(up, up + down, stretch)
        sign = modelled_bit(
            coder, data, sign, inputs, slots, 80 + min(low, 7), counters, weights,
            (group * 3 + 2) * INPUTS, squash, stretch, rate,
        )  # fmt: skip
    # mantissa
    known = near
    for place in range(low - 2, -1, -1):
        width = 1 << place
        bit = (magnitude >> place) & 1
        done = low - 2 - place
        if done >= 6:
            known |= plain_bit(coder, data, bit, 32768) << place
            continue
        a = (known << FRACTION) - half
        m = ((known + width) << FRACTION) - half
        b = ((known + 2 * width) << FRACTION) - half
        for k in range(2):
            inverse = inverse0 if k == 0 else inverse1
            if sign:
                first = _below(centre + a, means[k], scales[k], inverse, cdf)
                split = _below(centre + m, means[k], scales[k], inverse, cdf)
                last = _below(centre + b, means[k], scales[k], inverse, cdf)
                inputs[k] = _logit(last - split, last - first, stretch)
            else:
                first = _below(centre - a, means[k], scales[k], inverse, cdf)
                split = _below(centre - m, means[k], scales[k], inverse, cdf)
                last = _below(centre - b, means[k], scales[k], inverse, cdf)
                inputs[k] = _logit(split - last, first - last, stretch)
        if done < 2:
            node = (
                88 + min(low, 15)
                if done == 0
                else 104 + 2 * min(low, 15) + ((known >> (low - 2)) & 1)
            )
            bit = modelled_bit(
                coder, data, bit, inputs, slots, node, counters, weights,
                (group * 3 + 2) * INPUTS, squash, stretch, rate,
            )  # fmt: skip
        else:
            p = squash[inputs[0] + 3072]
            bit = plain_bit(coder, data, bit, min(max(p, 8), 65528))
        known |= bit << place
    return base + known if sign else base - known
