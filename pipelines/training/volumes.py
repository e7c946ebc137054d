"""What a prior is trained on: real volumes as the codec sees them, split by patient or source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adapters
from adapters.base import Volume
from pipelines.archiving.value_range import SampledRange, judge
from pipelines.training.recipe import Recipe
from pipelines.training.train import TrainingVolume
from psc_volumetric.errors import ParameterError
from psc_volumetric.tiling import default_brick_shape
from psc_volumetric.values.mapping import UNIT, IntensityMapping, integer_mapping, normalise
from psc_volumetric.values.special import SpecialMap

__all__ = ["load_volumes", "split_volumes", "synthetic_volumes"]

CUBIC = 1.5  # voxel sides within this ratio count as isotropic
CLIP_ABOVE = 1.6  # of the intensity range; brighter synthetic voxels saturate


def load_volumes(paths: Sequence[Path], recipe: Recipe) -> list[tuple[str, TrainingVolume]]:
    """Read every volume below ``paths`` through the adapters and normalise it as archiving does.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders.
    recipe : Recipe
        Says which volumes, and how many frames of volumes with more than three axes.

    Returns
    -------
    list of (path, TrainingVolume)
        ``path`` is the first source file, for the split. Each frame is a volume of its own.
    """
    volumes = []
    for path in paths:
        for candidate in adapters.discover(path).candidates:
            item = adapters.open_source(candidate)
            where = candidate.paths[0].as_posix()
            for volume in item.volumes:
                name = item.name if len(item.volumes) == 1 else f"{item.name}.{volume.name}"
                volumes += [(where, frame) for frame in _frames(volume, name, recipe)]
    return volumes


def _frames(volume: Volume, name: str, recipe: Recipe) -> Iterator[TrainingVolume]:
    """The three-dimensional frames of a volume as the prior sees them when coding."""
    sampled = judge(volume)[0]
    if sampled is None or (recipe.hounsfield and not sampled.hounsfield):
        return
    spacing, array = volume.spacing_mm, volume.array
    cubic = spacing is not None and max(spacing) <= CUBIC * min(spacing)
    mapping = IntensityMapping(sampled.low, sampled.high)
    leading = list(np.ndindex(*array.shape[:-3]))
    for index in leading[: recipe.frames or len(leading)]:
        frame = tuple(slice(i, i + 1) for i in index)
        values = array[(*frame, *(slice(0, n) for n in array.shape[-3:]))]
        values = values.reshape((1, *array.shape)[-3:])
        samples = normalise(_filled(values, sampled), integer_mapping(mapping, values.dtype))
        unit = np.minimum(samples / np.float32(UNIT), recipe.settings.clip, dtype=np.float32)
        yield TrainingVolume(name, unit, cubic)


def _filled(values: NDArray[Any], sampled: SampledRange) -> NDArray[Any]:
    """Special voxels replaced as in bricks of the usual width."""
    width = default_brick_shape((1, 1, values.shape[2]), (1, 1, 64))[2]
    parts = []
    for start in range(0, values.shape[2], width):
        part = np.ascontiguousarray(values[..., start : start + width])
        special = SpecialMap.find(part, sampled.special_values)
        parts.append(part if special is None else special.fill(part, sampled.low))
    return np.concatenate(parts, axis=2)


def synthetic_volumes(count: int, shape: tuple[int, int, int], seed: int) -> list[TrainingVolume]:
    """Smooth random blobs on a dark background; enough structure for a test prior."""
    rng = np.random.default_rng(seed)
    volumes = []
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    for number in range(count):
        values = np.zeros(shape, np.float32)
        for _ in range(24):
            centre = [rng.uniform(0, n) for n in shape]
            radius = rng.uniform(4, 24)
            distance = (z - centre[0]) ** 2 * 4 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
            values += rng.uniform(0.2, 0.8) / (1 + np.exp((np.sqrt(distance) - radius) * 2))
        values += rng.normal(0, 0.01, shape)
        unit = np.clip(values / 1.5, 0, CLIP_ABOVE)
        volumes.append(TrainingVolume(f"synthetic-{number}", (unit * 2 - 1).astype("f4"), False))
    return volumes


def split_volumes(
    recipe: Recipe, volumes: Sequence[tuple[str, TrainingVolume]]
) -> tuple[list[TrainingVolume], list[TrainingVolume]]:
    """Training and held-out side, by the recipe's patterns; synthetic volumes join both.

    Raises
    ------
    ParameterError : a side is empty (kind ``"empty-split"``).
    """
    held = [any(p in where for p in recipe.held_out) for where, _ in volumes]
    training = [v for (_, v), h in zip(volumes, held, strict=True) if not h]
    validation = [v for (_, v), h in zip(volumes, held, strict=True) if h]
    if recipe.synthetic:
        a = recipe.architecture
        made = synthetic_volumes(recipe.synthetic, (2 * a.slices, 2 * a.tile, 2 * a.tile), 1)
        training, validation = training + made[1:], validation + made[:1]
    for side, name in ((training, "training"), (validation, "held-out")):
        if not side:
            raise ParameterError(
                f"recipe {recipe.name!r}: the {name} side has no volumes",
                kind="empty-split",
                hint="name folders with its data; its `held_out` patterns choose among their paths",
            )
    return training, validation
