"""`psc-archive prior train`: real volumes in, a shippable prior folder out.

volumes -> split by patient -> train -> convert to integers -> measure the cost ->
calibrate scales -> configs/metadata.json, models/integer.safetensors, docs/README.md
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.model_card import model_card
from pipelines.recipe import Recipe
from pipelines.train_prior import (
    NOISE_LEVELS_REPORTED,
    TileSampler,
    TrainingSettings,
    TrainingVolume,
    train,
)
from pipelines.training_volumes import load_volumes, split_volumes
from psc_volumetric.errors import StorageError

if TYPE_CHECKING:
    import torch

    from psc_volumetric.prior import Prior
    from psc_volumetric.prior.frontends import Denoising
    from psc_volumetric.prior.program import Program

__all__ = ["import_diffusers", "make_prior"]

log = logging.getLogger(__name__)

CALIBRATION_LEVEL_STRIDE = 4
HELD_OUT_TILES = 48


def make_prior(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    *,
    weights: Path | None = None,
    report: Any = log.info,
) -> Prior:
    """Train, convert, calibrate and write a prior folder.

    Parameters
    ----------
    recipe : Recipe
        What to make.
    data : sequence of Path
        Files and folders with volumes.
    out : Path
        New folder; must not exist.
    weights : Path, optional
        Float weights (safetensors) of an earlier run of this recipe: skip training.
    report : callable
        Takes one line of progress.

    Returns
    -------
    Prior
        Loaded back from ``out``.
    """
    from safetensors.torch import load_file, save_file

    from psc_volumetric.prior.architecture import build_network

    if out.exists():
        raise StorageError(
            f"{out} exists already", kind="target-exists", hint="choose a new folder"
        )
    training, validation = split_volumes(recipe, load_volumes(data, recipe))
    report(f"{len(training)} training and {len(validation)} held-out volumes")
    float_file = out.with_name(out.name + ".float.safetensors")
    if weights is not None:
        net = build_network(recipe.architecture).eval()
        net.load_state_dict(load_file(weights))
    else:

        def save(trained: torch.nn.Module) -> None:
            save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, float_file)

        net = train(
            training,
            recipe.architecture,
            recipe.settings,
            on_progress=lambda i, m, loss: report(f"step {i}, {m:.1f} min, loss {loss:.5f}"),
            on_checkpoint=save,
        )
        save(net)
    from psc_volumetric.prior.build import cosine_times
    from psc_volumetric.prior.frontends import Denoising, from_monai

    times = cosine_times(recipe.levels)
    alpha = np.cos(np.array(times) * (math.pi / 2 * 0.998))
    source = Denoising(from_monai(net, recipe.architecture, times), alpha, "v")
    return _finish(out, recipe, source, training, validation, report)


def import_diffusers(
    recipe: Recipe, folder: Path, data: Sequence[Path], out: Path, *, report: Any = log.info
) -> Prior:
    """Convert and calibrate a local diffusers ``UNet2DModel`` folder and write a prior folder.

    Parameters
    ----------
    recipe : Recipe
        Name, split, levels, clip; its architecture only says the tile.
    folder : Path
        ``config.json`` and ``diffusion_pytorch_model.safetensors``; a ``scheduler_config.json``
        beside them or in ``../scheduler`` gives the noise schedule.
    data, out, report
        As for :func:`make_prior`.
    """
    from psc_volumetric.prior.frontends import load_diffusers

    if out.exists():
        raise StorageError(
            f"{out} exists already", kind="target-exists", hint="choose a new folder"
        )
    source = load_diffusers(folder, recipe.levels)
    training, validation = split_volumes(recipe, load_volumes(data, recipe))
    return _finish(out, recipe, source, training, validation, report)


def _names(volumes: Sequence[TrainingVolume]) -> list[str]:
    return sorted({v.name for v in volumes})


def _finish(
    out: Path,
    recipe: Recipe,
    source: Denoising,
    training: list[TrainingVolume],
    validation: list[TrainingVolume],
    report: Any,
) -> Prior:
    """Convert to integers, measure the cost, calibrate scales, write the folder."""
    from psc_volumetric.prior.build import build_bundle, calibrate
    from psc_volumetric.prior.convert import convert, observe

    floats = source.program
    shape = (floats.slices, floats.tile, floats.tile)
    sampler = TileSampler(training, shape, replace(recipe.settings, seed=3))
    program = convert(floats, observe(floats, _calibration_batches(sampler, source.alpha)))
    losses = _losses(source, program, validation)
    for level, (before, after) in losses.items():
        report(f"t {level}: float {before:.6f}, integer {after:.6f} ({after / before - 1:+.2%})")

    def bundle(scales: Any = None) -> Prior:
        return build_bundle(
            program,
            name=recipe.name,
            alpha=source.alpha,
            prediction=source.prediction,
            clip=recipe.clip,
            metadata=_metadata(recipe, losses, training, validation),
            scales=scales,
        )

    settings = replace(recipe.settings, seed=9, flat_tiles_kept=0.0)
    tiles = TileSampler(training, shape, settings).batch(recipe.calibration_tiles)
    prior = bundle()
    for round_number in (1, 2):
        report(f"calibrating scales, round {round_number} of 2")
        prior = bundle(calibrate(prior, tiles))
    _write(out, prior, recipe, losses, _names(training), _names(validation))
    return prior


def _noisy(x: torch.Tensor, alpha: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    return alpha * x + math.sqrt(1 - alpha**2) * torch.randn(x.shape, generator=generator)


def _calibration_batches(
    sampler: TileSampler, alpha: NDArray[np.float64]
) -> Iterator[tuple[torch.Tensor, int]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    for level in range(0, len(alpha), CALIBRATION_LEVEL_STRIDE):
        x = torch.from_numpy(sampler.batch(4))
        yield _noisy(x, float(alpha[level]), generator), level


def _losses(
    source: Denoising, program: Program, volumes: Sequence[TrainingVolume]
) -> dict[str, tuple[float, float]]:
    """Mean squared error of denoised held-out tiles, float and integer, per noise level."""
    import torch

    from psc_volumetric.prior.build import predicted_tile
    from psc_volumetric.prior.runtime import TorchRuntime

    runtime, floats = TorchRuntime(program), source.program.single()
    shape = (program.slices, program.tile, program.tile)
    x = torch.from_numpy(
        TileSampler(volumes, shape, TrainingSettings().unaugmented(seed=1)).batch(HELD_OUT_TILES)
    )
    result = {}
    for time in NOISE_LEVELS_REPORTED:
        level = max(0, round(time * program.levels) - 1)
        alpha, generator = float(source.alpha[level]), torch.Generator().manual_seed(1)
        total = np.zeros(2)
        for part in x.split(16):
            x_t = _noisy(part, alpha, generator)
            samples = torch.round(x_t * 2048).clamp(-32767, 32767).to(torch.int32)
            outputs = (
                floats.run(x_t, level),
                runtime(samples, level).float() * 2.0**-program.out_bits,
            )
            for i, output in enumerate(outputs):
                x0 = predicted_tile(x_t, output, alpha, source.prediction)
                total[i] += float(((x0 - part) ** 2).mean()) * len(part)
        result[f"{time:g}"] = (float(total[0] / len(x)), float(total[1] / len(x)))
    return result


def _metadata(
    recipe: Recipe,
    losses: dict[str, tuple[float, float]],
    training: list[TrainingVolume],
    validation: list[TrainingVolume],
) -> dict[str, Any]:
    a = recipe.architecture
    shape = [a.tile, a.tile]
    return {
        "description": recipe.description,
        "modality": recipe.modality,
        "version": "0.1.0",
        "monai_version": "1.6.1",
        "task": "denoising prior for compression",
        "intended_use": "compression; not for generating or interpreting images",
        "network_data_format": {
            kind: {"image": {"type": "image", "num_channels": a.slices, "spatial_shape": shape}}
            for kind in ("inputs", "outputs")
        },
        "training": {
            "recipe": recipe.to_dict(),
            "training_volumes": _names(training),
            "held_out_volumes": _names(validation),
            "held_out_mse": {k: {"float": f, "integer": i} for k, (f, i) in losses.items()},
        },
    }


def _write(
    out: Path,
    prior: Prior,
    recipe: Recipe,
    losses: dict[str, tuple[float, float]],
    training: Sequence[str],
    validation: Sequence[str],
) -> None:
    """Write the folder beside its final name, then rename it into place."""
    partial = out.with_name(out.name + ".partial")
    files: dict[str, bytes] = prior.files()
    files["docs/README.md"] = model_card(recipe, prior, losses, training, validation).encode()
    for name, content in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    partial.replace(out)
