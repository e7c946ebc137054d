"""Section 6 of SPEC-v1.md: identity of a prior, and its integer network."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from reference_decoder.exact import isqrt, matmul, rshift
from reference_decoder.fields import Refused, require
from reference_decoder.tables import read_safetensors

RESIDUAL = 32767
OPS = ("unfold", "fold", "concat", "norm_act", "conv", "attention")
TEXT_OPS = ("layer_norm", "activate", "multiply", "attend")
NAMES = {"int8": "|i1", "int16": "<i2", "int32": "<i4", "int64": "<i8"}


class Prior:
    """A prior from its files (relative path -> bytes)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        description = json.loads(files["configs/metadata.json"])["psc_prior"]
        self.tensors = read_safetensors(files["models/integer.safetensors"])
        self.identity = description["identity"]
        self.digest = self._digest()
        require(self.digest == description["digest"], "digest of the prior")
        network = self.identity["network"]
        self.slices, self.size = network["slices"], network["tile"]
        self.levels, self.out_bits = network["levels"], network["out_bits"]
        self.steps = network["steps"]
        self.kind = self.identity.get("kind", "denoiser")
        self.clip = self.identity.get("clip")
        self.outputs, self.out_tile = network.get("outputs", 0), network.get("out_tile", 0)
        if self.kind == "autoencoder":
            require(self.outputs >= 1 and self.out_tile >= 1, "ends of the network")
        elif self.kind in ("denoiser", "latent"):
            require(self.slices in (1, 2, 4, 8) and self.size % 8 == 0, "tile of the prior")
        else:
            require(self.slices % 4 == 2 and network["outputs"] == 2, "ends of the network")
        require(11 <= self.out_bits <= 24, "out_bits")

    def table(self, name: str) -> np.ndarray:
        return self.tensors[name].astype(np.int64)

    def _digest(self) -> str:
        """Section 6.1."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digest = hashlib.sha256(text.encode("ascii"))
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            shape = ", ".join(map(str, tensor.shape)) + ("," if tensor.ndim == 1 else "")
            digest.update(f"\n{name} {NAMES[tensor.dtype.name]} ({shape})\n".encode())
            digest.update(tensor.tobytes())
        return digest.hexdigest()

    def network(self, x: np.ndarray, level: int) -> np.ndarray:
        """Section 6.2: (n, slices, t, t) int64 -> the same shape."""
        return self._run(self.steps, {"x": x}, level, OPS)

    def _run(self, steps: list, registers: dict, level: int, known: tuple) -> np.ndarray:
        for step in steps:
            if step["op"] not in known:
                raise Refused(f"network step {step['op']!r}")
            registers[step["out"]] = getattr(self, "_" + step["op"])(step, registers, level)
        return registers[steps[-1]["out"]]

    def denoise(self, x: np.ndarray, level: int) -> np.ndarray:
        """Section 5.1."""
        extra = self.out_bits - 11
        out = self.network(x, level)
        x_gain = int(self.tensors["schedule.x_gain"][level]) << extra
        out_gain = int(self.tensors["schedule.out_gain"][level])
        return np.clip(rshift(x_gain * x + out_gain * out, 16 + extra), *self.clip)

    def _unfold(self, step: dict, r: dict, level: int) -> np.ndarray:
        x, f = r[step["inputs"][0]], step.get("factor", 1)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // f, f, w // f, f).transpose(0, 1, 3, 5, 2, 4)
        return x.reshape(n, c * f * f, h // f, w // f)

    def _fold(self, step: dict, r: dict, level: int) -> np.ndarray:
        x, f = r[step["inputs"][0]], step.get("factor", 1)
        n, c, h, w = x.shape
        x = x.reshape(n, c // (f * f), f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
        return x.reshape(n, c // (f * f), h * f, w * f)

    def _concat(self, step: dict, r: dict, level: int) -> np.ndarray:
        return np.concatenate([r[name] for name in step["inputs"]], axis=1)

    def _norm_act(self, step: dict, r: dict, level: int) -> np.ndarray:
        """Section 6.3."""
        x = r[step["inputs"][0]]
        b, channels, height, width = x.shape
        groups = step.get("groups", 1)
        n = channels // groups * height * width
        multiplier, offset = self._affine(step, x.reshape(b, groups, -1), groups, n)
        multiplier, offset = (a.reshape(b, channels, 1, 1) for a in (multiplier, offset))
        return self._activated(step, (multiplier * x + offset) >> 24)

    def _activated(self, step: dict, value: np.ndarray) -> np.ndarray:
        table = np.minimum(self.table(step["table"]), step.get("limit", RESIDUAL))
        return table[np.clip(value + 4096, 0, 8191)]

    def _affine(self, step: dict, members: np.ndarray, groups: int, n: int) -> tuple:
        """Multiplier and offset (b, groups, channels of one) for members (b, groups, n)."""
        s1 = members.sum(2)
        spread = n * (members * members).sum(2) - s1 * s1 + step.get("epsilon", 1)
        exponent = np.zeros_like(spread)
        for shift in (16, 8, 4, 2, 1):
            small = spread < 1 << (62 - 2 * shift)
            spread = np.where(small, spread << (2 * shift), spread)
            exponent += small * shift
        inverse = ((1 << 62) // isqrt(spread)) >> 8
        gamma = self.table(step["name"] + ".gamma").reshape(1, groups, -1)
        beta = self.table(step["name"] + ".beta").reshape(1, groups, -1)
        multiplier = (gamma * (n * inverse)[:, :, None]) >> (38 - exponent)[:, :, None]
        multiplier = np.clip(multiplier, -(1 << 31), 1 << 31)
        return multiplier, beta - (multiplier * s1[:, :, None]) // n + (1 << 23)

    def _conv(self, step: dict, r: dict, level: int) -> np.ndarray:
        """Section 6.4."""
        x = r[step["inputs"][0]]
        if step.get("quant"):
            shift, lo, hi = step["quant"]
            x = rshift(x, shift) if shift > 0 else x << -shift
            x = np.clip(x, lo, hi)
        if step.get("upsample"):
            x = x.repeat(2, axis=2).repeat(2, axis=3)
        weight, bias = self.table(step["name"] + ".weight"), self.table(step["name"] + ".bias")
        y = _convolve(x, weight, step.get("stride", 1), step.get("pad", 0))
        y = y + bias[level if len(bias) > 1 else 0][:, None, None]
        shifts = self.table(step["name"] + ".shift")[:, None, None]
        y = np.where(shifts >= 0, y >> np.maximum(shifts, 0), y << np.maximum(-shifts, 0))
        limit = step.get("limit", RESIDUAL)
        y = np.clip(y, -limit, limit)
        if step.get("add"):
            y = np.clip(y + r[step["add"]], -RESIDUAL, RESIDUAL)
        return y

    def _attention(self, step: dict, r: dict, level: int) -> np.ndarray:
        """Section 6.5."""
        heads, shift = step.get("heads", 1), step.get("shift", 0)
        n, channels, height, width = r[step["inputs"][0]].shape
        q, k, v = (r[name].reshape(n, heads, -1, height * width) for name in step["inputs"])
        scores = matmul(q.swapaxes(2, 3), k)
        distance = scores.max(3, keepdims=True) - scores
        distance = distance >> shift if shift >= 0 else distance << -shift
        weights = self.table(step["table"])[np.minimum(distance, 4095)]
        total = weights.sum(3)[:, :, None, :]
        sums = matmul(v, weights.swapaxes(2, 3))
        return ((2 * sums + total) // (2 * total)).reshape(n, channels, height, width)


def _convolve(x: np.ndarray, weight: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """Cross-correlation with zeros around."""
    n, _, height, width = x.shape
    out, _, kernel, _ = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    y = np.zeros((n, out, rows * columns), np.int64)
    for i in range(kernel):
        for j in range(kernel):
            part = x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            part = part[:, :, :rows, :columns].reshape(n, -1, rows * columns)
            y += matmul(weight[None, :, :, i, j], part)
    return y.reshape(n, out, rows, columns)
