"""Section 5.4: the scale bin of a coefficient from its surroundings."""

from __future__ import annotations

import itertools
import math
import re
from functools import cache
from pathlib import Path

import numpy as np

SPEC = Path(__file__).resolve().parents[3] / "psc_volumetric" / "bitstream" / "SPEC-v1.md"
LARGEST = 255 << 12
CUBE = [at for at in itertools.product((-1, 0, 1), repeat=3) if any(at)]
RING = [at for at in itertools.product((-1, 0, 1), repeat=2) if any(at)]
FREQUENCIES = [(0, 0, *at) for at in CUBE]
BLOCKS = [(*at, 0, 0, 0) for at in RING]
FACES = [(0, 0, 0), *(at for at in CUBE if sum(map(abs, at)) == 1)]
AROUND = [(*ring, *face) for ring in RING for face in FACES]


@cache
def weights() -> tuple[list[int], int]:
    """Weights and bias as printed in the text."""
    text = SPEC.read_text(encoding="utf-8").split("### 5.4")[1].split("### 5.5")[0]
    found = [int(w) for w in re.findall(r"^\| f\d+ \|.*\| (-?\d+) \|$", text, re.M)]
    bias = re.search(r"f14 w14 \+ \(?(-?\d+)\)?\) >> 14", text)
    assert len(found) == 15
    assert bias
    return found, int(bias.group(1))


def lg(v: int) -> int:
    o = v.bit_length() - 1
    f = ((v << 8) >> o) - 256
    return 256 * o + f + ((88 * f * (256 - f)) >> 16)


class Surroundings:
    """What was decoded of one tile, on the grid (block row, block column, kz, ky, kx)."""

    def __init__(self, slices: int, size: int, step: int) -> None:
        k = size // 8
        self.grid, self.step = (k, k, slices, 8, 8), step
        self.magnitude = np.zeros(self.grid, np.int64)
        self.expected = np.zeros(self.grid, np.int64)

    def groups(self) -> np.ndarray:
        r, c, z, y, x = np.indices(self.grid)
        return (2 * ((r + c) & 1) + ((z + y + x) & 1)).reshape(-1)

    def around(self, place: tuple[int, ...], offsets: list[tuple[int, ...]]) -> tuple:
        """Index of the neighbours inside the tile."""
        places = np.array(place) + np.array(offsets)
        inside = ((places >= 0) & (places < self.grid)).all(axis=1)
        return tuple(places[inside].T)

    def bin(self, index: int, variance: np.ndarray, mean: np.ndarray, threshold: int) -> int:
        """Scale bin of the coefficient ``index`` of the flattened tile."""
        place = np.unravel_index(index, self.grid)
        q, slices = self.step, self.grid[2]
        variance, mean = variance.reshape(self.grid), np.abs(mean).reshape(self.grid)
        spreads = [lg(int(variance[place])) - 2 * lg(q)]
        means = [lg(16 * int(mean[place]) + 2 * q) - lg(q)]
        for offsets in (FREQUENCIES, BLOCKS):
            near = self.around(place, offsets)
            n, v, m = max(1, len(near[0])), int(variance[near].sum()), int(mean[near].sum())
            spreads.append(lg(v + ((n * q * q) >> 13) + 1) - lg(n) - 2 * lg(q))
            means.append(lg(16 * m + 2 * n * q) - lg(n) - lg(q))
        _, _, z, y, x = map(int, place)
        fixed = [(z * (8 // slices) + y + x) << 8, z * (8 // slices) << 8, lg(max(threshold, 1))]
        surprises = []
        for offsets in (FREQUENCIES, BLOCKS, AROUND):
            near = self.around(place, offsets)
            a, e = int(self.magnitude[near].sum()), int(self.expected[near].sum())
            surprises += [lg(a + 1024) - lg(e + 1024), lg(e + 256)]
        features = [*spreads, *means, *fixed, *surprises]
        factors, bias = weights()
        scale = (sum(f * w for f, w in zip(features, factors, strict=True)) + bias) >> 14
        claimed = features[0] >> 1
        scale = min(max(scale, claimed - 1024), claimed + 1024)
        return min(max(12 + ((4 * scale + 128) >> 8), 0), 68)

    def learn(self, where: np.ndarray, variance: np.ndarray, symbols: np.ndarray) -> None:
        for index, v, symbol in zip(where, variance, symbols, strict=True):
            ratio = min((int(v) << 12) // (self.step * self.step), 1 << 32)
            place = np.unravel_index(index, self.grid)
            self.expected[place] = min(ratio, math.isqrt(2621 * ratio), LARGEST)
            self.magnitude[place] = min(abs(int(symbol)) << 12, LARGEST)
