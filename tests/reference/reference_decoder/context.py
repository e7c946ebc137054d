"""Section 15 of SPEC-v1.md: the context coder's streams, read one voxel after the other."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

import numpy as np

from reference_decoder.context_levels import Levels, Listed, bits, clamp
from reference_decoder.fields import Fields, Refused, require
from reference_decoder.symbols import RangeDecoder

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


def decode_integers(data: bytes, shape: tuple, reference=None, cells=None) -> np.ndarray:
    """Section 15; ``cells`` are the least and the largest number of each voxel."""
    return _decode(data, shape, reference, cells, 3)


def _decode(data: bytes, shape: tuple, reference, cells, last_variant: int) -> np.ndarray:
    """Section 15.1."""
    require(math.prod(n + p for n, p in zip(shape, (2, 6, 6), strict=True)) <= 1 << 23, "large")
    f = Fields(data)
    variant = f.number("B")
    require(variant <= last_variant, "variant")
    levels = Listed(f, _decode) if variant & 2 else Levels(f)
    top = levels.top
    if variant & 1:
        known = Known(levels, shape, reference, cells)
        coded = Segment(f, shape, top, known).decode()
    else:
        width, count = (bits(top) + 7) // 8, math.prod(shape)
        body = f.bytes(len(data) - f.at)
        require(len(body) == width * count, "packed size")
        coded = [int.from_bytes(body[width * i : width * (i + 1)], "little") for i in range(count)]
        require(max(coded) <= top, "packed integer")
    return np.array([levels.value(i) for i in coded], np.int64).reshape(shape)


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
        high = [(1 << 61) // ((1 << 31) + decay[2 * i]) for i in range(2049)]
        self.cdf = dict(enumerate(high))
        self.cdf.update({-i: (1 << 30) - p for i, p in enumerate(high) if i})


TABLES = Tables()


class BitDecoder(RangeDecoder):
    """Sections 15.4 and 15.5: decisions, counters and weights."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
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
        weights = self.weights.setdefault(mixer, [32000] + [8000] * 4 + [0])
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


class Segment:
    """Sections 15.6 to 15.9."""

    def __init__(self, f: Fields, shape: tuple, top: int, known: Known) -> None:
        self.shape, self.top, self.known = shape, top, known
        self.clamp_shift = f.number("B")
        drop, first, others = f.number("B"), f.number("B"), f.number("B")
        require(top > 0 and self.clamp_shift <= 17 and drop <= 14, "header")
        require(1 <= first <= 5 and (shape[0] > 1) <= others <= 5, "predictor sets")
        extras = len(known.offsets)

        def predictor(terms: int) -> list[int]:
            coded = [f.varint((1 << 16) >> drop) for _ in range(terms)]
            return [(c >> 1 if c % 2 == 0 else -((c + 1) >> 1)) << drop for c in coded]

        self.first_sets = [predictor(22 + extras) for _ in range(first)]
        self.other_sets = [predictor(44 + extras) for _ in range(others)]
        self.decoder = BitDecoder(f.bytes(len(f.data) - f.at))
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
            self.neighbours = NEIGHBOURS[: 44 if z else 22]
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
        blended = self._blend(place, base, guesses)

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
        places = [(mean, scale), (guesses[-3], scale), (blended, scale)]
        contexts = (
            (texture, min(level >> 1, 7)),
            _rough((mean + 128) >> 8),
        )
        speed = 10 + (20 >> min(number >> 13, 5))
        ends = (0, self.top) if self.known.ends is None else self.known.ends[number]
        value = ends[0]
        if ends[0] < ends[1]:
            value = Value(self.decoder, places, ends, contexts, min(level, 23), speed).decode()

        exact = value << 8
        self.final[place] = exact - mean
        self.errors[place] = [min(abs(exact - g), 1 << 26) for g in guesses]
        for key in biases:
            total, count = self.bias.get(key, (0, 0))
            total, count = total + exact - blended, count + 1
            self.bias[key] = (total >> 1, count >> 1) if count >= 256 else (total, count)
        size = 128 * sum(a * a for a in t) + 4096
        for weights, guess, rate in ((self.fast, guesses[-3], 16), (self.slow, guesses[-2], 21)):
            off = clamp((exact - guess) >> self.clamp_shift, -(1 << 24), 1 << 24)
            step = (off << 32) // size
            for i, a in enumerate(t):
                weights[i] = clamp(weights[i] + ((step * a) >> rate), -(1 << 24), 1 << 24)
        return value

    def _blend(self, place: tuple, base: int, guesses: list[int]) -> int:
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
        return base + mean // total


def _rough(whole: int) -> int:
    """Small numbers as they are, larger ones by their size and the next three digits."""
    size = bits(whole)
    if size < 8:
        return whole
    return min(8 * (size + 8) + ((whole << 3 >> (size - 1)) & 7), 255)


class Value:
    """Section 15.10: one value as binary decisions."""

    def __init__(self, decoder, places, ends, contexts, group, speed) -> None:
        self.decoder, self.contexts = decoder, contexts
        self.first, self.last = ends
        self.group, self.speed, self.places = group, speed, places
        self.base = clamp((places[0][0] + 128) >> 8, *ends)

    def below(self, distance: int) -> list[int]:
        out = []
        for mean, scale in self.places:
            shift = max(bits(scale) - 14, 0)
            moved = clamp((distance + (self.base << 8) - mean) >> shift, -(1 << 20), 1 << 20)
            inverse = (1 << 30) // (scale >> shift)
            out.append(TABLES.cdf[clamp((moved * inverse) >> 23, -2048, 2048)])
        return out

    def modelled(self, parts, wholes, node: int, mixer: int) -> int:
        logits = logits_of(parts, wholes)
        return self.decoder.modelled(
            logits, self.contexts, node, 3 * self.group + mixer, self.speed
        )

    def decode(self) -> int:
        base, first, last, every = self.base, self.first, self.last, range(3)
        ol = self.below(((first - base) << 8) - 128)
        out_r = self.below(((last - base) << 8) + 128)
        il, ir = [0] * 3, [0] * 3
        low, high = 0, bits(max(base - first, last - base))
        probe = clamp(bits(self.places[0][1] >> 8), 1, high)
        nodes = 0
        while low < high:
            edge = ((1 << probe) >> 1 << 8) - 128
            left = [max(a, b) for a, b in zip(self.below(-edge), ol, strict=True)]
            right = [min(a, b) for a, b in zip(self.below(edge), out_r, strict=True)]
            parts = [out_r[k] - right[k] + left[k] - ol[k] for k in every]
            wholes = [out_r[k] - ir[k] + il[k] - ol[k] for k in every]
            if self.modelled(parts, wholes, nodes + probe, min(probe - 1, 1)):
                low, probe, il, ir = probe, probe + 1, left, right
            else:
                high, probe, ol, out_r = probe - 1, probe - 1, left, right
                if low < high:
                    nodes = 40
        if low == 0:
            return base
        known = 1 << (low - 1)
        if base + known > last:
            sign = 0
        elif base - known < first:
            sign = 1
        else:
            up = [out_r[k] - ir[k] for k in every]
            wholes = [up[k] + il[k] - ol[k] for k in every]
            sign = self.modelled(up, wholes, 80 + min(low, 7), 2)
        near, far = (ir, out_r) if sign else (il, ol)
        for place in range(low - 2, max(low - 4, -1), -1):
            edge = ((known + (1 << place)) << 8) - 128
            middle = self.below(edge if sign else -edge)
            middle = [
                clamp(m, min(a, b), max(a, b)) for m, a, b in zip(middle, near, far, strict=True)
            ]
            parts = [abs(far[k] - middle[k]) for k in every]
            wholes = [abs(far[k] - near[k]) for k in every]
            if place == low - 2:
                bit = self.modelled(parts, wholes, 88 + min(low, 15), 2)
            else:
                p = TABLES.squash[clamp(logits_of(parts, wholes)[0], -320, 320)]
                bit = self.decoder.bit(p)
            near, far = (middle, far) if bit else (near, middle)
            known |= bit << place
        rest = max(low - 3, 0)
        while rest:
            count = min(rest, 8)
            rest -= count
            known |= self.decoder.number(count) << rest
        value = base + known if sign else base - known
        if not first <= value <= last:
            raise Refused("a value is out of range")
        return value


def logits_of(parts: list[int], wholes: list[int]) -> list[int]:
    return [TABLES.stretch[((p + 1) << 12) // (w + 2)] for p, w in zip(parts, wholes, strict=True)]
