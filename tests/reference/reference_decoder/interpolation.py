"""Section 16 of SPEC-v1.md: the interpolation coder's streams, read one voxel after the other."""

from __future__ import annotations

import itertools
import math

import numpy as np

from reference_decoder.context_bits import TABLES, BitDecoder
from reference_decoder.context_levels import bits, clamp
from reference_decoder.fields import Fields, require


class Numbers(BitDecoder):
    """Section 16.6."""

    def mixed(self, contexts, node: int, kind: int, level: int, turn: int) -> int:
        keys = [(i, context, node) for i, context in enumerate(contexts)]
        states = [self.counters.get(key, (1 << 21, 0)) for key in keys]
        inputs = [*(TABLES.stretch[q >> 10] for q, _ in states), 256]
        mixers = [16 * kind + level, 80 + 32 * kind + turn]
        sets = [self.weights.setdefault(mixer, [20000] * 7 + [0]) for mixer in mixers]
        total = sum((v + w) * x for v, w, x in zip(*sets, inputs, strict=True)) >> 17
        p = clamp(TABLES.squash[clamp(total, -3071, 3071)], 8, 65528)
        bit = self.bit(p)
        error = ((bit << 16) - p) * 24
        for mixer, weights in zip(mixers, sets, strict=True):
            self.weights[mixer] = [
                clamp(w + ((x * error + (1 << 19)) >> 20), -(1 << 20), 1 << 20)
                for w, x in zip(weights, inputs, strict=True)
            ]
        for key, (q, n) in zip(keys, states, strict=True):
            rate = (1 << 17) // (2 * n + 3)
            self.counters[key] = (q + (((4194303 * bit - q) * rate) >> 16), min(n + 1, 400))
        return bit

    def signed(self, contexts, high: int, first: int, second: int, turn: int) -> int:
        size = 0
        while size < high and self.mixed(contexts, min(size, 31), min(size, 2), first, turn):
            size += 1
        if size == 0:
            return 0
        negative = self.mixed(contexts, 32 + min(size, 7), 3, second, turn)
        magnitude = 1
        for digit in range(2, size + 1):
            if digit == 2:
                bit = self.mixed(contexts, 40 + min(size, 23), 4, first, turn)
            else:
                bit = self.bit(32768)
            magnitude = 2 * magnitude + bit
        return -magnitude if negative else magnitude


def decode_interpolated(data: bytes, shape: tuple) -> tuple[np.ndarray, int]:
    """Section 16.1: the integers, and the fineness."""
    require(math.prod(shape) <= 1 << 23, "large")
    f = Fields(data)
    fineness, low = f.varint(1 << 24), f.varint((1 << 31) - 1)
    top = f.varint((1 << 31) - 1 - low)
    axes = [f.number("B") for _ in range(f.varint(24))]
    passes = [(f.varint(fineness), f.number("B"), f.number("B")) for _ in range(len(axes) + 1)]
    require(all(axis <= 2 for axis in axes), "axis")
    require(all(taps <= 96 and cut <= 14 for _, taps, cut in passes), "pass")
    strides = [1 << axes.count(axis) for axis in range(3)]
    require(all(s == 1 or s // 2 < n for s, n in zip(strides, shape, strict=True)), "strides")
    coder = Numbers(f.bytes(len(data) - f.at))
    volume = Volume(shape, top, coder)
    for left, axis, (half, taps, cut) in zip(
        range(len(axes), -1, -1), [None, *axes], passes, strict=True
    ):
        if axis is not None:
            strides[axis] //= 2
        volume.decode(axis, strides, half, taps, cut, left)
    coder.end(volume.check)
    return volume.values + low, fineness


class Volume:
    """Sections 16.2 to 16.5."""

    def __init__(self, shape: tuple, top: int, coder: Numbers) -> None:
        self.shape, self.top, self.coder, self.check = shape, top, coder, 0
        self.values, self.sizes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def decode(self, axis, strides, half: int, taps: int, cut: int, left: int) -> None:
        extent = [-(-n // s) for n, s in zip(self.shape, strides, strict=True)]
        offsets = _offsets(axis, strides)[: max(taps, 18)]
        coefficients = [
            self.coder.signed([960 + (k >> 1)] * 7, 18, 15, 15, 31) for k in range(taps)
        ]
        for at in np.ndindex(*extent):
            if axis is not None and at[axis] % 2 == 0:
                continue
            near = [_neighbour(at, offset, axis, extent) for offset in offsets]
            places = [
                None if n is None else tuple(i * s for i, s in zip(n, strides, strict=True))
                for n in near
            ]
            value = [None if p is None else int(self.values[p]) for p in places]
            base = self._base(axis, offsets, value)
            total = sum(
                c * (n - base) for c, n in zip(coefficients, value, strict=False) if n is not None
            )
            guess = clamp(base + ((total + ((1 << cut) >> 1)) >> cut), 0, self.top)
            sizes = [0 if p is None else int(self.sizes[p]) for p in places]
            row = 32 * at[1] // extent[1]
            place = tuple(i * s for i, s in zip(at, strides, strict=True))
            self._voxel(place, base, guess, value, sizes, row, 2 * half + 1, left)

    @staticmethod
    def _base(axis, offsets, value) -> int:
        if axis is None:
            return next((v for v in value if v is not None), 0)
        pair = [
            v
            for o, v in zip(offsets, value, strict=True)
            if abs(o[axis]) == 1 and sum(map(abs, o)) == 1
        ]
        return sum(pair) >> 1

    def _voxel(self, place, base, guess, value, sizes, row, w, t) -> None:
        rough = sum(abs(v - guess) for v in value[:8] if v is not None)
        a = _level(32 * sum(sizes[:6]) // (6 * w))
        b = _level(64 * sum(sizes[:18]) // (18 * w))
        c = _level(2 * rough // w)
        d = _level(32 * abs(base - guess) // w)
        u = int(base > guess)
        contexts = (
            16 * a + b, 32 * b + t, 16 * c + b, 16 * a + d, 32 * b + row, 2 * t + u,
            2 * (16 * c + d) + u,
        )  # fmt: skip
        number = self.coder.signed(contexts, bits(self.top // w + 1), b, d, t)
        v = clamp(guess + number * w, 0, self.top)
        self.values[place] = v
        self.sizes[place] = min(abs(number) * w, (1 << 31) - 1)
        self.check = (40503 * self.check + v + 1) % 65536


def _offsets(axis, strides) -> list:
    """Section 16.3."""
    s = [min(stride // min(strides), 2) for stride in strides]
    reach = range(-5, 6)
    known = [
        o
        for o in itertools.product(reach, reach, reach)
        if o < (0, 0, 0) or (axis is not None and o[axis] % 2 == 1)
    ]
    known.sort(key=lambda o: (sum((i * j) ** 2 for i, j in zip(o, s, strict=True)), o))
    return known[:96]


def _neighbour(at, offset, axis, extent) -> tuple | None:
    found = [i + o for i, o in zip(at, offset, strict=True)]
    if all(0 <= i < e for i, e in zip(found, extent, strict=True)):
        return tuple(found)
    if axis is None or offset[axis] % 2 == 0:
        return None
    for k, e in enumerate(extent):
        while not 0 <= found[k] < e:
            found[k] = 0 if e == 1 else -found[k] if found[k] < 0 else 2 * (e - 1) - found[k]
    return tuple(found)


def _level(v: int) -> int:
    return 0 if v == 0 else min(2 * bits(v) - 1 + (((2 * v) >> (bits(v) - 1)) & 1), 15)
