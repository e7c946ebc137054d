"""Sections 3.11, 6.9 and 6.11 of SPEC-v1.md: latents, and what an autoencoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from reference_decoder.fields import Fields, Header, require
from reference_decoder.prior import Prior
from reference_decoder.sigma import read_tables, sigma_of_tile
from reference_decoder.symbols import RangeDecoder

WHOLE = 1 << 24


@dataclass
class Latents:
    """Method fields behind those that samples have."""

    digest: bytes
    step: int


def read_latents(data: Fields) -> Latents:
    found = Latents(data.bytes(16), data.number("H"))
    require(found.step == 0 or 16 <= found.step <= 4096, "step of the latents")
    return found


def decode_two_stage(data: bytes, h: Header, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the valid part, and sigma of every voxel in stored units."""
    require(prior.kind == "autoencoder", "kind of the prior")
    require(prior.digest.startswith(h.latents.digest.hex()), "another prior")
    vector = prior.identity["quantiser"] == "vector"
    require(vector == (h.latents.step == 0), "step of the latents")
    extent, tile = prior.size, (prior.outputs, prior.out_tile, prior.out_tile)
    counts = [-(-v // t) for v, t in zip(h.valid, tile, strict=True)]
    shape = (counts[0], counts[1] * extent, counts[2] * extent)
    latents = np.zeros((*shape, prior.slices), np.int64)
    coder = RangeDecoder(data)
    for place in np.ndindex(*shape):
        near = _neighbours(latents, place)
        read = _vector if vector else _scalars
        latents[place] = read(coder, prior, near, _class(prior, near), h.latents.step)
    samples = np.zeros([n * t for n, t in zip(counts, tile, strict=True)], np.int64)
    spread = np.zeros(samples.shape, np.int64)
    tables = read_tables(h.classical.sigma, 1) if h.classical.sigma else None
    for z, y, x in np.ndindex(*counts):
        rows, columns = (slice(n * extent, (n + 1) * extent) for n in (y, x))
        own = prior.network(latents[z, rows, columns].transpose(2, 0, 1)[None], 0)[0]
        at = [slice(n * t, (n + 1) * t) for n, t in zip((z, y, x), tile, strict=True)]
        samples[tuple(at)] = own
        if tables is not None:
            mean = own >> h.classical.detail
            spread[tuple(at)] = sigma_of_tile(mean, np.zeros_like(mean), tables[0], tables[1][0])
    valid = tuple(slice(0, n) for n in h.valid)
    unit = np.float32(h.classical.step * 2.0**h.classical.detail / 8)
    return samples[valid], spread[valid].astype(np.float32) * unit


def _neighbours(latents: np.ndarray, place: tuple) -> list[np.ndarray]:
    """Left, above, above and right, tile before."""
    z, y, x = place
    left = latents[z, y, x - 1] if x > 0 else None
    above = latents[z, y - 1, x] if y > 0 else None
    right = latents[z, y - 1, x + 1] if y > 0 and x + 1 < latents.shape[2] else None
    before = latents[z - 1, y, x] if z > 0 else None
    first = np.zeros(latents.shape[3], np.int64)
    for one in (before, above, left):
        first = first if one is None else one
    return [first if one is None else one for one in (left, above, right, before)]


def _class(prior: Prior, near: list[np.ndarray]) -> int:
    left, above, _, before = near
    activity = sum(abs(int(v)) for v in [*(left - above), *(above - before)])
    return sum(int(limit) <= activity for limit in prior.table("latents.activity"))


def _expected(weights: np.ndarray, values: list[int]) -> int:
    total = sum(int(w) * int(v) for w, v in zip(weights, values, strict=True))
    return min(max((total + 32768) >> 16, -32767), 32767)


def _scalars(
    coder: RangeDecoder, prior: Prior, near: list[np.ndarray], k: int, step: int
) -> list[int]:
    """Latents of a place, channel after channel."""
    found: list[int] = []
    for c in range(prior.slices):
        distance = max((int(prior.table("latents.unit")[c]) * step + 128) >> 8, 1)
        known = [*np.concatenate(near), *found, *[0] * (prior.slices - c)]
        mean = _expected(prior.table("latents.weights")[c], known)
        middle = (2 * mean + distance) // (2 * distance)
        most = min(16384 // distance + 1, 31)
        table = prior.table("latents.cumulative")[c, k]
        bounds = [0]
        for number in range(middle - most + 1, middle + most + 1):
            e = (((2 * number - 1) * distance) >> 1) - mean + 16384
            e = min(max(e, 0), 32767)
            at, part = e >> 6, e & 63
            below = int(table[at]) + (((int(table[at + 1]) - int(table[at])) * part) >> 6)
            bounds.append(((below * (WHOLE - 2 * most - 1)) >> 24) + len(bounds))
        away = coder.symbol([*bounds, WHOLE]) - most
        if abs(away) == most:
            away += coder.escape() if away > 0 else -coder.escape()
        require(abs(middle + away) <= 1 << 15, "a latent is out of range")
        found.append(min(max((middle + away) * distance, -32767), 32767))
    return found


def _vector(
    coder: RangeDecoder, prior: Prior, near: list[np.ndarray], k: int, step: int
) -> np.ndarray:
    """Latents of a place: a vector of the codebook."""
    book, joined = prior.table("latents.codebook"), np.concatenate(near)
    mean = [_expected(row, joined) for row in prior.table("latents.weights")]
    away = [sum((int(v) - m) ** 2 for v, m in zip(row, mean, strict=True)) for row in book]
    weight, falling = int(prior.table("latents.spread")[k]), prior.table("latents.falling")
    index = [min(((d - min(away)) * weight) >> 30, 4095) for d in away]
    base = prior.table("latents.base")
    shares = [int(b) * int(falling[i]) for b, i in zip(base, index, strict=True)]
    frequencies = [1 + s * (WHOLE - len(book)) // sum(shares) for s in shares]
    frequencies[0] += WHOLE - sum(frequencies)
    return book[coder.symbol([0, *accumulate(frequencies)])]
