"""Section 5.10: one sigma per voxel from the sigma tables, class by class."""

from __future__ import annotations

import numpy as np

from reference_decoder.fields import require
from reference_decoder.symbols import AdaptiveScale, RangeDecoder

BANDS, COLUMNS = 18, 16
Q = (16384, 19484, 23170, 27554)


def read_tables(data: bytes, levels: int) -> tuple[int, np.ndarray]:
    """First half octave, and the entries (levels, 18, 16)."""
    require(data[0] <= 31, "first half octave")
    coder = RangeDecoder(data[1:])
    contexts = [AdaptiveScale(1, 32), AdaptiveScale(4, 4), AdaptiveScale(12, 4)]
    t = np.zeros((levels, BANDS, COLUMNS), np.int64)
    missed = np.zeros_like(t)
    for level, y, x in np.ndindex(*t.shape):
        predicted = min(max(_predict(t, level, y, x), 0), 87)
        west = missed[level, y, x - 1] if x else 0
        north = missed[level, y - 1, x] if y else 0
        context = contexts[west + north]
        residual = coder.integers([context.scale_bin()])[0]
        context.learn(abs(residual))
        missed[level, y, x] = residual != 0
        t[level, y, x] = predicted + residual
        require(0 <= t[level, y, x] <= 87, "entry of the sigma tables")
    return data[0], t


def _predict(t: np.ndarray, level: int, y: int, x: int) -> int:
    """Section 5.8, with planes of 18 x 16."""
    if y == 0 and x == 0:
        return int(t[level - 1, 0, 0]) if level else 40
    plane = t[level]
    west = int(plane[y, x - 1]) if x else int(plane[y - 1, 0])
    north = int(plane[y - 1, x]) if y else west
    corner = int(plane[y - 1, x - 1]) if x and y else north
    if corner >= max(west, north):
        return min(west, north)
    if corner <= min(west, north):
        return max(west, north)
    return west + north - corner


def sigma_of_tile(
    mean: np.ndarray, spread: np.ndarray, first: int, table: np.ndarray
) -> np.ndarray:
    """Sigma (slices, height, width), 14 fraction bits; one table of (18, 16) entries."""
    out = np.zeros(mean.shape, np.int64)
    c = np.clip(mean, -2048, 2048) << 3

    def near(axis: int, shift: int) -> np.ndarray:
        size = mean.shape[1 + axis]
        return np.clip(np.arange(size) + shift, 0, size - 1)

    around = range(-8, 9)
    for z in range(len(mean)):
        rough = spread[z].astype(np.int64)
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            # at the edge the voxel itself: adds 0
            rough = rough + abs(np.take(c[z], near(axis, shift), axis=axis) - c[z])
        total = sum(rough[near(0, i)][:, near(1, j)] for i in around for j in around)
        for y, x in np.ndindex(*mean.shape[1:]):
            band = min(max(((int(mean[z, y, x]) + 2048) >> 8) + 1, 0), 17)
            activity = int(total[y, x]) // 289
            half = max(0, (activity * activity).bit_length() - 1)
            entry = int(table[band, min(max(half - first, 0), 15)])
            out[z, y, x] = (Q[entry & 3] << (entry >> 2)) >> 14
    return out
