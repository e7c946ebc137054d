"""Sections 3.13 and 17.8 of SPEC-v1.md: coefficients that a network foresees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reference_decoder.context_bits import TABLES
from reference_decoder.context_levels import clamp
from reference_decoder.exact import rshift
from reference_decoder.fields import Fields, Header, require
from reference_decoder.posterior import moments
from reference_decoder.prior import Prior
from reference_decoder.wavelet import (
    Band,
    Numbers,
    _level,
    coefficients,
    decode_numbers,
    list_bands,
    low_extents,
    put_together,
    weight_of,
)

FAR = 1 << 31


def read_glimpses(data: Fields, h: Header) -> dict:
    """Section 3.13: level, zoom and scale of every scale that is foreseen."""
    if h.view is None:
        return {}
    most = min(4, *(len(low_extents(n)) - 1 for n in h.valid[1:]))
    scales, found = data.number("B"), {}
    require(scales < 1 << most, "scales that are foreseen")
    for s in range(most, 0, -1):
        if scales & (1 << (s - 1)):
            level, zoom, scale = (data.number(code) for code in "BII")
            require(1 <= zoom < FAR and 1 <= scale < FAR, "zoom or scale")
            found[s] = (level, zoom, scale)
    return found


def decode(data: bytes, h: Header, prior: Prior) -> np.ndarray:
    """Samples of a stream."""
    steps, z_most = decode_numbers(data, h.valid, Foreseen(data[1:], h, prior))
    return put_together(coefficients(steps, z_most), z_most)


class Foreseen(Numbers):
    """Section 17.8."""

    def __init__(self, data: bytes, h: Header, prior: Prior) -> None:
        super().__init__(data)
        self.h, self.prior, self.scale = h, prior, None
        self.guesses = np.zeros(h.valid, np.int64)
        self.halves = np.zeros(h.valid, np.int64)
        self.voices: dict = {}

    def ordered(self, bands: list) -> list:
        return sorted(enumerate(bands), key=lambda b: (b[1].kind > 0, -b[1].scale, b[0]))

    def begin(self, band: Band, steps: np.ndarray, z_most: int) -> None:
        if band.scale != self.scale and band.scale in self.h.glimpses:
            self._foresee(band.scale, steps, z_most)
        self.scale, self.kind = band.scale, band.kind

    def _foresee(self, s: int, steps: np.ndarray, z_most: int) -> None:
        level, zoom, scale = self.h.glimpses[s]
        rows, columns = (low_extents(n)[s - 1] for n in steps.shape[1:])
        known = coefficients(steps, z_most)[:, :rows, :columns].copy()
        seen = rshift(np.clip(put_together(known, z_most), -FAR, FAR) * zoom, 24)
        view = replace(self.h.view, gain=16, level=level, scale=scale)
        added, halves = moments(seen, view, self.prior)
        change = np.clip(((added - seen) << 24) // zoom, -FAR, FAR)
        planes = len(change)
        for _ in range(z_most):
            change[:planes] = np.apply_along_axis(_split, 0, change[:planes])
            planes = -(-planes // 2)
        for axis in (1, 2):
            change = np.apply_along_axis(_split, axis, change)
        for band in list_bands(steps.shape, z_most):
            if band.kind and band.scale == s:
                box, k = np.ix_(*band.ranges), band.splits[0]
                guess = (change[box] << 20) // weight_of(band)
                self.guesses[box] = np.clip(guess, -(1 << 30), 1 << 30)
                sums = halves
                for axis in (*[0] * k, 1, 2):
                    sums = np.apply_along_axis(_added, axis, sums)
                near = np.ix_(*(range(len(r)) for r in band.ranges))
                self.halves[box] = sums[near] >> (k + 2)

    def seen(self, contexts: tuple, place: tuple) -> tuple:
        self.guess = int(self.guesses[place])
        self.clear = _level(abs(self.guess))
        spread = clamp(int(self.halves[place]) - 14, 0, 31)
        return (
            *contexts,
            32 * self.clear + contexts[0],
            1024 * self.kind + 32 * spread + contexts[0],
            128 * self.clear + 4 * spread + min(contexts[0] // 6, 3),
        )

    def weighed(self, contexts, share: int, node: int, mixer: int) -> int:
        keys = [(i, context, node) for i, context in enumerate(contexts)]
        states = [self.counters.get(key, (64 * share, 0)) for key in keys]
        inputs = [TABLES.stretch[share >> 4], *(TABLES.stretch[q >> 10] for q, _ in states), 256]
        sets = [mixer, ("foreseen", mixer // 32, self.clear)]
        weights = [self.weights.setdefault(k, [45875, *[4369] * 9, 0]) for k in sets]
        total = sum((a + b) * x for a, b, x in zip(*weights, inputs, strict=True)) >> 17
        p = clamp(TABLES.squash[clamp(total, -3071, 3071)], 8, 65528)
        bit = self.bit(p)
        for key, given in zip(sets, weights, strict=True):
            self.weights[key] = _taught(given, inputs, ((bit << 16) - p) * 40)
        for key, (q, n) in zip(keys, states, strict=True):
            rate = (1 << 17) // (2 * n + 3)
            self.counters[key] = (q + (((4194303 * bit - q) * rate) >> 16), min(n + 1, 400))
        return bit

    def sign(self, number: int, said: list) -> bool:
        kind, z_high = number % 4, number // 4 % 2
        first = [0] * 12 + [65536]
        first[0] = 19661 if kind in (0, 1) else -19661
        first[2] = 19661 if kind in (0, 2) else -19661
        first[6] = -19661 if z_high else 19661
        weights = self.weights.setdefault(("sign", number), first)
        voice = 4 * min(abs(self.guess) >> 8, 63) + kind
        right = self.voices.get(voice, 32768)
        clear = TABLES.stretch[right >> 4]
        inputs = [*(256 * clamp(v, -2, 2) for v in said), clear if self.guess > 0 else -clear]
        total = sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16
        p = clamp(TABLES.squash[clamp(total, -3071, 3071)], 8, 65528)
        bit = self.bit(p)
        self.weights["sign", number] = _taught(weights, inputs, ((bit << 16) - p) * 100)
        if self.guess:
            agrees = bit == (self.guess > 0)
            self.voices[voice] = right + ((65535 * agrees - right) >> 6)
        return bool(bit)


def _taught(weights: list, inputs: list, error: int) -> list:
    return [
        clamp(w + ((x * error + (1 << 19)) >> 20), -(1 << 20), 1 << 20)
        for w, x in zip(weights, inputs, strict=True)
    ]


def _split(line: np.ndarray) -> np.ndarray:
    """One split of a line."""
    low, high = [int(v) for v in line[0::2]], [int(v) for v in line[1::2]]
    last_low, last_high = len(low) - 1, len(high) - 1

    def changed(value: int, factor: int, a: int, b: int) -> int:
        return clamp(value + ((factor * (a + b) + (1 << 19)) >> 20), -(1 << 36), 1 << 36)

    for of_high, of_low in ((-1663182, -55554), (925799, 465051)):
        high = [changed(v, of_high, low[i], low[min(i + 1, last_low)]) for i, v in enumerate(high)]
        low = [
            changed(v, of_low, high[max(i - 1, 0)], high[min(i, last_high)])
            for i, v in enumerate(low)
        ]
    return np.array(low + high, np.int64)


def _added(line: np.ndarray) -> np.ndarray:
    """Sums of neighbours, the last one twice where it is alone."""
    return line[0::2] + np.append(line[1::2], line[-1:])[: len(line[0::2])]
