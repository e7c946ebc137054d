"""Sections 3.10 and 6.7 of SPEC-v1.md: the mean and the variance that a network gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference_decoder.exact import rshift
from reference_decoder.fields import Fields, Header, require
from reference_decoder.prior import Prior
from reference_decoder.sigma import Q, read_tables


@dataclass
class View:
    """How the network sees a brick."""

    gain: int
    digest: bytes
    level: int
    scale: int
    offset: int


def read_view(data: Fields) -> View | None:
    """What follows the fields of the wavelet."""
    gain = data.number("B")
    require(gain <= 32, "gain")
    if gain == 0:
        return None
    view = View(gain, data.bytes(16), *(data.number(code) for code in "BIi"))
    require(1 <= view.scale < 1 << 31 and abs(view.offset) <= 1 << 24, "scale or offset")
    return view


def moments(samples: np.ndarray, view: View, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Corrected samples, and half octaves of their standard deviation, of the valid part."""
    require(prior.kind == "posterior", "kind of the prior")
    require(prior.digest.startswith(view.digest.hex()), "another prior")
    require(view.level < prior.levels, "level of the prior")
    count, rows, columns = samples.shape
    slices, multiple = prior.slices // 2, _multiple(prior.steps)
    edges = [(0, 0), (0, -rows % multiple), (0, -columns % multiple)]
    whole = np.pad(samples.astype(np.int64), edges, mode="edge")
    added, halves = np.empty_like(whole), np.empty_like(whole)
    for z in range(count):
        near = [whole[min(max(z + k - slices // 2, 0), count - 1)] for k in range(slices)]
        seen = [np.clip(2 * (plane - _mean(whole[z])), -32767, 32767) for plane in near]
        for plane in near:
            scaled = rshift(np.clip(plane, -(1 << 31), 1 << 31) * view.scale, 24) + view.offset
            seen.append(np.clip(scaled, -32767, 32767))
        correction, logs = prior.network(np.stack(seen)[None], view.level)[0]
        added[z] = whole[z] + rshift(correction * view.gain, prior.out_bits - 4)
        halves[z] = np.clip(32 + ((logs * 94548) >> (16 + prior.out_bits)), 0, 63)
    return added[:, :rows, :columns], halves[:, :rows, :columns]


def _multiple(steps: list) -> int:
    """Largest number of pixels a side that a step has joined to one."""
    sides = {"x": 1}
    for step in steps:
        side, factor = sides[step["inputs"][0]], step.get("factor", 1)
        sides[step["out"]] = {"unfold": side * factor, "fold": side // factor}.get(step["op"], side)
    return max(sides.values())


def _mean(plane: np.ndarray) -> np.ndarray:
    """Rounded means over 9 x 9 pixels inside the plane."""
    total, size = np.zeros_like(plane), np.zeros_like(plane)
    framed = np.pad(plane, 4)
    inside = np.pad(np.ones_like(plane), 4)
    height, width = plane.shape
    for i in range(9):
        for j in range(9):
            total += framed[i : i + height, j : j + width]
            size += inside[i : i + height, j : j + width]
    return (2 * total + size) // (2 * size)


def sigma(added: np.ndarray, halves: np.ndarray, h: Header) -> np.ndarray:
    """Sigma of every voxel in stored units, binary32."""
    fields = h.classical
    spread = np.zeros(added.shape, np.int64)
    if fields.sigma:
        first, tables = read_tables(fields.sigma, 1)
        band = np.clip((((added >> fields.detail) + 2048) >> 8) + 1, 0, 17)
        entry = tables[0][band, np.clip(halves - first, 0, 15)]
        spread = (np.array(Q)[entry & 3] << (entry >> 2)) >> 14
    return spread.astype(np.float32) * np.float32(fields.step * 2.0**fields.detail / 8)
