"""Sections 15.1 and 15.2 of SPEC-v1.md: which integers occur."""

from __future__ import annotations

from itertools import accumulate

from reference_decoder.fields import Fields, require

SPAN = (1 << 32) - 1


def clamp(a: int, low: int, high: int) -> int:
    return min(max(a, low), high)


def bits(a: int) -> int:
    return a.bit_length()


class Levels:
    """Sections 15.1 and 15.2 without a list."""

    def __init__(self, f: Fields) -> None:
        self.lowest = f.number("q")
        self.divisor, self.top = f.varint(SPAN), f.varint(SPAN)
        self.gaps = [(f.varint(SPAN), f.varint(SPAN)) for _ in range(f.varint(64))]
        starts = [0, *(start for start, _ in self.gaps), self.top + 1]
        require(starts == sorted(set(starts)) and self.divisor >= 1, "levels")
        span = (self.top + sum(length for _, length in self.gaps)) * self.divisor
        require(span <= SPAN and abs(self.lowest) <= 1 << 62, "levels")

    def value(self, i: int) -> int:
        full = i + sum(length for start, length in self.gaps if i >= start)
        return self.lowest + self.divisor * full

    def near(self, r: int) -> int:
        v = ((r - (self.lowest << 4)) << 4) // self.divisor
        for start, length in self.gaps:
            edge = (start - 1) << 8
            v = v - (length << 8) if v - (length << 8) > edge else min(v, edge)
        return clamp(v, 0, self.top << 8)


class Listed:
    """Sections 15.1 and 15.2 with a list."""

    def __init__(self, f: Fields, decode) -> None:
        lowest = f.number("q")
        self.top = f.varint((1 << 17) - 1)
        stream = f.bytes(f.varint(SPAN))
        require(self.top >= 2 and abs(lowest) <= 1 << 62, "list")
        steps = decode(stream, (1, 1, self.top)).reshape(-1).tolist()
        require(min(steps) >= 1 and sum(steps) <= SPAN, "list")
        self.table = list(accumulate(steps, initial=lowest))

    def value(self, i: int) -> int:
        return self.table[i]

    def near(self, r: int) -> int:
        u = [clamp(t, -SPAN, SPAN) << 4 for t in self.table]
        b = clamp(sum(a <= r for a in u) - 1, 0, self.top - 1)
        part = ((r - u[b]) << 8) // max(u[b + 1] - u[b], 1)
        return (b << 8) + clamp(part, 0, 256)
