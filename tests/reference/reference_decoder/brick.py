"""Sections 3, 5.9, 8 and 9 of SPEC-v1.md: from the bytes of a brick to stored values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reference_decoder import foresight, latent, posterior, restart, single_pass
from reference_decoder.av1 import check_stream
from reference_decoder.classical import sigma, stored
from reference_decoder.fields import Fields, Header, crc32c, limited, read_header, require
from reference_decoder.layers import decode_layer, zstd
from reference_decoder.prior import Prior
from reference_decoder.sigma import read_tables, sigma_of_tile
from reference_decoder.two_stage import decode_two_stage
from reference_decoder.wavelet import decode_wavelet

Frames = Callable[[bytes, tuple], np.ndarray]


@dataclass
class Decoded:
    """Stored values of the valid part, one sigma per voxel, and the level reached."""

    values: np.ndarray
    spread: np.ndarray
    level: int


def parse(brick: bytes) -> Header:
    """Header of a brick, checked."""
    return read_header(brick)


def decode(
    brick: bytes,
    files: dict[str, bytes] | None = None,
    level: int | None = None,
    frames: Frames | None = None,
) -> Decoded:
    """Decode the valid part of a brick at a level (None: all there is).

    ``frames`` is an AV1 decoder: stream and extent to samples.
    """
    h = read_header(brick)
    if h.method == "constant":
        values = np.frombuffer(h.constant * int(np.prod(h.valid)), h.dtype).reshape(h.valid)
        return Decoded(values, np.zeros(h.valid, np.float32), 0)
    several = len(h.level_ends) + 1
    base = {"none": 0, "psc": several, "latent": several}.get(h.method, 1)
    last = base + len(h.layers) - 1
    wanted = last if level is None else min(level, last)

    def decode_base(number: int) -> Decoded:
        if h.method == "latent":
            return _decode_latent(brick, h, files, number)
        if h.method != "psc":
            return _decode_classical(brick, h, frames, files)
        return _decode_base(brick, h, files, number)

    return _decode_level(brick, h, base, decode_base, wanted)


def _decode_level(
    brick: bytes, h: Header, base: int, decode_base: Callable[[int], Decoded], level: int
) -> Decoded:
    """Section 3.1: the levels of the method, then one per layer."""
    if level < base:
        return decode_base(level)
    layer = h.layers[level - base]

    def below() -> tuple[np.ndarray, np.ndarray]:
        found = _decode_level(brick, h, base, decode_base, level - 1)
        return found.values, found.spread

    values, spread = decode_layer(brick, h, layer, below)
    if layer.bounded:
        index, patterns = _special(_section(brick, h, "special"), h)
        for number, pattern in enumerate(patterns, start=1):
            values[index == number] = pattern
        spread[index > 0] = 0
    return Decoded(values, spread, level)


def _decode_base(brick: bytes, h: Header, files: dict | None, level: int) -> Decoded:
    require(files is not None, "a psc brick needs its prior")
    prior = Prior(files)
    require(prior.digest.startswith(h.prior.hex()), "the brick was coded with another prior")
    require(h.tile == (prior.slices, prior.size, prior.size), "tile of the prior")
    require(h.noise_levels[0] < prior.levels, "noise level of the prior")
    return _decode_psc(brick, h, prior, level)


def _decode_latent(brick: bytes, h: Header, files: dict | None, last: int) -> Decoded:
    """Section 3.12."""
    require(files is not None, "a latent brick needs its prior")
    prior = latent.LatentPrior(files, h, _section(brick, h, "base"))
    require(prior.digest.startswith(h.prior.hex()), "the brick was coded with another prior")
    levels = [_section(brick, h, f"level{k + 1}") for k in range(last)]
    values, sigma = np.empty(h.valid, h.dtype), np.zeros(h.valid, np.float32)
    unit = np.float32((h.high - h.low) / 32768)
    if h.sigma:
        first_octave, tables = read_tables(h.sigma, len(h.level_ends) + 1)
    for tile in range(int(np.prod(h.counts))):
        words = b"".join(_words(levels[k], h.words[k], tile) for k in range(last))
        mean = latent.decode_tile(prior, h, tile, words, last)
        box, inside = _box(h, tile)
        values[box] = limited(_stored(mean[inside], h), h)
        if h.sigma:
            spread = sigma_of_tile(mean, np.zeros_like(mean), first_octave, tables[last])
            sigma[box] = spread[inside].astype(np.float32) * unit
    index, patterns = _special(_section(brick, h, "special"), h)
    for number, pattern in enumerate(patterns, start=1):
        values[index == number] = pattern
    sigma[index > 0] = 0
    return Decoded(values, sigma, last)


def _decode_classical(
    brick: bytes, h: Header, frames: Frames | None, files: dict | None
) -> Decoded:
    """Sections 3.7, 3.8, 3.10, 3.11 and 3.13."""
    data = _section(brick, h, "base")
    samples, spread = _samples(data, h, frames, files)
    values = limited(stored(samples, h.classical, h.dtype), h)
    index, patterns = _special(_section(brick, h, "special"), h)
    for number, pattern in enumerate(patterns, start=1):
        values[index == number] = pattern
    spread[index > 0] = 0
    return Decoded(values, spread, 0)


def _samples(
    data: bytes, h: Header, frames: Frames | None, files: dict | None
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a stream, and their sigma in stored units."""
    if h.method == "two-stage":
        require(files is not None, "a brick of latents needs its network")
        return decode_two_stage(data, h, Prior(files))
    if h.glimpses:
        require(files is not None, "a brick with a view needs its network")
        samples = foresight.decode(data, h, Prior(files))
    else:
        samples = _av1(data, h, frames) if h.method == "av1" else decode_wavelet(data, h.valid)
    if h.view is None:
        return samples, sigma(samples, h.classical, h.method)
    require(files is not None, "a brick with a view needs its network")
    samples, halves = posterior.moments(samples, h.view, Prior(files))
    return samples, posterior.sigma(samples, halves, h)


def _av1(data: bytes, h: Header, frames: Frames | None) -> np.ndarray:
    order = h.classical.order()
    shape = tuple(h.valid[axis] for axis in order)
    check_stream(data, shape)
    require(frames is not None, "AV1 is decoded by another library")
    shown, samples = frames(data, shape), np.empty(h.valid, np.int64)
    for number in range(shape[0]):
        place = tuple(number if axis == order[0] else slice(None) for axis in range(3))
        samples[place] = shown[number]
    return samples


def _section(brick: bytes, h: Header, name: str) -> bytes:
    offset, size, crc = h.sections[name]
    data = brick[offset : offset + size]
    require(crc32c(data) == crc, f"CRC-32C of section {name}")
    return data


def _special(data: bytes, h: Header) -> tuple[np.ndarray, np.ndarray]:
    """Section 9: index per voxel (0 none) and table of bit patterns."""
    if not data:
        return np.zeros(h.valid, np.uint8), np.zeros(0, h.dtype)
    fields = Fields(data)
    count = fields.varint(15)
    patterns = np.frombuffer(fields.bytes(count * h.dtype.itemsize), h.dtype)
    index = zstd(data[fields.at :], int(np.prod(h.valid))).reshape(h.valid)
    require(int(index.max()) <= count, "index past the table of special values")
    return index, patterns


def _decode_psc(brick: bytes, h: Header, prior: Prior, last: int) -> Decoded:
    index, patterns = _special(_section(brick, h, "special"), h)
    base = _section(brick, h, "base")
    paper = h.schedule == 1
    tiles = int(np.prod(h.counts))
    means = np.zeros((tiles, (h.tile[1] // 8) ** 2), np.int64)
    if not paper:
        means = single_pass.read_base(base, h)
    levels = [_section(brick, h, f"level{k + 1}") for k in range(last)]
    values = np.empty(h.valid, h.dtype)
    sigma = np.empty(h.valid, np.float32)
    unit = np.float32((h.high - h.low) / 32768)
    if h.sigma:
        first_octave, tables = read_tables(h.sigma, len(h.level_ends) + 1)
    for tile in range(tiles):
        data = b"".join(_words(levels[k], h.words[k], tile) for k in range(last))
        if not any(row[tile] for row in h.words) or (last == 0 and not paper):
            mean = single_pass.base_tile(means[tile], h)[0]
            spread = np.full(h.tile, h.coarse_step >> 3, np.int64)
        elif paper:
            mean, spread = restart.run(prior, h, tile, data, last)
        else:
            mean, spread = single_pass.run(prior, h, tile, data, means[tile], last)
        if h.sigma:
            spread = sigma_of_tile(mean, spread, first_octave, tables[last])
        box, inside = _box(h, tile)
        values[box] = limited(_stored(mean[inside], h), h)
        sigma[box] = spread[inside].astype(np.float32) * unit
    for number, pattern in enumerate(patterns, start=1):
        values[index == number] = pattern
    sigma[index > 0] = 0
    return Decoded(values, sigma, last)


def _words(section: bytes, counts: tuple, tile: int) -> bytes:
    start = 4 * sum(counts[:tile])
    return section[start : start + 4 * counts[tile]]


def _box(h: Header, tile: int) -> tuple[tuple, tuple]:
    """Voxels of the brick that a tile covers, and the part of the tile that lies inside."""
    at = np.unravel_index(tile, h.counts)
    starts = [int(a) * t for a, t in zip(at, h.tile, strict=True)]
    stops = [min(s + t, v) for s, t, v in zip(starts, h.tile, h.valid, strict=True)]
    ranges = list(zip(starts, stops, strict=True))
    return tuple(slice(*r) for r in ranges), tuple(slice(0, b - a) for a, b in ranges)


def _stored(mean: np.ndarray, h: Header) -> np.ndarray:
    """Section 5.9."""
    m = mean + 2048
    if h.dtype.kind == "f":
        return (h.low + m.astype(np.float64) * ((h.high - h.low) / 4096)).astype(h.dtype)
    low, high = int(h.low), int(h.high)
    info = np.iinfo(h.dtype)
    return np.clip(low + ((m * (high - low) + 2048) >> 12), info.min, info.max).astype(h.dtype)
