"""Section 15 of SPEC-v1.md: the context coder's streams, read one voxel after the other."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

import numpy as np

from reference_decoder.context_bits import TABLES, BitDecoder
from reference_decoder.context_levels import Levels, Listed, bits, clamp
from reference_decoder.context_network import Network, Seen
from reference_decoder.fields import Fields, require

NEIGHBOURS = [
    (0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, 0, -2), (0, -2, 0),
    (0, -1, -2), (0, -1, 2), (0, -2, -1), (0, -2, 1), (0, 0, -3), (0, -3, 0),
    (0, -2, -2), (0, -2, 2), (0, -1, -3), (0, -1, 3), (0, -3, -1), (0, -3, 1),
    (0, -2, -3), (0, -2, 3), (0, -3, -2), (0, -3, 2),
    (-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-1, -1, -1),
    (-1, -1, 1), (-1, 1, -1), (-1, 1, 1), (-1, 0, 2), (-1, 2, 0), (-1, 0, -2),
    (-1, -2, 0), (-1, 1, 2), (-1, 1, -2), (-1, -1, 2), (-1, -1, -2),
    (-2, 0, 0), (-2, 0, 1), (-2, 0, -1), (-2, 1, 0), (-2, -1, 0),
]  # fmt: skip
# where errors of a guess are looked up, with their weights
BLEND = [
    (0, 0, -1, 2), (0, -1, 0, 2), (-1, 0, 0, 2), (0, 0, -2, 1), (0, -2, 0, 1), (0, -1, -1, 1),
    (0, -1, 1, 1), (0, -1, -2, 1), (0, -1, 2, 1), (0, -2, -1, 1), (0, -2, 1, 1), (-1, 0, -1, 1),
    (-1, 0, 1, 1), (-1, -1, 0, 1), (-1, 1, 0, 1),
]  # fmt: skip
NEAR = [(0, 0, -1, 2), (0, -1, 0, 2), (0, -1, -1, 1), (0, -1, 1, 1), (0, 0, -2, 1), (0, -2, 0, 1)]
FAR = [(0, 0, -3, 1), (0, -1, -2, 1), (0, -1, 2, 1), (0, -2, -1, 1), (0, -2, 1, 1), (0, -3, 0, 1)]
NEAR_BEFORE = [(-1, 0, 0, 2), (-1, 0, 1, 1), (-1, 0, -1, 1), (-1, 1, 0, 1), (-1, -1, 0, 1)]
FAR_BEFORE = [
    (-1, -1, -1, 1), (-1, -1, 1, 1), (-1, 1, -1, 1), (-1, 1, 1, 1), (-1, 0, 2, 1), (-1, 2, 0, 1),
]  # fmt: skip
AROUND = [(0, 0, 0), (0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0)]
BEHIND = [
    (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, -2), (0, 1, -1), (0, 1, 0), (0, 1, 1), (0, 1, 2),
    (0, 2, -2), (0, 2, -1), (0, 2, 0), (0, 2, 1), (0, 2, 2), (0, 3, 0),
    (1, -1, 0), (1, 0, -1), (1, 0, 0), (1, 0, 1), (1, 1, 0),
]  # fmt: skip
TEXTURE = [(0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1), (-1, 0, 0), (-1, 0, 1), (-1, 1, 0)]


# variants: of the list of a stream, of coders without a network, of those that may name one
OF_LISTS = {0, 1, 5}
PLAIN = {0, 1, 2, 3, 5, 7}
FORESEEN = PLAIN | {9, 11}


def decode_integers(
    data: bytes, shape: tuple, reference=None, cells=None, may_foresee: bool = False
) -> np.ndarray:
    """Section 15; ``cells`` are the least and the largest number of each voxel."""
    return _decode(data, shape, reference, cells, FORESEEN if may_foresee else PLAIN)


def _decode(data: bytes, shape: tuple, reference, cells, variants: set) -> np.ndarray:
    """Section 15.1."""
    require(math.prod(n + p for n, p in zip(shape, (2, 6, 6), strict=True)) <= 1 << 23, "large")
    f = Fields(data)
    variant = f.number("B")
    require(variant in variants, "variant")
    levels = Listed(f, _steps) if variant & 2 else Levels(f)
    top = levels.top
    if variant & 1:
        known = Known(levels, shape, reference, cells)
        coded = Segment(f, shape, top, known, variant).decode()
    else:
        width, count = (bits(top) + 7) // 8, math.prod(shape)
        body = f.bytes(len(data) - f.at)
        require(len(body) == width * count, "packed size")
        coded = [int.from_bytes(body[width * i : width * (i + 1)], "little") for i in range(count)]
        require(max(coded) <= top, "packed integer")
    return np.array([levels.value(i) for i in coded], np.int64).reshape(shape)


def _steps(data: bytes, shape: tuple) -> np.ndarray:
    return _decode(data, shape, None, None, OF_LISTS)


class Known:
    """Sections 15.2 and 15.10: a reference or cells, in coded integers."""

    def __init__(self, levels, shape: tuple, reference, cells) -> None:
        self.shape, self.offsets, self.near, self.ends = shape, [], None, None
        if reference is not None:
            flat = [levels.near(int(r)) for r in reference.reshape(-1)]
            self.offsets, self.near = AROUND, np.array(flat).reshape(shape)
        if cells is not None:
            coded, value = range(levels.top + 1), levels.value
            first = [bisect_left(coded, a, key=value) for a in cells[0].reshape(-1).tolist()]
            last = [bisect_right(coded, a, key=value) - 1 for a in cells[1].reshape(-1).tolist()]
            require(all(a <= b for a, b in zip(first, last, strict=True)), "an empty cell")
            self.ends = list(zip(first, last, strict=True))
            centres = [(a + b) << 7 for a, b in self.ends]
            self.offsets = BEHIND if shape[0] > 1 else BEHIND[:14]
            self.near = np.array(centres).reshape(shape)

    def at(self, z: int, y: int, x: int) -> list[int]:
        """What is looked at from a voxel."""
        nz, ny, nx = self.shape
        found = []
        for a, b, c in self.offsets:
            slice_ = z + a if z + a < nz else nz - 2
            row, column = clamp(y + b, 0, ny - 1), clamp(x + c, 0, nx - 1)
            found.append(int(self.near[slice_, row, column]))
        return found


class Segment:
    """Sections 15.6 to 15.9."""

    def __init__(self, f: Fields, shape: tuple, top: int, known: Known, variant: int) -> None:
        self.shape, self.top, self.known = shape, top, known
        self.is_light = is_light = bool(variant & 4)
        self.clamp_shift = f.number("B")
        self.network = Network(f.number("B")) if variant & 8 else None
        drop, first, others = f.number("B"), f.number("B"), f.number("B")
        require(top > 0 and self.clamp_shift <= 17 and drop <= 14, "header")
        require(1 <= first <= 5 and (shape[0] > 1) <= others <= 5, "predictor sets")
        extras = len(known.offsets)

        def predictor(terms: int) -> list[int]:
            coded = [f.varint((1 << 16) >> drop) for _ in range(terms)]
            return [(c >> 1 if c % 2 == 0 else -((c + 1) >> 1)) << drop for c in coded]

        self.flat, self.every = NEIGHBOURS[:22], NEIGHBOURS
        if is_light:
            self.flat, self.every = NEIGHBOURS[:12], NEIGHBOURS[:12] + NEIGHBOURS[22:34]
        self.first_sets = [predictor(len(self.flat) + extras) for _ in range(first)]
        self.other_sets = [predictor(len(self.every) + extras) for _ in range(others)]
        weights = [48000, 8000, 8000, 0] if is_light else [32000, *[8000] * 4, 0]
        self.decoder = BitDecoder(f.bytes(len(f.data) - f.at), weights)
        z, y, x = shape
        self.v = np.zeros((z + 2, y + 6, x + 6), object)
        self.errors: dict[tuple, list[int]] = {}
        self.final: dict[tuple, int] = {}
        self.bias: dict[tuple, tuple[int, int]] = {}

    def decode(self) -> list[int]:
        nz, ny, nx = self.shape
        check, out = 0, []
        for z in range(nz):
            self.sets = self.other_sets if z else self.first_sets
            self.neighbours = self.every if z else self.flat
            count = len(self.neighbours) + len(self.known.offsets)
            if z < 2:
                self.fast, self.slow = [c << 6 for c in self.sets[0][:count]], [0] * count
            if z:
                self.v[z + 2, :3] = self.v[z + 1, 3]
            for y in range(ny):
                row = self.v[z + 2, y + 3]
                row[:3] = self.v[z + 2, y + 2, 3]
                for x in range(nx):
                    value = self._voxel(z, y, x, len(out))
                    row[x + 3] = value
                    out.append(value)
                    check = (40503 * check + value + 1) & 65535
                row[nx + 3 :] = row[nx + 2]
            self.v[z + 2, ny + 3 :] = self.v[z + 2, ny + 2]
            if z == 0:
                self.v[1] = self.v[2]
        self.decoder.end(check)
        return out

    def _sum(self, place, offsets) -> int:
        z, y, x = place
        return sum(w * abs(self.final.get((z + a, y + b, x + c), 0)) for a, b, c, w in offsets)

    def _error_from(self, place):
        z, y, x = place
        return lambda a, b, c: self.final.get((z + a, y + b, x + c), 0)

    def _voxel(self, z: int, y: int, x: int, number: int) -> int:
        place, west = (z, y, x), int(self.v[z + 2, y + 3, x + 2])
        base, top = west << 8, self.top << 8

        def at(a: int, b: int, c: int) -> int:
            return int(self.v[z + 2 + a, y + 3 + b, x + 3 + c])

        d = [at(*offset) - west for offset in self.neighbours]
        extra = [r - base for r in self.known.at(z, y, x)]
        guesses = []
        for c in self.sets:
            total = sum(a * b for a, b in zip(c, d, strict=False)) << 8
            total += sum(a * b for a, b in zip(c[len(d) :], extra, strict=True))
            guesses.append(base + (total >> 14))
        t = [clamp(a >> self.clamp_shift, -32768, 32767) for a in [*d, *(e >> 8 for e in extra)]]
        fast = sum(a * b for a, b in zip(self.fast, t, strict=True))
        slow = sum(a * b for a, b in zip(self.slow, t, strict=True))
        if not self.is_light:
            guesses.append(base + ((fast << self.clamp_shift) >> 12))
            guesses.append(guesses[0] + ((slow << self.clamp_shift) >> 12))
        north = at(0, -1, 0)
        if z:
            slope = west - at(-1, 0, -1) + north - at(-1, -1, 0)
            guesses.append((at(-1, 0, 0) << 8) + (slope << 7))
        else:
            guesses.append((west + north) << 7)
        if z == 0 and y == 0 and not extra:
            guesses = [base] * len(guesses)
        guesses = [clamp(g, 0, top) for g in guesses]
        blended, smallest = self._blend(place, base, guesses)

        near, far = self._sum(place, NEAR), self._sum(place, FAR)
        if z:
            near, far = near + self._sum(place, NEAR_BEFORE), far + self._sum(place, FAR_BEFORE)
        error = (2 * near + far) // (40 if z else 22)
        level = bits(error)
        texture = sum(
            (at(*offset) << 8 > blended) << i for i, offset in enumerate(TEXTURE[: 7 if z else 4])
        )
        unit = max(error, 1)
        signs = tuple(
            clamp(4 * self.final.get((z + a, y + b, x + c), 0) // unit, -m, m)
            for a, b, c, m in ((0, 0, -1, 6), (0, -1, 0, 6), (-1, 0, 0, 4))
        )
        biases = [("texture", texture, min(level, 15)), ("signs", *signs)]
        shift = 0
        for key in biases:
            total, count = self.bias.get(key, (0, 0))
            shift += total // (count + 8)
        mean = clamp(blended + ((5 * shift) >> 3), 0, top)

        scale = max((error * 46) >> 6, 16)
        ends = (0, self.top) if self.known.ends is None else self.known.ends[number]
        value = ends[0]
        if ends[0] < ends[1]:
            seen = Seen(
                at, self._error_from(place), z == 0, guesses, blended, smallest,
                mean, level, scale, ends,
            )  # fmt: skip
            value = self._decide(seen, texture, number)

        exact = value << 8
        self.final[place] = exact - mean
        self.errors[place] = [min(abs(exact - g), 1 << 26) for g in guesses]
        for key in biases:
            total, count = self.bias.get(key, (0, 0))
            total, count = total + exact - blended, count + 1
            self.bias[key] = (total >> 1, count >> 1) if count >= 256 else (total, count)
        if self.is_light:
            return value
        size = 128 * sum(a * a for a in t) + 4096
        for weights, guess, rate in ((self.fast, guesses[-3], 12), (self.slow, guesses[-2], 17)):
            off = clamp((exact - guess) >> self.clamp_shift, -(1 << 24), 1 << 24)
            step = (off << 28) // size
            for i, a in enumerate(t):
                weights[i] = clamp(weights[i] + ((step * a) >> rate), -(1 << 24), 1 << 24)
        return value

    def _decide(self, seen: Seen, texture: int, number: int) -> int:
        """Section 15.9, as a network foresees it if there is one."""
        centre, width, group = seen.mean, seen.scale, min(seen.level, 23)
        if self.network and seen.level:
            centre, width = self.network.foresee(seen, self.top)
            group = min(bits((89 * width) >> 6), 23)
        centres = [centre] if self.is_light else [centre, seen.guesses[-3], seen.blended]
        contexts = (texture, min(seen.level >> 1, 7)), _rough((centre + 128) >> 8)
        speed = 10 + (20 >> min(number >> 13, 5))
        decisions = Decisions(self.decoder, centres, width, contexts, group, speed)
        return decisions.decode(*seen.ends)

    def _blend(self, place: tuple, base: int, guesses: list[int]) -> tuple[int, int]:
        """Section 15.7: blended, and the smallest sum."""
        z, y, x = place
        sums = [8] * len(guesses)
        for a, b, c, weight in BLEND:
            for k, e in enumerate(self.errors.get((z + a, y + b, x + c), [])[: len(guesses)]):
                sums[k] += weight * e
        total = mean = 0
        for guess, s in zip(guesses, sums, strict=True):
            ratio = (min(sums) << 10) // s
            cube = (((ratio * ratio) >> 10) * ratio) >> 10
            weight = (cube * cube) >> 10
            total, mean = total + weight, mean + weight * (guess - base)
        return base + mean // total, min(sums)


def _rough(whole: int) -> int:
    """Small numbers as they are, larger ones by their size and the next three digits."""
    size = bits(whole)
    if size < 8:
        return whole
    return min(8 * (size + 8) + ((whole << 3 >> (size - 1)) & 7), 255)


class Decisions:
    """Section 15.9: one value as binary decisions."""

    def __init__(self, decoder, centres, scale, contexts, group, speed) -> None:
        self.decoder, self.contexts, self.group, self.speed = decoder, contexts, group, speed
        self.shift = max(bits(scale) - 14, 0)
        self.inverse = (1 << 30) // (scale >> self.shift)
        self.scale, self.mean = scale, centres[0]
        self.moved = [self.logits(self.mean - centre) for centre in centres]

    def logits(self, distance: int) -> int:
        return (clamp(distance >> self.shift, -(1 << 20), 1 << 20) * self.inverse) >> 22

    def x(self, value: int) -> int:
        return self.logits((value << 8) - 128 - self.mean)

    def asked(self, edge: int) -> list[int]:
        """The logits of an edge between the ends."""
        low, here, high = self.x(self.least), self.x(edge), self.x(self.most + 1)
        below, above = min(here - low, 2047), min(high - here, 2047)
        shared = high - here + TABLES.rise[below] - TABLES.rise[above]
        found = (shared + bend(low + m) - bend(high + m) for m in self.moved)
        return [clamp(logit, -3071, 3071) for logit in found]

    def answered(self, edge: int, bit: int) -> int:
        if bit:
            self.least = edge
        else:
            self.most = edge - 1
        return bit

    def modelled(self, edge: int, node: int, mixer: int) -> int:
        mixer += 3 * self.group
        bit = self.decoder.modelled(self.asked(edge), self.contexts, node, mixer, self.speed)
        return self.answered(edge, bit)

    def decode(self, least: int, most: int) -> int:
        self.least, self.most = least, most
        width, digits = bits((18 * self.scale) >> 12), bits(most - least)
        above = 1
        if digits > width:
            centre = clamp((self.mean >> 8) + 1, least + 1, most)
            above, step = self.modelled(centre, min(width, 15), 0), 0
            while True:
                edge = centre + (1 << (width + step)) * (1 if above else -1)
                if not self.least < edge <= self.most:
                    break
                node = 16 + 32 * above + 2 * min(width + step, 15) + min(step, 1)
                if self.modelled(edge, node, 1) != above:
                    break
                step += 1
            digits = width + max(step - 1, 0)
        return self.halved(above, digits, 80 + 16 * above + min(digits, 15))

    def halved(self, above: int, digits: int, node: int) -> int:
        count = 0
        light = len(self.moved) == 1
        while self.least < self.most:
            if count > 1 and self.most - self.least + 1 == 1 << digits:
                return self.least + self.even(digits)
            digits -= 1
            edge = self.least + (1 << digits) if above else self.most + 1 - (1 << digits)
            if not self.least < edge <= self.most:
                continue
            if count == 0 and not light:
                self.modelled(edge, node, 2)
            else:
                p = TABLES.squash[clamp(self.asked(edge)[0], -1400, 1400)]
                self.answered(edge, self.decoder.bit(p))
            count += 1
        return self.least

    def even(self, digits: int) -> int:
        known = 0
        while digits:
            count = min(digits, 8)
            digits -= count
            known = (known << count) + self.decoder.number(count)
        return known


def bend(x: int) -> int:
    """ln(1 + exp(x)) in 256ths."""
    return max(x, 0) + TABLES.bend[min(abs(x), 2047)]
