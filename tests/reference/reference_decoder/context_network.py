"""Section 15.11 of SPEC-v1.md: a network foresees the integers of a ``neural`` stream."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference_decoder.context_levels import bits, clamp
from reference_decoder.fields import require
from reference_decoder.tables import read_safetensors

CODERS = Path(__file__).resolve().parents[3] / "psc_volumetric" / "coders"
PATH = CODERS / "context" / "networks.safetensors"
SHA256 = "7b98e6548846a4768416e872bff190dfec79eca1799f6fb63f08af14b697be36"
# first input of each row that is looked at, and the row: slice and row from the voxel
VALUES = {8 * k: (0, -k) for k in range(4)}
VALUES |= {32 + 8 * k: (-1, k - 2) for k in range(5)} | {72 + 8 * k: (-2, k - 1) for k in range(3)}
ERRORS = {96 + 8 * k: (0, -k) for k in range(3)} | {120 + 8 * k: (-1, k - 1) for k in range(3)}


@functools.cache
def networks() -> dict[str, np.ndarray]:
    data = PATH.read_bytes()
    require(hashlib.sha256(data).hexdigest() == SHA256, "networks.safetensors is another file")
    return read_safetensors(data)


@dataclass
class Seen:
    """What is known at a voxel; ``value`` and ``error`` are v and f at (a, b, c) from it."""

    value: Callable[[int, int, int], int]
    error: Callable[[int, int, int], int]
    is_first: bool  # of slice 0
    guesses: list[int]
    blended: int
    smallest: int
    mean: int
    level: int
    scale: int
    ends: tuple[int, int]


class Network:
    """The weights of one network."""

    def __init__(self, number: int) -> None:
        tensors = networks()
        require(f"{number}.first" in tensors, "number of the network")
        names = ("first", "second", "last", "biases")
        parts = [tensors[f"{number}.{name}"].astype(np.int64) for name in names]
        self.first, self.second, self.last, self.biases = parts

    def foresee(self, seen: Seen, top: int) -> tuple[int, int]:
        """The centre and the width."""
        a = (self.biases[:48] + self.first @ np.array(inputs(seen), np.int64)) >> 4
        b = (self.biases[48:96] + self.second @ np.clip(a, 0, 4095)) >> 6
        o = (self.biases[96:] + self.last @ np.clip(b, 0, 4095)).tolist()
        moved = (clamp(o[0], -(1 << 20), 1 << 20) * seen.scale) >> 13
        p = clamp(o[1] >> 5, -768, 768)
        width = (seen.scale * (256 + p % 256)) >> (8 - (p >> 8))
        return clamp(seen.mean + moved, 0, top << 8), max(width, 16)


def inputs(seen: Seen) -> list[int]:
    """The 160 numbers X."""
    mean, s = seen.mean, seen.scale
    size = bits(s) - 1
    shift = max(size - 8, 0)
    inverse = (1 << 15) // (s >> shift)

    def u(d: int) -> int:
        return clamp((clamp(d >> shift, -8191, 8191) * inverse) >> 10, -511, 511)

    found = [0] * 160
    for rows, number in (
        (VALUES, lambda *at: (seen.value(*at) << 8) - mean),
        (ERRORS, seen.error),
    ):
        for start, (a, b) in rows.items():
            if a < 0 and seen.is_first:
                continue
            for c in range(7 if (a, b) != (0, 0) else 3):
                found[start + c] = u(number(a, b, c - 3))
    away = [u(guess - mean) for guess in seen.guesses]
    found[144 : 144 + len(away) - 3] = away[:-3]
    least, most = seen.ends
    found[149:159] = [
        *away[-3:],
        u(seen.blended - mean),
        u(seen.smallest >> 4),
        u(mean - (least << 8)),
        u((most << 8) - mean),
        min(32 * (seen.level - 8), 511),
        ((s << 8) >> size) - 384,
        32 if seen.is_first else 0,
    ]
    return found
