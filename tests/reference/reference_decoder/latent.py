"""Sections 3.12 and 6.10 of SPEC-v1.md: PSC in a latent space, and networks that read text."""

from __future__ import annotations

import math

import numpy as np

from reference_decoder import restart
from reference_decoder.exact import matmul, rshift
from reference_decoder.fields import Fields, Header, read_mapping, require
from reference_decoder.prior import OPS, TEXT_OPS, Prior


class LatentPrior(Prior):
    """A prior with a decoder, told a prompt."""

    def __init__(self, files: dict[str, bytes], h: Header, prompt: bytes) -> None:
        super().__init__(files)
        require(self.kind == "latent", "kind of the prior")
        self.decoder = self.identity["decoder"]
        pixels = self.decoder["out_tile"]
        require(h.tile == (1, pixels, pixels), "tile of the prior")
        require(self.slices * self.size**2 <= 1 << 16, "numbers of a latent")
        self.text = self._register(prompt)

    def network(self, x: np.ndarray, level: int) -> np.ndarray:
        """Section 6.10: with the register of the prompt, the same for every particle."""
        registers = {"x": x}
        if self.text is not None:
            registers["text"] = np.repeat(self.text[None, :, :, None], len(x), axis=0)
        return self._run(self.steps, registers, level, OPS + TEXT_OPS)

    def pixels(self, latent: np.ndarray) -> np.ndarray:
        """Samples (1, t, t) of a latent (channels, h, w)."""
        out = self._run(self.decoder["steps"], {"x": latent[None]}, 0, OPS)[0]
        return np.clip(rshift(out, self.decoder["out_bits"] - 11), -8191, 8191)

    def _register(self, prompt: bytes) -> np.ndarray | None:
        shape = self.identity["network"].get("text")
        if shape is None:
            require(not prompt, "a prompt for a network that reads none")
            return None
        tokens, positions = self.table("text.tokens"), self.table("text.positions")
        marks, places = self.identity["text"], shape[1]
        ids = read_prompt(prompt, len(tokens))
        require(len(ids) <= places - 2, "tokens of the prompt")
        rest = [marks["pad"]] * (places - 2 - len(ids))
        rows = tokens[[marks["begin"], *ids, marks["end"], *rest]] + positions
        return np.clip(rows, -32767, 32767).T

    def _layer_norm(self, step: dict, r: dict, level: int) -> np.ndarray:
        x = r[step["inputs"][0]]
        b, channels, height, width = x.shape
        pixels = np.moveaxis(x, 1, 3).reshape(-1, 1, channels)
        multiplier, offset = self._affine(step, pixels, 1, channels)
        value = (multiplier * pixels + offset) >> 24
        made = self._activated(step, value).reshape(b, height, width, channels)
        return np.moveaxis(made, 3, 1)

    def _activate(self, step: dict, r: dict, level: int) -> np.ndarray:
        return self._activated(step, _shifted(r[step["inputs"][0]], step.get("shift", 0)))

    def _multiply(self, step: dict, r: dict, level: int) -> np.ndarray:
        a, b = (r[name] for name in step["inputs"])
        limit = step.get("limit", 32767)
        return np.clip(_shifted(a * b, step.get("shift", 0)), -limit, limit)

    def _attend(self, step: dict, r: dict, level: int) -> np.ndarray:
        heads, shift = step.get("heads", 1), step.get("shift", 0)
        asking = r[step["inputs"][0]]
        n = len(asking)
        q, k, v = (
            r[name].reshape(n, heads, r[name].shape[1] // heads, -1) for name in step["inputs"]
        )
        scores = matmul(q.swapaxes(2, 3), k)
        seen = np.ones(scores.shape[2:], bool)
        if step.get("causal"):
            seen = np.tri(*scores.shape[2:], dtype=bool)
        top = np.where(seen, scores, np.iinfo(np.int64).min).max(3, keepdims=True)
        distance = np.where(seen, top - scores, 0)
        distance = distance >> shift if shift >= 0 else distance << -shift
        weights = self.table(step["table"])[np.minimum(distance, 4095)] * seen
        total = weights.sum(3)[:, :, None, :]
        sums = matmul(v, weights.swapaxes(2, 3))
        return ((2 * sums + total) // (2 * total)).reshape(asking.shape)


def _shifted(value: np.ndarray, shift: int) -> np.ndarray:
    return rshift(value, shift) if shift > 0 else value << -shift


def read_latent(data: Fields, h: Header) -> None:
    """Section 3.12: the method fields."""
    require(h.dtype.kind in "iuf" and h.dtype.str[1:] not in ("u8", "i8"), "dtype")
    h.prior = data.bytes(16)
    h.tile = tuple(data.varint(1024) for _ in range(3))
    require(h.tile[0] == 1 and h.tile[1] == h.tile[2] >= 1, "tile")
    require(all(s % t == 0 for s, t in zip(h.shape, h.tile, strict=True)), "tile")
    read_mapping(data, h)
    h.schedule = 1
    h.particles, h.rows_per_round, h.restorations = (data.number("B") for _ in range(3))
    h.seed = data.number("I")
    h.noise_levels = tuple(data.varint(4095) for _ in range(data.varint(250)))
    h.level_ends = tuple(data.varint(4096) for _ in range(data.varint(15)))
    require(2 <= h.particles <= 64 and h.particles % 2 == 0, "particles")
    require(1 <= h.rows_per_round < h.particles and 1 <= h.restorations <= 16, "rows or passes")
    levels, ends = h.noise_levels, h.level_ends
    require(bool(levels) and sorted(set(levels), reverse=True) == list(levels), "noise levels")
    require(bool(ends) and sorted(set(ends)) == list(ends) and ends[0] >= 1, "level ends")
    require(ends[-1] * h.rows_per_round <= 4096, "rows")
    tiles = math.prod(h.counts)
    h.words = [tuple(data.varint(1 << 24) for _ in range(tiles)) for _ in ends]
    h.sigma = data.bytes(data.varint(4096))
    require(all(h.words[0]), "a tile without words")
    paid = 8192 * tiles + 512 * sum(map(sum, h.words))
    passes = ends[-1] + h.restorations
    require(tiles * h.particles * len(levels) * passes <= paid, "evaluations")


def read_prompt(data: bytes, vocabulary: int) -> list[int]:
    """Section 3.12: a count, and one number whose digits are the tokens."""
    if not data:
        return []
    count, number = data[0], int.from_bytes(data[1:], "little")
    size = -(-(vocabulary**count - 1).bit_length() // 8)
    require(1 <= count <= 254 and len(data) == 1 + size and number < vocabulary**count, "prompt")
    return [number // vocabulary**place % vocabulary for place in range(count)]


def decode_tile(prior: LatentPrior, h: Header, tile: int, words: bytes, last: int) -> np.ndarray:
    """Samples (1, t, t) of a tile."""
    require(h.noise_levels[0] < prior.levels, "noise level of the prior")
    shape = (prior.slices, prior.size, prior.size)
    latent, _ = restart.run(prior, h, tile, words, last, shape)
    return prior.pixels(latent)
