"""Packs: the volumes of a domain in one small file, training and held-out side apart.

Samples are integers, ``levels`` of them in the intensity range (the whole stored values where there
are fewer of those), differences along rows, bytes by significance, LZMA. Held-out volumes carry
what the real encoder made of them: the numbers of quantiser steps at every held-out step.
"""

from __future__ import annotations

import json
import lzma
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from psc_volumetric.errors import FormatError
from psc_volumetric.methods.wavelet.transform import UNITS, dequantise, synthesise

__all__ = [
    "Coded",
    "Packed",
    "held_out_file",
    "read_pack",
    "training_file",
    "write_pack",
]

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]

FILTERS = ({"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 4, "lp": 0, "pb": 0},)


@dataclass(frozen=True)
class Coded:
    """What the encoder made of a volume at one quantiser step.

    Attributes
    ----------
    step : float
        Share of the intensity range, as the stream has it.
    middle : float
        Value of sample 0.
    depth : int
        Splits of z.
    nbytes : int
        Of the stream.
    numbers : (z, y, x) int32
        Quantiser steps.
    """

    step: float
    middle: float
    depth: int
    nbytes: int
    numbers: NDArray[np.int32]

    def decode(self) -> Floats:
        """(z, y, x) values, with the integers of every reader."""
        samples = synthesise(dequantise(self.numbers, self.depth), self.depth)
        return (samples * (self.step / UNITS) + self.middle).astype(np.float32)


@dataclass(frozen=True)
class Packed:
    """One volume.

    Attributes
    ----------
    name : str
    samples : (z, y, x) int16
    low, unit : float
        A sample is worth ``low + unit * sample``, 0 .. 1 from the low to the high end of the
        intensity range.
    isotropic : bool
        Voxels are nearly cubic.
    coded : tuple of Coded
        Of held-out volumes.
    """

    name: str
    samples: NDArray[np.int16]
    low: float
    unit: float
    isotropic: bool
    coded: tuple[Coded, ...] = ()

    def values(self) -> Floats:
        """(z, y, x) shares of the intensity range."""
        return np.float32(self.low) + np.float32(self.unit) * self.samples.astype(np.float32)

    @classmethod
    def of(cls, name: str, values: Floats, levels: int, isotropic: bool) -> Packed:
        """Sample values, 0 .. 1 in the intensity range, in ``levels`` or in their own units."""
        found = np.unique(values)
        low = float(found[0])
        unit = 1.0 / levels
        if 1 < len(found) <= levels:
            gaps = np.diff(found)
            own = float(gaps.min())
            if own > unit and np.abs(gaps / own - np.rint(gaps / own)).max() < 0.05:
                unit = (float(found[-1]) - low) / round((float(found[-1]) - low) / own)
        samples = np.rint((values - np.float32(low)) / np.float32(unit)).astype(np.int16)
        return cls(name, samples, low, unit, isotropic)


def training_file(folder: Path, domain: str) -> Path:
    """Where the training side of a domain is packed."""
    return folder / f"{domain}.train.safetensors"


def held_out_file(folder: Path, domain: str) -> Path:
    """Where the held-out side of a domain is packed."""
    return folder / f"{domain}.held-out.safetensors"


def write_pack(path: Path, volumes: Sequence[Packed]) -> int:
    """Write a pack; returns its size in bytes."""
    arrays: dict[str, Integers] = {}
    described = []
    for number, volume in enumerate(volumes):
        arrays[str(number)] = volume.samples
        entry: dict[str, Any] = {
            "name": volume.name,
            "shape": list(volume.samples.shape),
            "low": volume.low,
            "unit": volume.unit,
            "isotropic": volume.isotropic,
            "coded": [],
        }
        for k, coded in enumerate(volume.coded):
            arrays[f"{number}.{k}"] = coded.numbers
            fields = ("step", "middle", "depth", "nbytes")
            entry["coded"].append({field: getattr(coded, field) for field in fields})
        described.append(entry)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        packed = dict(zip(arrays, pool.map(_pack, arrays.values()), strict=True))
    tensors = {f"{k}.{plane}": data for k, pair in packed.items() for plane, data in pair.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"volumes": json.dumps(described)})
    return path.stat().st_size


def read_pack(path: Path) -> list[Packed]:
    """Read a pack.

    Raises
    ------
    FormatError
        There is none, or it is not one (kind ``"bad-pack"``).
    """
    if not path.is_file():
        raise FormatError(
            f"{path}: expected a pack of training volumes, found none",
            kind="bad-pack",
            hint="make one with `make train-pack DATA=FOLDER`",
        )
    with safe_open(path, "numpy") as opened:
        described = json.loads((opened.metadata() or {}).get("volumes", "null"))
        if described is None:
            raise FormatError(f"{path}: expected a list of volumes, found none", kind="bad-pack")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_volume, str(n), d, tensors) for n, d in enumerate(described)]
        return [job.result() for job in jobs]


def _volume(key: str, described: Mapping[str, Any], tensors: Mapping[str, Any]) -> Packed:
    shape = tuple(described["shape"])
    coded = tuple(
        Coded(**fields, numbers=_unpack(tensors, f"{key}.{k}", shape).astype(np.int32))
        for k, fields in enumerate(described["coded"])
    )
    samples = _unpack(tensors, key, shape).astype(np.int16)
    return Packed(
        described["name"], samples, described["low"], described["unit"],
        described["isotropic"], coded,
    )  # fmt: skip


def _pack(values: Integers) -> dict[str, NDArray[np.uint8]]:
    """Differences along x, signs in the lowest bit, low and high bytes apart."""
    wide = values.astype(np.int32)
    wide[..., 1:] -= values[..., :-1]
    folded = (wide << 1) ^ (wide >> 31)
    if folded.max(initial=0) > 0xFFFF:
        raise FormatError("pack: differences need more than 16 bits", kind="bad-pack")
    planes = {"low": folded & 0xFF, "high": folded >> 8}
    return {name: _squeezed(plane.astype(np.uint8)) for name, plane in planes.items()}


def _squeezed(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    data = lzma.compress(plane.tobytes(), format=lzma.FORMAT_RAW, filters=FILTERS)
    return np.frombuffer(data, np.uint8)


def _unpack(tensors: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Inverse of `_pack`."""
    low, high = (_plain(tensors[f"{key}.{plane}"], shape) for plane in ("low", "high"))
    folded = low.astype(np.int32) | (high.astype(np.int32) << 8)
    return np.cumsum((folded >> 1) ^ -(folded & 1), axis=-1, dtype=np.int32)


def _plain(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    plain = decompressor.decompress(data.tobytes(), math.prod(shape))
    if len(plain) != math.prod(shape):
        raise FormatError(
            f"pack: expected {math.prod(shape)} bytes, found {len(plain)}", kind="bad-pack"
        )
    return np.frombuffer(plain, np.uint8).reshape(shape)
