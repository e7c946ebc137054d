"""Structure-aware damage to golden streams, priors and manifests.

Everything is drawn from one ``random.Random``, so that a find is its target and its seed.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numcodecs import Zstd
from safetensors.numpy import load, save

from fuzz import newer_methods
from fuzz.targets import join_prior, split_prior
from psc_volumetric.archive.manifest import Entry, Manifest
from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.index import PROLOGUE
from psc_volumetric.conformance import load_cases
from psc_volumetric.conformance.damage import Parts, flip_bit, refix, split
from psc_volumetric.golden import Case
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.psc.fields import PscFields, StreamParameters
from psc_volumetric.methods.two_stage.fields import TwoStageFields
from psc_volumetric.prior import load_prior
from psc_volumetric.prior.bundle import METADATA, WEIGHTS
from psc_volumetric.values.samples import StoredSamples

__all__ = ["MUTATORS", "SEEDS", "header_cuts", "header_flips"]

PRIORS = ("test-tiny", "test-tiny-latent", "test-tiny-posterior", "test-tiny-vae", "test-tiny-vq")
Mutator = Callable[[bytes, random.Random], bytes]
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    64,
    65,
    127,
    128,
    255,
    1023,
    4095,
    4096,
    65535,
    1 << 17,
    (1 << 32) - 1,
)
EXTENTS = (0, 1, 2, 7, 8, 9, 63, 64, 65, 512, 4096, 1 << 16, 1 << 26, (1 << 26) + 1, 1 << 40)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-300, 1e300, -1e300, 1.7e308, -1.7e308, 2.0**38,
          2.0**125, 2.0**126, float("inf"), -float("inf"), float("nan"))  # fmt: skip
JSON = (None, True, False, 0, 1, -1, 2, 10**6, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, "", "x",
        [], {}, [[]], [1], {"x": 1}, float("inf"), float("nan"))  # fmt: skip


def _good() -> list[Case]:
    return [case for case in load_cases() if case.kind is None]


def _prior_seed(name: str) -> bytes:
    files = load_prior(name).files()
    return join_prior(files[METADATA], files[WEIGHTS])


def _manifest_seed() -> bytes:
    entries = {f"volume/c/{i}/0/0": Entry(100 + i, f"{i:064x}") for i in range(4)}
    return Manifest(entries).to_bytes()


def _decodable() -> list[bytes]:
    """Streams to mutate; those of eight particles and of large priors take too long."""
    slow = ("fast-effort5-int16", "prior-")
    return [case.stream for case in _good() if not case.name.startswith(slow)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "brick_header": lambda: [case.stream for case in _good()],
    "brick_decode": _decodable,
    "prior_files": lambda: [_prior_seed(name) for name in PRIORS],
    "manifest": lambda: [_manifest_seed()],
}


def header_cuts(stream: bytes) -> Iterator[bytes]:
    """The stream cut at every byte of its header, and after it."""
    size = int.from_bytes(stream[8:12], "little")
    for length in range(size + 1):
        yield stream[:length]


def header_flips(stream: bytes) -> Iterator[bytes]:
    """Every bit of the header flipped, once as damage and once with the check re-fixed."""
    size = int.from_bytes(stream[8:12], "little")
    for bit in range(8 * size):
        yield flip_bit(stream, bit)
    for bit in range(8 * (size - PROLOGUE - 4)):
        yield refix(stream, lambda body, bit=bit: _flip(body, bit))


def _flip(body: bytearray, bit: int) -> None:
    body[bit // 8] ^= 1 << (bit % 8)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Plain damage: flips, cuts, repeats, inserted noise."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.choice((1, 2, 4, 64, len(out)))]
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        elif kind == 3:
            out[at:at] = out[at : at + rng.choice((1, 8, 64))]
        elif out:
            out[at] = rng.choice((0, 1, 127, 128, 255))
    return bytes(out)


def _edit_header(stream: bytes, rng: random.Random) -> bytes:
    """Change header bytes and re-fix the check."""

    def change(body: bytearray) -> None:
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(body)) if body else 0
            kind = rng.randrange(4)
            if kind == 0 and body:
                body[at] = rng.choice((0, 1, 2, 63, 64, 127, 128, 255))
            elif kind == 1 and body:
                body[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                body[at:at] = rng.choice((b"\xff", b"\x80", b"\0", b"\xff\xff\xff\x7f"))
            else:
                del body[at : at + rng.randrange(1, 9)]

    return refix(stream, change)


def _parameters(parts: Parts, rng: random.Random) -> Parts:
    name = rng.choice([f.name for f in fields(StreamParameters)])
    value = getattr(parts.psc.parameters, name)
    changed: Any = value
    if name in ("step", "coarse_step", "seed"):
        changed = rng.choice(NUMBERS)
    elif name in ("particles", "rows_per_round", "restorations"):
        changed = rng.choice((0, 1, 2, 3, 4, 8, 15, 16, 33, 64, 65, 255))
    elif isinstance(value, tuple):
        changed = list(value)
        for _ in range(rng.randrange(1, 4)):
            if changed and rng.random() < 0.5:
                changed[rng.randrange(len(changed))] = rng.choice(
                    (0, 1, 2, 31, 32, 76, 16383, 1 << 20)
                )
            elif rng.random() < 0.5:
                changed = changed[:-1]
            else:
                changed.append(rng.choice((1, 2, 3, 300)))
        changed = tuple(changed)
    else:
        table = {"schedule": ("single_pass", "restart"), "rows": ("structured", "pca")}
        changed = rng.choice(table.get(name, ("uniform", "float8")))
    return parts.with_parameters(**{name: changed})


def _shape(parts: Parts, rng: random.Random) -> Parts:
    def extents() -> tuple[int, ...]:
        return tuple(rng.choice(EXTENTS) if rng.random() < 0.4 else v for v in parts.header.valid)

    name = rng.choice(("shape", "valid", "both", "dtype", "position"))
    if name == "dtype":
        return parts.with_header(dtype=rng.choice(list(c.DTYPES.values())))
    if name == "position":
        return parts.with_header(
            position=tuple(rng.choice(EXTENTS) for _ in range(rng.randrange(10)))
        )
    chosen = extents()
    if name == "both":
        return parts.with_header(shape=chosen, valid=chosen)
    return parts.with_header(**{name: chosen})


def _words(parts: Parts, rng: random.Random) -> Parts:
    """Lengths that promise more, less, or belong to other tiles."""
    words = [list(row) for row in parts.psc.words]
    row = rng.choice(words)
    if row and rng.random() < 0.7:
        row[rng.randrange(len(row))] = rng.choice((0, 1, 2, 1 << 20, 1 << 24, (1 << 24) + 1))
    else:
        row.append(rng.choice((0, 1, 5)))
    return parts.with_fields(words=tuple(tuple(r) for r in words))


def _section(parts: Parts, rng: random.Random) -> Parts:
    name, data = rng.choice(parts.sections)
    kind = rng.randrange(6)
    if kind == 0:
        data = rng.randbytes(len(data))
    elif kind == 1:
        data = bytes([rng.choice((0, 255))]) * len(data)
    elif kind == 2:
        frame = bytes(
            Zstd(level=1).encode(np.zeros(rng.choice((1, 255, 256, 32768, 65791)), np.uint8))
        )
        data = rng.choice((frame, bytes([rng.randrange(17)]) + data[1:], b"\0" + frame))
    else:
        keep = len(data)
        data = _bytes(data, rng)
        if name.startswith("level"):
            data = data[:keep].ljust(keep, b"\0")
    return parts.with_section(name, data)


def _layer(parts: Parts, rng: random.Random) -> Parts:
    """Other fields of a layer, other bytes in a segment, layers lost or doubled."""
    number = rng.randrange(len(parts.layers))
    fields, segments = parts.layers[number]
    kind = rng.randrange(9)
    if kind == 8:
        spans = [(rng.choice(EXTENTS), rng.choice(EXTENTS)) for _ in range(3)]
        cover = tuple(slice(start, start + size) for start, size in spans)
        return parts.with_layer(number, cover=cover)
    if kind == 0:
        layers = list(parts.layers)
        rng.choice((layers.pop, lambda: layers.append(layers[0]), layers.reverse))()
        return replace(parts, layers=tuple(layers))
    if kind == 1:
        return parts.with_layer(number, coder=rng.choice(list(c.CODERS.values())))
    if kind == 2:
        return parts.with_layer(number, on_base=not fields.on_base)
    if kind == 3:
        segment = tuple(rng.choice(EXTENTS) if rng.random() < 0.4 else s for s in fields.segment)
        return parts.with_layer(number, segment=segment)
    if kind == 4 and fields.grid is not None:
        name = rng.choice(("bound", "step", "offset"))
        value = rng.choice((*FLOATS, *map(float, NUMBERS)))
        if name == "offset" and parts.header.dtype.kind != "f":
            value = rng.choice(NUMBERS)
        return parts.with_layer(number, grid=replace(fields.grid, **{name: value}))
    at = rng.randrange(len(segments))
    data = rng.choice((_bytes(segments[at], rng), _bytes(segments[at][:40], rng), b""))
    return parts.with_segment(number, at, data)


def _brick(stream: bytes, rng: random.Random) -> bytes:
    """Change something by name; every check is correct afterwards."""
    parts = split(stream)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        choices = [_shape]
        if parts.sections:
            choices += [_section, _section, _section]
        if parts.layers:
            choices += [_layer, _layer, _layer]
        if isinstance(parts.fields, PscFields):
            choices += [_parameters, _parameters, _words, _mapping, _tile]
        if isinstance(parts.fields, LatentFields):
            choices += [newer_methods.latent, newer_methods.latent, _mapping]
        if isinstance(parts.fields, TwoStageFields):
            choices += [newer_methods.two_stage, newer_methods.two_stage]
        if isinstance(parts.fields, StoredSamples):
            choices += [newer_methods.sampled, _section, _section]
        parts = rng.choice(choices)(parts, rng)
    return parts.join()


def _mapping(parts: Parts, rng: random.Random) -> Parts:
    return parts.with_mapping(rng.choice(FLOATS), rng.choice(FLOATS))


def _tile(parts: Parts, rng: random.Random) -> Parts:
    tile = tuple(
        rng.choice((0, 1, 8, 64, 1024, 1025)) if rng.random() < 0.5 else t for t in parts.psc.tile
    )
    return parts.with_fields(tile=tile)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield from _paths(value, (*path, key))


def _any_json(rng: random.Random) -> Any:
    """A value of its own: a document that held one of ``JSON`` itself would change it later."""
    return copy.deepcopy(rng.choice(JSON))


def _change_json(document: Any, rng: random.Random) -> Any:
    """Replace, delete or double one node."""
    path = rng.choice(list(_paths(document)))
    if not path:
        return _any_json(rng)
    node = document
    for key in path[:-1]:
        node = node[key]
    kind = rng.randrange(4)
    if kind == 0:
        del node[path[-1]]
    elif kind == 1 and isinstance(node, list):
        node.append(rng.choice((copy.deepcopy(node[path[-1]]), _any_json(rng))))
    elif kind == 2 and isinstance(node[path[-1]], int):
        node[path[-1]] += rng.choice((-1, 1, 8, 1 << 20, -(1 << 40)))
    else:
        node[path[-1]] = _any_json(rng)
    return document


def _json(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        return rng.choice((b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe", b""))
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        document = _change_json(document, rng)
    return json.dumps(document).encode()


def _tensors(data: bytes, rng: random.Random) -> bytes:
    """Other dtypes, shapes and extreme values."""
    tensors = dict(load(data))
    name = rng.choice(sorted(tensors))
    array = tensors[name]
    kind = rng.randrange(6)
    if kind == 0:
        dtype = rng.choice(("<f4", "<f8", "<u8", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1", "<f2"))
        with np.errstate(over="ignore", invalid="ignore"):
            tensors[name] = array.astype(dtype)
    elif kind == 1:
        tensors[name] = array.reshape(rng.choice(((-1,), (1, -1), (*array.shape, 1))))
    elif kind == 2:
        tensors[name] = array[: rng.randrange(len(array))] if array.ndim else array
    elif kind == 3:
        del tensors[name]
    else:
        flat = array.copy().reshape(-1)
        info = np.iinfo(array.dtype)
        value = rng.choice((info.min, info.max, 0, info.min + 1, info.max // 2))
        flat[:: rng.choice((1, 1, 7, 10**9))] = value
        tensors[name] = flat.reshape(array.shape)
    return save({k: np.ascontiguousarray(v) for k, v in tensors.items()})


def _prior(data: bytes, rng: random.Random) -> bytes:
    metadata, weights = split_prior(data)
    kind = rng.randrange(8)
    if kind == 0:
        return join_prior(_bytes(metadata, rng), weights)
    if kind == 1:
        return join_prior(metadata, _bytes(weights[:4000], rng) + weights[4000:])
    if kind == 2:
        return join_prior(metadata, _tensors(weights, rng))
    if kind == 3:
        return join_prior(metadata, weights[: rng.randrange(len(weights))])
    document = json.loads(metadata)
    if rng.random() < 0.05:
        return join_prior(_json(metadata, rng), weights)
    identity = document["psc_prior"]["identity"]
    document["psc_prior"]["identity"] = _change_json(identity, rng)
    return join_prior(json.dumps(document).encode(), weights)


def _manifest(data: bytes, rng: random.Random) -> bytes:
    return _bytes(data, rng) if rng.random() < 0.2 else _json(data, rng)


MUTATORS: dict[str, tuple[Mutator, ...]] = {
    "brick_header": (_bytes, _edit_header, _edit_header, _brick),
    "brick_decode": (_bytes, _edit_header, _brick, _brick, _brick),
    "prior_files": (_prior,),
    "manifest": (_manifest,),
}
