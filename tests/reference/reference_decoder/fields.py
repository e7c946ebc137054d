"""Sections 2 to 4 of SPEC-v1.md: primitive types, the header and the stream parameters."""

from __future__ import annotations

import itertools
import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SPEC = Path(__file__).resolve().parents[3] / "psc_volumetric" / "bitstream" / "SPEC-v1.md"
(FORMAT,) = map(int, re.findall(r"\| format number \| (\d+) \|", SPEC.read_text("utf-8")))

DTYPES = dict(enumerate(["?", "u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "u8", "i8"]))
METHODS = {0: "constant", 1: "none", 2: "psc", 3: "av1", 4: "wavelet", 5: "posterior", 7: "latent"}
METHODS |= {6: "two-stage", 8: "foresight"}


class Refused(ValueError):
    """The bytes are not what the specification allows."""


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise Refused(problem)


def crc32c(data: bytes) -> int:
    """Section 2.3, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value ^ 0xFFFFFFFF


class Fields:
    """Takes fields off a byte string."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, count: int) -> bytes:
        require(self.at + count <= len(self.data), "truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> float:
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]

    def varint(self, limit: int) -> int:
        value = 0
        for position in range(9):
            byte = self.bytes(1)[0]
            value |= (byte & 127) << (7 * position)
            require(value <= limit, "a number is over its limit")
            if byte < 128:
                return value
        raise Refused("a number is longer than nine bytes")


@dataclass
class Header:
    """Everything a header says; names as in the tables of section 3."""

    method: str = ""
    dtype: np.dtype | None = None
    position: tuple = ()
    shape: tuple = ()
    valid: tuple = ()
    constant: bytes = b""
    prior: bytes = b""
    tile: tuple = ()
    low: float = 0.0
    high: float = 0.0
    schedule: int = 0
    particles: int = 0
    rows_per_round: int = 0
    restorations: int = 1
    seed: int = 0
    step: int = 0
    coarse_step: int = 0
    noise_levels: tuple = ()
    thresholds: tuple = ()
    level_ends: tuple = ()
    words: list = field(default_factory=list)
    sigma: bytes = b""
    sections: dict = field(default_factory=dict)
    layers: list = field(default_factory=list)
    classical: object = None
    view: object = None
    glimpses: dict = field(default_factory=dict)
    latents: object = None
    limits: tuple = ()

    @property
    def foreign(self) -> bool:
        """Whether a layer needs a coder of another library."""
        return any(2 <= layer.coder <= 6 for layer in self.layers)

    @property
    def counts(self) -> tuple:
        """Tiles along each axis."""
        return tuple(-(-v // t) for v, t in zip(self.valid, self.tile, strict=True))


def read_header(brick: bytes) -> Header:
    """Section 3."""
    from reference_decoder.classical import read_classical
    from reference_decoder.foresight import read_glimpses
    from reference_decoder.latent import read_latent
    from reference_decoder.layers import place_segments, read_layers
    from reference_decoder.posterior import read_view
    from reference_decoder.two_stage import read_latents

    prologue = Fields(brick)
    require(prologue.bytes(4) == b"PSCb", "magic")
    require(prologue.number("I") == FORMAT, "format number")
    size = prologue.number("I")
    require(16 <= size <= 1 << 20, "header size")
    head = Fields(brick).bytes(size)
    require(crc32c(head[:-4]) == int.from_bytes(head[-4:], "little"), "header CRC-32C")
    data, h = Fields(head[12:-4]), Header()
    method, dtype, axes = (data.number("B") for _ in range(3))
    require(method in METHODS and dtype in DTYPES and axes <= 8, "method, dtype or axes")
    h.method, h.dtype = METHODS[method], np.dtype("<" + DTYPES[dtype])
    h.position = tuple(data.varint(1 << 40) for _ in range(axes))
    h.shape = tuple(data.varint(1 << 26) for _ in range(3))
    h.valid = tuple(data.varint(1 << 26) for _ in range(3))
    require(math.prod(h.shape) <= 1 << 26, "brick too large")
    require(all(1 <= v <= s for v, s in zip(h.valid, h.shape, strict=True)), "valid part")
    names = []
    if h.method == "constant":
        h.constant = data.bytes(h.dtype.itemsize)
    if h.method == "psc":
        _read_psc(data, h)
        names = ["base", *(f"level{k + 1}" for k in range(len(h.words)))]
    if h.method == "latent":
        read_latent(data, h)
        names = ["base", *(f"level{k + 1}" for k in range(len(h.words)))]
    if h.method in ("av1", "wavelet", "posterior", "two-stage", "foresight"):
        h.classical, names = read_classical(data, h), ["base"]
    if h.method in ("posterior", "foresight"):
        h.view = read_view(data)
    if h.method == "foresight":
        h.glimpses = read_glimpses(data, h)
    if h.method == "two-stage":
        h.latents = read_latents(data)
    if h.method != "constant":
        h.layers = read_layers(data, h, len(names))
    if names or any(layer.bounded for layer in h.layers):
        names = ["special", *names]
    if names:
        h.limits = _read_limits(data, h)
    offset = size
    for name in names:
        words = h.words[int(name[5:]) - 1] if name.startswith("level") else None
        length = 4 * sum(words) if words is not None else data.varint(1 << 30)
        h.sections[name] = (offset, length, data.number("I"))
        offset += length
    require(data.at == len(data.data), "bytes after the last field")
    require(place_segments(h.layers, offset) == len(brick), "size of the brick")
    return h


def _read_limits(data: Fields, h: Header) -> tuple:
    """Section 3.9: nothing, or the least and the largest value."""
    limited = data.number("B")
    require(limited == 0 or (limited == 1 and h.dtype.kind in "iuf"), "limits of the values")
    if not limited:
        return ()
    least, largest = np.frombuffer(data.bytes(2 * h.dtype.itemsize), h.dtype)
    require(bool(np.isfinite([least, largest]).all() and least < largest), "limits of the values")
    return least, largest


def limited(values: np.ndarray, h: Header) -> np.ndarray:
    """Section 3.9."""
    if not h.limits:
        return values
    return np.minimum(np.maximum(values, h.limits[0]), h.limits[1])


def _read_psc(data: Fields, h: Header) -> None:
    require(h.dtype.kind in "iuf" and h.dtype.str[1:] not in ("u8", "i8"), "dtype of a psc brick")
    h.prior = data.bytes(16)
    h.tile = tuple(data.varint(1024) for _ in range(3))
    require(min(h.tile) >= 1, "tile")
    require(all(s % t == 0 for s, t in zip(h.shape, h.tile, strict=True)), "tile")
    read_mapping(data, h)
    _read_parameters(data, h)
    tiles = math.prod(h.counts)
    h.words = [tuple(data.varint(1 << 24) for _ in range(tiles)) for _ in h.level_ends]
    h.sigma = data.bytes(data.varint(4096))


def read_mapping(data: Fields, h: Header) -> None:
    """Sections 3.3 and 10.1."""
    h.low, h.high = data.number("d"), data.number("d")
    require(math.isfinite(h.low) and math.isfinite(h.high) and h.low < h.high, "mapping")
    bound = max(abs(h.low), abs(h.high))
    if h.dtype.kind == "f":
        require(bound <= 2.0**125, "mapping")
    else:
        require(h.low.is_integer() and h.high.is_integer() and bound < 1 << 38, "mapping")


def _read_parameters(data: Fields, h: Header) -> None:
    """Section 4."""
    h.schedule, rows, quantiser, h.particles = (data.number("B") for _ in range(4))
    require((h.schedule, rows, quantiser) in {(0, 0, 0), (1, 1, 1)}, "combination")
    h.seed, h.step, h.coarse_step = (data.number("I") for _ in range(3))
    h.rows_per_round = data.number("B")
    if h.schedule:
        h.restorations = data.number("B")
    steps = data.varint(250)
    h.noise_levels = tuple(data.varint(4095) for _ in range(steps))
    h.thresholds = tuple(data.varint(16383) for _ in range(0 if h.schedule else steps))
    count = data.varint(15)
    h.level_ends = tuple(data.varint(4096 if h.schedule else 250) for _ in range(count))
    require(2 <= h.particles <= 64, "particles")
    require(1 <= h.step < 1 << 17 and 1 <= h.coarse_step < 1 << 17, "step")
    require(steps >= 1 and count >= 1 and h.level_ends[0] >= 1, "empty list")
    levels, ends = h.noise_levels, h.level_ends
    require(all(a > b for a, b in itertools.pairwise(levels)), "noise levels")
    require(all(a < b for a, b in itertools.pairwise(ends)), "level ends")
    if h.schedule == 0:
        require(h.particles & (h.particles - 1) == 0, "particles: a power of two")
        require(ends[-1] == steps, "last level end")
    else:
        require(1 <= h.rows_per_round < h.particles and h.particles % 2 == 0, "rows per round")
        require(1 <= h.restorations <= 16, "restorations")
        require(h.particles <= 32 and ends[-1] * h.rows_per_round <= 4096, "particles or rows")
        elements = math.prod(h.tile)
        bound = (2 * (h.particles - 1) * 8191) ** 2 * elements
        require(elements <= 1 << 16 and bound < 1 << 53, "tile and particles")
