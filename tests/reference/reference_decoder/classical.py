"""Sections 3.7 and 3.8 of SPEC-v1.md: fields of the classical methods, and what samples mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reference_decoder.fields import Fields, Header, require
from reference_decoder.sigma import read_tables, sigma_of_tile

# largest detail, and largest step of integers and of floats
LIMITS = {"av1": (2, 2.0**26, 2.0**113), "wavelet": (40, 2.0**26, 2.0**88)}
LIMITS["posterior"] = LIMITS["foresight"] = LIMITS["wavelet"]
LIMITS["two-stage"] = (13, 2.0**26, 2.0**88)


@dataclass
class Classical:
    """Method fields; ``detail`` is the frame axis of av1 and the shift of wavelet."""

    low: float
    step: float
    sigma: bytes
    detail: int

    def order(self) -> tuple:
        """Axes of the valid part of an av1 brick as frames, rows, columns."""
        return (self.detail, *(a for a in range(3) if a != self.detail))


def read_classical(data: Fields, h: Header) -> Classical:
    largest, widest, widest_float = LIMITS[h.method]
    require(h.dtype.str[1:] not in ("b1", "u8", "i8"), "dtype of a classical brick")
    low, step = data.number("d"), data.number("d")
    detail = data.bytes(1)[0]
    require(detail <= largest, "frame axis or shift")
    table = data.bytes(data.varint(4096))
    require(math.isfinite(low) and math.isfinite(step) and step > 0, "mapping")
    is_float = h.dtype.kind == "f"
    require(abs(low) < (2.0**125 if is_float else 2.0**38), "mapping")
    require(step <= (widest_float if is_float else widest), "mapping")
    if not is_float:
        require(low.is_integer() and (step * 65536).is_integer(), "mapping")
    return Classical(low, step, table, detail)


def stored(samples: np.ndarray, fields: Classical, dtype: np.dtype) -> np.ndarray:
    """Values of samples."""
    m = samples.astype(np.int64)
    if dtype.kind != "f":
        most = math.ceil(2.0**40 / fields.step)
        m = np.clip(m, -most, most)
    if dtype.kind == "f":
        return (fields.low + m.astype(np.float64) * fields.step).astype(dtype)
    info = np.iinfo(dtype)
    wide = int(fields.low) + ((m * int(fields.step * 65536) + 32768) >> 16)
    return np.clip(wide, info.min, info.max).astype(dtype)


def sigma(samples: np.ndarray, fields: Classical, method: str) -> np.ndarray:
    """Sigma of every voxel in stored units, binary32."""
    spread, means, unit = np.zeros(samples.shape, np.int64), samples.astype(np.int64), fields.step
    if method == "av1":
        means = means - 2048
    else:
        means, unit = means >> fields.detail, unit * 2.0**fields.detail
    if fields.sigma:
        first_octave, tables = read_tables(fields.sigma, 1)
        spread = sigma_of_tile(means, spread, first_octave, tables[0])
    return spread.astype(np.float32) * np.float32(unit / 8)
