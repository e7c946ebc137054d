"""Sections 15.3 to 15.5 of SPEC-v1.md: tables, decisions, and bits whose chance is learnt."""

from __future__ import annotations

from bisect import bisect_right

from reference_decoder.context_levels import clamp
from reference_decoder.fields import require
from reference_decoder.symbols import RangeDecoder


class Tables:
    """Section 15.3."""

    def __init__(self) -> None:
        decay = [1 << 31]
        for _ in range(4096):
            decay.append((decay[-1] * 2139111403 + (1 << 30)) >> 31)
        upper = [min((1 << 47) // ((1 << 31) + d), 65535) for d in decay[:3072]]
        self.squash = dict(enumerate(upper))
        self.squash.update({-i: 65536 - p for i, p in enumerate(upper) if i})
        self.stretch, x = [], -3071
        for i in range(4096):
            while x < 3071 and self.squash[x] < 16 * i + 8:
                x += 1
            self.stretch.append(x)
        one = 1 << 31

        def place(number: int) -> int:  # decay falls: the last that is not below
            return bisect_right(decay, -number, key=lambda d: -d) - 1

        self.bend = [place(one * one // (one + decay[i])) for i in range(2048)]
        self.rise = [place(one - decay[max(i, 1)]) for i in range(2048)]


TABLES = Tables()


class BitDecoder(RangeDecoder):
    """Sections 15.4 and 15.5: decisions, counters and weights."""

    def __init__(self, data: bytes, first_weights=()) -> None:
        super().__init__(data)
        self.first_weights = first_weights
        self.counters: dict[tuple, tuple[int, int]] = {}
        self.weights: dict[int, list[int]] = {}

    def bit(self, probability: int) -> int:
        return self.symbol([0, 65536 - probability, 65536], 16)

    def _word(self) -> int:
        require(self.used <= len(self.words), "code words end early")
        return super()._word()

    def end(self, check: int) -> None:
        """Section 15.4: the check, and no word left."""
        require(self.number(16) == check, "check bits")
        require(self.used >= len(self.words), "words after the last")

    def modelled(self, logits, contexts, node: int, mixer: int, speed: int) -> int:
        keys = [(i, context, node) for i, context in enumerate(contexts)]
        states = [self.counters.get(key, (1 << 21, 0)) for key in keys]
        inputs = [*logits, *(TABLES.stretch[p >> 10] for p, _ in states), 256]
        weights = self.weights.setdefault(mixer, list(self.first_weights))
        total = sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16
        p = clamp(TABLES.squash[clamp(total, -3071, 3071)], 8, 65528)
        bit = self.bit(p)
        error = ((bit << 16) - p) * speed
        for i, x in enumerate(inputs):
            step = (x * error + (1 << 19)) >> 20
            weights[i] = clamp(weights[i] + step, -(1 << 20), 1 << 20)
        for key, (q, n) in zip(keys, states, strict=True):
            q += ((bit * 0x3FFFFF - q) * ((2 << 16) // (2 * n + 3))) >> 16
            self.counters[key] = (q, min(n + 1, 400))
        return bit
