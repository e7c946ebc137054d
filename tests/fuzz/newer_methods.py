"""Damage by name to bricks of the methods behind `psc`; every check is right."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

from psc_volumetric.conformance.damage import Parts
from psc_volumetric.methods.foresight.fields import ForesightFields, Glimpse
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.posterior.fields import PosteriorFields
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.two_stage.fields import TwoStageFields
from psc_volumetric.values.samples import StoredSamples

__all__ = ["latent", "sampled", "two_stage"]

FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-300, 1e300, -1e300, 1.7e308, 2.0**38,
          2.0**125, 2.0**126, float("inf"), -float("inf"), float("nan"))  # fmt: skip
COUNTS = (0, 1, 2, 3, 4, 8, 15, 16, 33, 64, 255, 1 << 20, 1 << 24)
VOXELS = (1, 2, 7, 8, 63, 64, 65, 128, 512, 1024, 4096, 1 << 13)


def two_stage(parts: Parts, rng: random.Random) -> Parts:
    """Another step of the latents, another autoencoder, more latents than the words hold."""
    assert isinstance(parts.fields, TwoStageFields)
    kind = rng.randrange(3)
    if kind == 0:
        return parts.with_fields(latent_step=rng.choice((0, 1, 15, 16, 17, 256, 4096, 4097, 65535)))
    if kind == 1:
        return parts.with_fields(prior=rng.randbytes(16))
    return _larger(parts, rng)


def latent(parts: Parts, rng: random.Random) -> Parts:
    """Other tokens, tiles, parameters of the sampler, words, or a mapping."""
    found = parts.fields
    assert isinstance(found, LatentFields)
    kind = rng.randrange(5)
    if kind == 0:
        return parts.with_section("base", _prompt(dict(parts.sections)["base"], rng))
    if kind == 1:
        extent = rng.choice((0, 1, 4, 8, 16, 64, 1024, 1025))
        return parts.with_fields(tile=(1, extent, extent if rng.random() < 0.8 else 8))
    if kind == 2:
        words = [list(row) for row in found.words]
        row = rng.choice(words)
        row[rng.randrange(len(row))] = rng.choice(COUNTS)
        return parts.with_fields(words=tuple(map(tuple, words)))
    if kind == 3:
        return _larger(parts, rng)
    return parts.with_fields(parameters=_parameters(found.parameters, rng))


def sampled(parts: Parts, rng: random.Random) -> Parts:
    assert isinstance(parts.fields, StoredSamples)
    if isinstance(parts.fields, PosteriorFields) and parts.fields.view and rng.random() < 0.4:
        name = rng.choice(("gain", "level"))
        changed = replace(parts.fields.view, **{name: rng.choice((0, 1, 3, 16, 32, 33, 255))})
        return parts.with_fields(view=changed)
    if isinstance(parts.fields, ForesightFields) and parts.fields.glimpses and rng.random() < 0.4:
        return parts.with_fields(glimpses=_glimpses(parts.fields, rng))
    name = rng.choice(("low", "step", "sigma", "detail"))
    if name == "detail":
        name = "frame_axis" if parts.header.method == "av1" else "shift"
        return parts.with_fields(**{name: rng.choice((0, 1, 2, 3, 12, 40, 41, 255))})
    value = _changed(parts.fields.sigma, rng) if name == "sigma" else rng.choice(FLOATS)
    return parts.with_fields(**{name: value})


def _glimpses(fields: ForesightFields, rng: random.Random) -> tuple[Glimpse, ...]:
    """Another scale, level, zoom or scale of samples than the first one has."""
    first, *others = fields.glimpses
    name = rng.choice(("splits", "level", "zoom", "scale"))
    number = rng.choice((0, 1, 2, 3, 5, 255, 1 << 20, (1 << 31) - 1, 1 << 31))
    if name == "splits":
        number = number % 4 + 1
    elif name == "level":
        number %= 256
    return (replace(first, **{name: number}), *others)


def _changed(data: bytes, rng: random.Random) -> bytes:
    """A byte lost, doubled or changed."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((b"", data[at : at + 1] * 2, rng.randbytes(1))) + data[at + 1 :]


def _prompt(data: bytes, rng: random.Random) -> bytes:
    """Counts that lie, tokens beyond the vocabulary, no bytes, many."""
    kind = rng.randrange(4)
    if kind == 0:
        return b""
    if kind == 1:
        return bytes([rng.choice((0, 1, 2, 77, 254, 255))]) + data[1:]
    if kind == 2:
        return data[:1] + b"\xff" * len(data[1:])
    return data + rng.randbytes(rng.choice((1, 2, 300)))


def _larger(parts: Parts, rng: random.Random) -> Parts:
    shape = tuple(rng.choice(VOXELS) if rng.random() < 0.6 else n for n in parts.header.valid)
    return parts.with_header(shape=shape, valid=shape)


def _parameters(found: StreamParameters, rng: random.Random) -> StreamParameters:
    name = rng.choice([entry.name for entry in fields(StreamParameters)])
    value: Any = getattr(found, name)
    if isinstance(value, tuple):
        value = tuple(rng.choice(COUNTS) for _ in range(rng.randrange(5)))
    elif isinstance(value, int):
        value = rng.choice(COUNTS)
    return replace(found, **{name: value})
