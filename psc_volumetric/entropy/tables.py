"""Integer tables of the format, and the command that makes them. Part of the format (SPEC 7.2).

The tables ship as data (``tables.safetensors``) and are never recomputed when coding: the float
functions below run once, in ``python -m psc_volumetric.entropy.tables``, on one machine.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.shipped import shipped_bytes

__all__ = ["DIGEST", "SCALE_BINS", "gaussian_table", "symbol_frequencies", "symbol_limit"]

PATH = Path(__file__).with_name("tables.safetensors")
DIGEST = "bba82d769ccbc7ae0f4521a1da1909ca661fb205c5f9ae038e513be3160d2d6b"  # SHA-256, SPEC 7.2

PRECISION = 24  # bits of a probability in the range coder
SCALE_BINS = 29  # bin b: scale/step about 2^((b - 12) / 4); larger scales shift bits out first
GAUSSIAN_BITS = 16


@functools.cache
def _tables() -> dict[str, NDArray[np.generic]]:
    from safetensors.numpy import load

    return load(shipped_bytes(PATH, sha256=DIGEST))


def gaussian_table() -> NDArray[np.int16]:
    """Normal quantiles with 11 fraction bits, (65536,) int16; index is 16 random bits."""
    upper = _tables()["gaussian_upper"].astype(np.int16)
    return np.concatenate([-upper[::-1], upper]).astype(np.int16)


@functools.cache
def symbol_limit(scale_bin: int) -> int:
    """Largest magnitude with its own probability in ``scale_bin``; the outermost two escape."""
    return (len(_tables()[f"frequencies.{scale_bin}"]) - 1) // 2


def symbol_frequencies(scale_bin: int) -> NDArray[np.int64]:
    """Frequencies of symbols -limit..limit in ``scale_bin``; they sum to 2^24, none is zero."""
    return _tables()[f"frequencies.{scale_bin}"].astype(np.int64)


def _make() -> dict[str, NDArray[np.generic]]:
    count = 1 << GAUSSIAN_BITS
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((count / 2 + i + 0.5) / count) for i in range(count // 2)])
    upper *= math.sqrt(1.0 / np.mean(upper**2))
    tables: dict[str, NDArray[np.generic]] = {
        "gaussian_upper": np.rint(upper * 2048).astype(np.int16),
    }
    for b in range(SCALE_BINS):
        tables[f"frequencies.{b}"] = _frequencies(2 ** ((b - 12) / 4))
    return tables


def _frequencies(scale: float) -> NDArray[np.int32]:
    """Four parts Gaussian, one part Laplace half as wide again, integrated over unit bins."""
    limit = max(3, math.ceil(8 * scale) + 1)
    normal = NormalDist(0.0, scale)

    def laplace(x: float) -> float:
        tail = 0.5 * math.exp(-abs(x) / (1.5 * scale))
        return tail if x < 0 else 1 - tail

    def mass(low: float, high: float) -> float:
        return 0.8 * (normal.cdf(high) - normal.cdf(low)) + 0.2 * (laplace(high) - laplace(low))

    half = [mass(k - 0.5, k + 0.5) for k in range(limit)] + [mass(limit - 0.5, 1e9)]
    p = np.array(half[:0:-1] + half)
    total = 1 << PRECISION
    frequencies = np.maximum(np.floor(p / p.sum() * (total - 64 * len(p))), 0).astype(np.int64) + 64
    frequencies[limit] += total - frequencies.sum()
    result: NDArray[np.int32] = frequencies.astype(np.int32)
    return result


if __name__ == "__main__":
    from safetensors.numpy import save_file

    save_file(_make(), PATH)
