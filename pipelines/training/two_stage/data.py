"""Tiles that autoencoders learn from: those of the domain's pack, changed as its recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.training.posterior.packs import Packed, read_pack, training_file
from pipelines.training.recipe import Recipe
from pipelines.training.train import TileSampler, TrainingVolume
from pipelines.training.two_stage.networks import NetworkShape

__all__ = ["sampler_of", "training_sampler"]


def training_sampler(pack: Path, domain: str, shape: NetworkShape, *, seed: int) -> TileSampler:
    """Tiles of the training side; held-out volumes are in a file that is not opened."""
    return sampler_of(read_pack(training_file(pack, domain)), domain, shape, seed=seed)


def sampler_of(
    volumes: Sequence[Packed], domain: str, shape: NetworkShape, *, seed: int, plain: bool = False
) -> TileSampler:
    """Tiles of volumes; ``plain`` ones are as coding sees them, without changes of values."""
    settings = Recipe.load(domain).settings
    settings = settings.unaugmented(seed) if plain else replace(settings, seed=seed)
    found = [TrainingVolume(v.name, 2 * v.values() - 1, v.isotropic) for v in volumes]
    return TileSampler(found, (shape.slices, shape.tile, shape.tile), settings)
