"""Sections 3.8 and 17 of SPEC-v1.md: the wavelet coder's streams, one number after the other."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from reference_decoder.context_bits import TABLES, BitDecoder
from reference_decoder.context_levels import bits, clamp
from reference_decoder.fields import require

HIGH = (
    73862, 66637, 55910, 47825, 41396, 35962, 31272, 27200, 23660, 20581, 17902, 15573, 13546,
    11783, 10250, 8916,
)  # fmt: skip
LOW = (
    57500, 48847, 42054, 36471, 31700, 27569, 23980, 20859, 18145, 15784, 13730, 11943, 10389,
    9037, 7861, 6838,
)  # fmt: skip


@dataclass
class Band:
    """Section 17.1; ``scale`` and ``part`` (of z) find parents and siblings."""

    ranges: list
    part: int
    scale: int
    kind: int
    splits: tuple
    is_high: tuple


def low_extents(n: int) -> list:
    """Extent of an axis after 0, 1, 2 ... splits."""
    found = [n]
    while found[-1] >= 3 and len(found) <= 16:
        found.append(-(-found[-1] // 2))
    return found


def list_bands(shape: tuple, z_most: int) -> list:
    """Section 17.1."""
    depth, rows, columns = (low_extents(n) for n in shape)
    depth = depth[: z_most + 1]
    most = [len(e) - 1 for e in (depth, rows, columns)]
    parts = [(range(depth[-1]), most[0], False)]
    parts += [(range(depth[k], depth[k - 1]), k, True) for k in range(most[0], 0, -1)]
    found = []
    for part, (planes, k, is_high) in enumerate(parts):
        flat = [planes, range(rows[-1]), range(columns[-1])]
        found.append(Band(flat, part, 0, 0, (k, *most[1:]), (is_high, False, False)))
        for s in range(max(most[1:]), 0, -1):
            i, j = min(s, most[1]), min(s, most[2])
            for kind in (1, 2, 3):
                y, x = bool(kind & 1), bool(kind & 2)
                if (y and most[1] < s) or (x and most[2] < s):
                    continue
                across = range(rows[i], rows[i - 1]) if y else range(rows[i])
                along = range(columns[j], columns[j - 1]) if x else range(columns[j])
                band = Band([planes, across, along], part, s, kind, (k, i, j), (is_high, y, x))
                found.append(band)
    return found


class Numbers(BitDecoder):
    """Section 17.6."""

    def ordered(self, bands: list) -> list:
        """Bands with their numbers, in the order of the stream."""
        return list(enumerate(bands))

    def begin(self, band: Band, steps: np.ndarray, z_most: int) -> None:
        """A band is about to come."""

    def seen(self, contexts: tuple, place: tuple) -> tuple:
        """Contexts of a coefficient."""
        return contexts

    def weighed(self, contexts, share: int, node: int, mixer: int) -> int:
        keys = [(i, context, node) for i, context in enumerate(contexts)]
        states = [self.counters.get(key, (64 * share, 0)) for key in keys]
        inputs = [TABLES.stretch[share >> 4], *(TABLES.stretch[q >> 10] for q, _ in states), 256]
        weights = self.weights.setdefault(mixer, [45875, *[6554] * 6, 0])
        total = sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16
        p = clamp(TABLES.squash[clamp(total, -3071, 3071)], 8, 65528)
        bit = self.bit(p)
        error = ((bit << 16) - p) * 40
        self.weights[mixer] = [
            clamp(w + ((x * error + (1 << 19)) >> 20), -(1 << 20), 1 << 20)
            for w, x in zip(weights, inputs, strict=True)
        ]
        for key, (q, n) in zip(keys, states, strict=True):
            rate = (1 << 17) // (2 * n + 3)
            self.counters[key] = (q + (((4194303 * bit - q) * rate) >> 16), min(n + 1, 400))
        return bit

    def sign(self, number: int, said: list) -> bool:
        """Whether q is positive; ``said`` are the twelve neighbours."""
        kind, z_high = number % 4, number // 4 % 2
        first = [0] * 12
        first[0] = 19661 if kind in (0, 1) else -19661
        first[2] = 19661 if kind in (0, 2) else -19661
        first[6] = -19661 if z_high else 19661
        weights = self.weights.setdefault(("sign", number), first)
        inputs = [256 * clamp(v, -2, 2) for v in said]
        total = sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16
        p = clamp(TABLES.squash[clamp(total, -3071, 3071)], 8, 65528)
        bit = self.bit(p)
        error = ((bit << 16) - p) * 100
        self.weights["sign", number] = [
            clamp(w + ((x * error + (1 << 19)) >> 20), -(1 << 20), 1 << 20)
            for w, x in zip(weights, inputs, strict=True)
        ]
        return bool(bit)

    def steps(self, contexts, expected: int, number: int, around) -> int:
        level = contexts[0]
        share = clamp((expected << 16) // (expected + 4096), 16, 65520)
        size = 0
        while size < 12 and self.weighed(contexts, share, size, 32 * min(size, 2) + level):
            size += 1
        if size == 12:
            digits = 1
            while digits < 27 and self.weighed(contexts, 32768, 11 + digits, 96 + level):
                digits += 1
            rest = 1
            for _ in range(digits - 1):
                rest = 2 * rest + self.bit(32768)
            size = rest + 11
        require(size <= 1 << 26, "number of steps")
        if size and not self.sign(number, around()):
            return -size
        return size


def _level(v: int) -> int:
    return 0 if v < 8 else min(2 * bits(v) - 7 + ((v >> (bits(v) - 2)) & 1), 31)


class Around:
    """Section 17.5: magnitudes of what is known, 0 outside the box of a band."""

    def __init__(self, steps: np.ndarray, band: Band) -> None:
        self.steps, self.ranges = steps, band.ranges

    def __call__(self, z: int, y: int, x: int) -> int:
        return abs(self.signed(z, y, x))

    def signed(self, z: int, y: int, x: int) -> int:
        inside = all(i in r for i, r in zip((z, y, x), self.ranges, strict=True))
        return int(self.steps[z, y, x]) if inside else 0

    def six(self, z: int, y: int, x: int) -> int:
        return self.four(z, y, x) + self(z - 1, y, x) + self(z + 1, y, x)

    def four(self, z: int, y: int, x: int) -> int:
        return self(z, y - 1, x) + self(z, y + 1, x) + self(z, y, x - 1) + self(z, y, x + 1)

    def place(self, number: int, axis: int) -> int:
        """Index of the number-th row or column, cut to the last."""
        r = self.ranges[axis]
        return min(r.start + number, r.stop - 1)


def decode_numbers(data: bytes, shape: tuple, coder: Numbers | None = None) -> tuple:
    """Sections 17.4 to 17.6, or 17.8 with another coder; also the splits of z."""
    require(len(data) > 0 and data[0] < len(low_extents(shape[0])), "splits of z")
    bands, steps, check = list_bands(shape, data[0]), np.zeros(shape, np.int64), 0
    coder = coder or Numbers(data[1:])
    for number, band in coder.ordered(bands):
        coder.begin(band, steps, data[0])
        own = Around(steps, band)
        related = [b for b in bands[:number] if b.part == band.part and band.kind and b.kind]
        parent = next(
            (b for b in related if (b.scale, b.kind) == (band.scale + 1, band.kind)), None
        )
        siblings = [Around(steps, b) for b in related if b.scale == band.scale]
        for z, y, x in itertools.product(*band.ranges):
            row, column = y - band.ranges[1].start, x - band.ranges[2].start
            p, from_parent = 0, 0
            if parent is not None:
                above = Around(steps, parent)
                at = (
                    z,
                    above.place(row >> (parent.splits[1] - band.splits[1]), 1),
                    above.place(column >> (parent.splits[2] - band.splits[2]), 2),
                )
                p = above(*at)
                from_parent = 261 * p + 8 * above.six(*at)
            from_siblings = 0
            for one in siblings:
                at = (z, one.place(row, 1), one.place(column, 2))
                from_siblings += 621 * one(*at) + 36 * one.six(*at)
            from_siblings >>= len(siblings) == 2
            w, n, b = own(z, y, x - 1), own(z, y - 1, x), own(z - 1, y, x)
            farther = 180 * own(z, y, x - 2) + 6 * own(z, y - 1, x - 1) + 33 * own(z, y - 1, x + 1)
            farther += 355 * own(z - 2, y, x) + 23 * own.four(z - 1, y, x)
            expected = 1293 * w + 547 * n + 1285 * b + farther + from_parent + from_siblings + 44
            level = _level(expected)
            contexts = (
                level,
                125 * min(w, 4) + 25 * min(n, 4) + 5 * min(b, 4) + min(p, 4),
                32 * _level(from_parent) + _level(from_siblings),
                32 * min(number, 255) + level,
                32 * _level(farther) + level,
                32 * band.kind + level,
            )
            scale = min(max(band.splits[1], 1) - 1, 2)
            signs = 8 * scale + 4 * band.is_high[0] + band.kind
            q = coder.steps(
                coder.seen(contexts, (z, y, x)), expected, signs,
                lambda own=own, z=z, y=y, x=x: [
                    own.signed(z, y, x - 1), own.signed(z, y, x - 2), own.signed(z, y - 1, x),
                    own.signed(z, y - 2, x), own.signed(z, y - 1, x - 1),
                    own.signed(z, y - 1, x + 1), own.signed(z - 1, y, x), own.signed(z - 2, y, x),
                    own.signed(z - 1, y, x - 1), own.signed(z - 1, y, x + 1),
                    own.signed(z - 1, y - 1, x), own.signed(z - 1, y + 1, x),
                ],
            )  # fmt: skip
            steps[z, y, x] = q
            check = (40503 * check + q + 1) % 65536
    coder.end(check)
    return steps, data[0]


def decode_wavelet(data: bytes, shape: tuple) -> np.ndarray:
    """Section 17: samples of a stream."""
    steps, z_most = decode_numbers(data, shape)
    return put_together(coefficients(steps, z_most), z_most)


def weight_of(band: Band) -> int:
    """Section 17.2."""
    weight = 1 << 16
    for k, is_high in zip(band.splits, band.is_high, strict=True):
        factor = 1 << 16 if k == 0 else (HIGH if is_high else LOW)[k - 1]
        weight = (weight * factor) >> 16
    return weight


def coefficients(steps: np.ndarray, z_most: int) -> np.ndarray:
    """Section 17.2: what numbers of steps stand for."""
    values = np.zeros(steps.shape, np.int64)
    for band in list_bands(steps.shape, z_most):
        box = np.ix_(*band.ranges)
        values[box] = _limited((256 * weight_of(band) * steps[box] + 32768) >> 16)
    return values


def put_together(values: np.ndarray, z_most: int) -> np.ndarray:
    """Section 17.3, in place."""
    shape = values.shape
    depth, rows, columns = (low_extents(n) for n in shape)
    y_most, x_most = len(rows) - 1, len(columns) - 1
    for s in range(max(y_most, x_most), 0, -1):
        box = np.s_[:, : rows[min(s - 1, y_most)], : columns[min(s - 1, x_most)]]
        for axis, most in ((2, x_most), (1, y_most)):
            if most >= s:
                values[box] = np.apply_along_axis(_merge, axis, values[box])
    for n in reversed(depth[:z_most]):
        values[:n] = np.apply_along_axis(_merge, 0, values[:n])
    return values


def _limited(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -(1 << 36), 1 << 36)


def _merge(split: np.ndarray) -> np.ndarray:
    """Section 17.3: one split of a line undone."""
    count = -(-len(split) // 2)
    low, high = [int(v) for v in split[:count]], [int(v) for v in split[count:]]

    def changed(value: int, factor: int, a: int, b: int) -> int:
        return clamp(value - ((factor * (a + b) + (1 << 19)) >> 20), -(1 << 36), 1 << 36)

    for factor_low, factor_high in ((465051, 925799), (-55554, -1663182)):
        last = len(high) - 1
        low = [
            changed(v, factor_low, high[max(i - 1, 0)], high[min(i, last)])
            for i, v in enumerate(low)
        ]
        high = [
            changed(v, factor_high, low[i], low[min(i + 1, len(low) - 1)])
            for i, v in enumerate(high)
        ]
    out = np.zeros(len(split), np.int64)
    out[0::2], out[1::2] = low, high
    return out
