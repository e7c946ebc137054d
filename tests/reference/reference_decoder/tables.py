"""Safetensors files by hand, and the shipped tables (section 7.2)."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from reference_decoder.fields import Refused, require

PATH = Path(__file__).resolve().parents[3] / "psc_volumetric" / "entropy" / "tables.safetensors"
SHA256 = "bba82d769ccbc7ae0f4521a1da1909ca661fb205c5f9ae038e513be3160d2d6b"
KINDS = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Length of a JSON header (u64), the header, the bytes of the tensors."""
    size = int.from_bytes(data[:8], "little")
    require(8 + size <= len(data), "safetensors header")
    arrays = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in KINDS:
            raise Refused(f"tensor {name} is not of integers")
        start, stop = entry["data_offsets"]
        raw = np.frombuffer(data[8 + size + start : 8 + size + stop], KINDS[entry["dtype"]])
        arrays[name] = raw.reshape(entry["shape"])
    return arrays


@functools.cache
def tables() -> dict[str, np.ndarray]:
    data = PATH.read_bytes()
    require(hashlib.sha256(data).hexdigest() == SHA256, "tables.safetensors is another file")
    return read_safetensors(data)


@functools.cache
def gaussian() -> np.ndarray:
    """Section 5.2: 65536 normal quantiles from their upper half."""
    upper = tables()["gaussian_upper"].astype(np.int64)
    return np.concatenate([-upper[::-1], upper])


@functools.cache
def cumulative(table: int) -> list[int]:
    return np.cumsum([0, *tables()[f"frequencies.{table}"].tolist()]).tolist()
