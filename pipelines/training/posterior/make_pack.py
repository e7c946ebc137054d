"""Make packs from real volumes, with the split of the domain's prior.

Needs the whole environment (adapters, the wavelet coder); training does not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.training.posterior.domains import Domain
from pipelines.training.posterior.packs import (
    Coded,
    Packed,
    held_out_file,
    training_file,
    write_pack,
)
from pipelines.training.recipe import Recipe
from pipelines.training.train import TrainingVolume
from pipelines.training.volumes import load_volumes, split_volumes
from psc_volumetric.methods.wavelet.coder import decode_steps
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.methods.wavelet.transform import UNITS, full_depth

__all__ = ["HELD_OUT_VOXELS", "TRAINING_VOXELS", "make_pack"]

log = logging.getLogger(__name__)

TRAINING_VOXELS = 2_400_000  # of a volume at most, in whole slices around its middle
HELD_OUT_VOXELS = 1_200_000
DEPTHS_TRIED = 4  # splits of z: none, one, two, three


def make_pack(
    data: Sequence[Path],
    domain: Domain,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    voxels: int = TRAINING_VOXELS,
    held_out_voxels: int = HELD_OUT_VOXELS,
    report: Callable[[str], object] = log.info,
) -> tuple[int, int]:
    """Pack both sides of a domain; returns their sizes in bytes.

    Parameters
    ----------
    data : sequence of Path
        Files and folders with volumes.
    domain : Domain
    folder : Path
        Where packs go.
    recipe : Recipe, optional
        Instead of the one with the domain's name.
    voxels, held_out_voxels : int
        Most voxels of a volume to keep, in whole slices around the middle one.
    report : callable
        Takes one line of progress.

    Raises
    ------
    ParameterError : a side of the split is empty (kind ``"empty-split"``).
    """
    chosen = Recipe.load(domain.name) if recipe is None else recipe
    training, held_out = split_volumes(chosen, load_volumes(data, chosen))
    packed = [_packed(volume, domain, voxels) for volume in training]
    nbytes = write_pack(training_file(folder, domain.name), packed)
    report(f"{domain.name}: {len(packed)} training volumes, {_count(packed)}, {_mb(nbytes)}")
    coded = []
    for volume in held_out:
        coded.append(_coded(_packed(volume, domain, held_out_voxels), domain.held_out_steps))
        rates = ", ".join(
            f"{c.nbytes * 8 / c.numbers.size:.4f} bpv at {c.step:.3g}" for c in coded[-1].coded
        )
        report(f"held out: {volume.name}, z split {coded[-1].coded[0].depth} times, {rates}")
    held_nbytes = write_pack(held_out_file(folder, domain.name), coded)
    report(f"{domain.name}: {len(coded)} held-out volumes, {_count(coded)}, {_mb(held_nbytes)}")
    return nbytes, held_nbytes


def _count(volumes: Sequence[Packed]) -> str:
    return f"{sum(volume.samples.size for volume in volumes) / 1e6:.1f} million voxels"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def _packed(volume: TrainingVolume, domain: Domain, voxels: int) -> Packed:
    """The middle slices of a volume, shares of the intensity range."""
    values = (volume.values.astype(np.float32) + np.float32(1)) / np.float32(2)
    count, plane = len(values), math.prod(values.shape[1:])
    kept = min(count, max(voxels // plane, 1))
    first = (count - kept) // 2
    return Packed.of(
        volume.name, values[first : first + kept], domain.levels, isotropic=volume.isotropic
    )


def _coded(volume: Packed, steps: Sequence[float]) -> Packed:
    """With what the encoder makes of it, z split as often as is best at the second step."""
    values = volume.values()
    deepest = min(DEPTHS_TRIED - 1, full_depth(len(values)))
    sources = [WaveletSource(values, None, depth=depth) for depth in range(deepest + 1)]
    middle = steps[min(1, len(steps) - 1)]

    def cost(source: WaveletSource) -> float:
        trial = source.code(middle)
        return math.log(len(trial.data)) + math.log(max(trial.mse, 1e-30)) / 1.2

    best = min(sources, key=cost)
    found = []
    for step in steps:
        trial = best.code(step)
        numbers, depth = decode_steps(trial.data, best.shape, what=volume.name)
        fields = trial.fields
        found.append(Coded(fields.step * UNITS, fields.low, depth, len(trial.data), numbers))
    return replace(volume, coded=tuple(found))
