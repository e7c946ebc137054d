"""`psc-archive prior train`: real volumes in, a shippable prior folder out.

volumes -> split by patient -> train -> convert to integers -> measure the cost ->
calibrate scales -> configs/metadata.json, models/integer.safetensors, docs/README.md
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.training.model_card import HeldOutErrors, model_card
from pipelines.training.recipe import Recipe
from pipelines.training.train import (
    NOISE_LEVELS_REPORTED,
    TileSampler,
    TrainingSettings,
    TrainingVolume,
    train,
)
from pipelines.training.volumes import load_volumes, split_volumes
from psc_volumetric.errors import StorageError
from psc_volumetric.values.mapping import UNIT

if TYPE_CHECKING:
    import torch

    from psc_volumetric.prior import Prior
    from psc_volumetric.prior.making.frontends import Denoising

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

    from psc_volumetric.prior.making.networks import build_network

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
            start=_start(recipe),
            on_progress=lambda i, m, loss: report(f"step {i}, {m:.1f} min, loss {loss:.5f}"),
            on_checkpoint=save,
        )
        save(net)
    from psc_volumetric.prior.making.build import cosine_times
    from psc_volumetric.prior.making.frontends import Denoising, from_trained

    times = cosine_times(recipe.levels)
    alpha = np.cos(np.array(times) * (math.pi / 2 * 0.998))
    source = Denoising(from_trained(net, recipe.architecture, times), alpha, "v")
    return _finish(out, recipe, source, training, validation, report)


def _start(recipe: Recipe) -> torch.nn.Module | None:
    from pipelines.training.warm_start import float_network
    from psc_volumetric.prior import load_prior

    return float_network(load_prior(recipe.start), recipe.architecture) if recipe.start else None


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
    from psc_volumetric.prior.making.frontends import load_diffusers

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
    from psc_volumetric.methods.psc.calibrate import calibrate
    from psc_volumetric.prior.making.build import build_bundle
    from psc_volumetric.prior.making.convert import convert, observe

    floats = source.program
    shape = (floats.slices, floats.tile, floats.tile)
    sampler = TileSampler(training, shape, replace(recipe.settings, seed=3))
    program = convert(floats, observe(floats, _calibration_batches(sampler, source.alpha)))

    def bundle(scales: Any = None) -> Prior:
        return build_bundle(
            program,
            name=recipe.name,
            alpha=source.alpha,
            prediction=source.prediction,
            clip=recipe.clip,
            metadata=_metadata(recipe, losses, training, validation),
            scales=scales,
            classes=source.classes,
        )

    losses: HeldOutErrors = {}
    prior = bundle()
    losses = _losses(source, prior, validation)
    for level, errors in losses.items():
        report(f"t {level}: " + ", ".join(f"{name} {mse:.6f}" for name, mse in errors.items()))
    settings = recipe.settings.unaugmented(seed=9)
    tiles = TileSampler(training, shape, settings).batch(recipe.calibration_tiles)
    for round_number in (1, 2):
        report(f"calibrating scales, round {round_number} of 2")
        prior = bundle(calibrate(prior, tiles))
    _write(out, prior, recipe, losses, _names(training), _names(validation))
    return prior


def _noisy(x: torch.Tensor, alpha: float, generator: torch.Generator) -> torch.Tensor:
    """Noise that scales are calibrated and losses measured with; it reaches no stream.

    What it decides is frozen in the integers of the prior, which streams name by digest.
    """
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


def _losses(source: Denoising, prior: Prior, volumes: Sequence[TrainingVolume]) -> HeldOutErrors:
    """Mean squared error of denoised held-out tiles per noise level, in normalised units squared.

    Of the float network (``"float"``) and of its integers (``"integer"``), under the same noise.
    """
    import torch

    floats = source.program.single()
    shape = (floats.slices, floats.tile, floats.tile)
    sampler = TileSampler(volumes, shape, TrainingSettings().unaugmented(seed=1))
    x = torch.from_numpy(sampler.batch(HELD_OUT_TILES))
    result: HeldOutErrors = {}
    for time in NOISE_LEVELS_REPORTED:
        level = max(0, round(time * prior.levels) - 1)
        alpha = float(source.alpha[level])
        x_t = _noisy(x, alpha, torch.Generator().manual_seed(1))
        result[f"{time:g}"] = {
            "float": _float_error(source, floats.run, level, x, x_t),
            "integer": _integer_error(prior, alpha, x, x_t),
        }
    return result


def _float_error(
    source: Denoising,
    run: Callable[[torch.Tensor, int], torch.Tensor],
    level: int,
    x: torch.Tensor,
    x_t: torch.Tensor,
) -> float:
    from psc_volumetric.prior.making.build import predicted_tile

    alpha, total = float(source.alpha[level]), 0.0
    for part, noisy in zip(x.split(16), x_t.split(16), strict=True):
        x0 = predicted_tile(noisy, run(noisy, level), alpha, source.prediction)
        total += float(((x0 - part) ** 2).sum())
    return total / x.numel()


def _integer_error(prior: Prior, alpha: float, x: torch.Tensor, x_t: torch.Tensor) -> float:
    """As the float error, at the prior's noise level nearest to ``alpha``."""
    import torch

    from psc_volumetric.prior.runtime import TorchRuntime

    runtime, total = TorchRuntime(prior.program), 0.0
    level = int(np.abs(prior.alpha - alpha * 65536).argmin())
    gains = float(prior.x_gain[level]) / 65536, float(prior.out_gain[level]) / 65536
    for part, noisy in zip(x.split(16), x_t.split(16), strict=True):
        samples = torch.round(noisy * UNIT).clamp(-32767, 32767).to(torch.int32)
        output = runtime(samples, level).float() * 2.0**-prior.program.out_bits
        total += float(((gains[0] * noisy + gains[1] * output - part) ** 2).sum())
    return total / x.numel()


def _metadata(
    recipe: Recipe,
    losses: HeldOutErrors,
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
            "held_out_mse": losses,
        },
    }


def _write(
    out: Path,
    prior: Prior,
    recipe: Recipe,
    losses: HeldOutErrors,
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
