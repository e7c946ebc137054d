"""Section 5, schedule ``single_pass``: structured rows, uniform quantiser."""

from __future__ import annotations

import math

import numpy as np

from reference_decoder.exact import forward, inverse, isqrt, noise, rshift
from reference_decoder.fields import Header, require
from reference_decoder.prior import Prior
from reference_decoder.scales import Surroundings
from reference_decoder.symbols import AdaptiveScale, RangeDecoder

COEFFICIENT_LIMIT = 1 << 19
VARIANCE_LIMIT = 1 << 42


def renoise(
    prior: Prior, x0: np.ndarray, h: Header, tile: int, done: int, level: int, *, centred: bool
):
    """Section 5.1: particles (s, slices, t, t) at a noise level."""
    alpha = int(prior.tensors["schedule.alpha"][level])
    sigma = int(prior.tensors["schedule.sigma"][level])
    s = len(x0)
    z = noise(h.seed, tile, done, s, x0[0].size).reshape(x0.shape)
    if centred:
        z = rshift((s * z - z.sum(0)) * math.isqrt(2**32 // (s * (s - 1))), 16)
    return np.clip(rshift(alpha * x0 + sigma * z, 16), -32767, 32767)


def check_digest(coder: RangeDecoder, mean: np.ndarray, variance: np.ndarray) -> None:
    """Section 5.7."""
    weights = ((np.arange(len(mean), dtype=np.int64) * 40503) & 0xFFFF) | 1
    own = int((((mean ^ variance) & 0xFFFF) * weights).sum()) & 0xFFFF
    require(coder.bits(16) == own, "state digest")


def summarise(x0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Section 5: posterior mean (11 fraction bits) and spread (14)."""
    s = len(x0)
    total = x0.sum(0)
    spread = s * (x0 * x0).sum(0) - total * total
    return (2 * total + s) // (2 * s), isqrt((spread << 6) // (s * (s - 1)))


def read_base(data: bytes, h: Header) -> np.ndarray:
    """Section 5.8: block means (tiles, blocks per tile), 11 fraction bits."""
    (nz, ny, nx), k = h.counts, h.tile[1] // 8
    grid = np.zeros((nz, ny * k, nx * k), np.int64)
    coder = RangeDecoder(data)
    contexts = [AdaptiveScale(4 << c, 4) for c in range(9)]
    for z, y, x in np.ndindex(*grid.shape):
        predicted, activity = _predict(grid, z, y, x)
        context = contexts[sum(activity > edge for edge in (0, 1, 3, 7, 15, 31, 63, 127))]
        residual = coder.integers([context.scale_bin()])[0]
        context.learn(abs(residual))
        require(abs(predicted + residual) <= 1 << 22, "a block mean is out of range")
        grid[z, y, x] = predicted + residual
    tiles = grid.reshape(nz, ny, k, nx, k).transpose(0, 1, 3, 2, 4).reshape(-1, k * k)
    return np.clip(tiles * h.coarse_step, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)


def _predict(grid: np.ndarray, z: int, y: int, x: int) -> tuple[int, int]:
    if y == 0 and x == 0:
        return (int(grid[z - 1, 0, 0]), 63) if z else (0, 1024)
    west = int(grid[z, y, x - 1]) if x else int(grid[z, y - 1, 0])
    north = int(grid[z, y - 1, x]) if y else west
    corner = int(grid[z, y - 1, x - 1]) if x and y else north
    if corner >= max(west, north):
        predicted = min(west, north)
    elif corner <= min(west, north):
        predicted = max(west, north)
    else:
        predicted = west + north - corner
    return predicted, abs(west - corner) + abs(north - corner)


def base_tile(means: np.ndarray, h: Header) -> np.ndarray:
    """Section 5.8: the tile that the block means alone give."""
    slices, size, _ = h.tile
    coefficients = np.zeros((1, slices * size * size), np.int64)
    coefficients[0, :: 64 * slices] = means
    return inverse(coefficients, slices, size)


def run(prior: Prior, h: Header, tile: int, data: bytes, means: np.ndarray, last: int):
    """Decode one tile to level ``last`` >= 1: mean and spread (slices, t, t)."""
    slices, size, _ = h.tile
    coder = RangeDecoder(data)
    blocks = (size // 8) ** 2
    z, y, x = np.indices((slices, 8, 8))
    classes = np.tile((z * (8 // slices) + y + x).reshape(-1), blocks)
    known = np.zeros(slices * size * size, bool)
    values = np.zeros(known.shape, np.int64)
    scales = Surroundings(slices, size, h.step)
    known[:: 64 * slices], values[:: 64 * slices] = True, means
    start = inverse(values[None], slices, size).repeat(h.particles, axis=0)
    particles = renoise(prior, start, h, tile, 0, h.noise_levels[0], centred=True)
    for i, noise_level in enumerate(h.noise_levels):
        x0 = prior.denoise(particles, noise_level)
        c = forward(x0)
        mean, variance = _observe(prior, c, classes, noise_level)
        _measure(coder, h, i, mean, variance, known, values, scales)
        x0 = inverse(np.where(known, values, c), slices, size)
        if i + 1 in h.level_ends:
            check_digest(coder, mean, variance)
            if h.level_ends.index(i + 1) + 1 == last:
                return summarise(x0)
        particles = renoise(prior, x0, h, tile, i + 1, h.noise_levels[i + 1], centred=True)
    raise AssertionError("the last level ends with the last step")


def _observe(prior: Prior, c: np.ndarray, classes: np.ndarray, level: int) -> tuple:
    """Section 5.4."""
    s = len(c)
    total = c.sum(0)
    sample = (s * (c * c).sum(0) - total * total) // (s * (s - 1))
    gain = prior.table("scale.gain")[level][classes]
    floor = prior.table("scale.floor")[level][classes]
    variance = np.clip(((gain * sample) >> 16) + floor, 1, VARIANCE_LIMIT)
    return (total + s // 2) // s, variance


def _measure(coder, h, number, mean, variance, known, values, scales: Surroundings) -> None:
    """Section 5.4: pick coefficients, read their symbols group by group, set their values."""
    threshold = h.thresholds[number]
    picked = ((variance << 16) >= (threshold * h.step) ** 2) & ~known
    groups = scales.groups()
    for group in range(4):
        where = np.flatnonzero(picked & (groups == group))
        bins = [scales.bin(int(i), variance, mean, threshold) for i in where]
        symbols = np.array(coder.integers(bins), np.int64)
        scales.learn(where, variance[where], symbols)
        measured = mean[where] + symbols * h.step
        values[where] = np.clip(measured, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)
        known[where] = True
