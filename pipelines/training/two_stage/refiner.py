"""A denoiser of an autoencoder's latents, for the view ``refined``.

MONAI's ``DiffusionModelUNet`` on tiles of latents, whose channels enter as slices do elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.training.optimisers import Optimisers
from pipelines.training.posterior.convert import write_folder
from pipelines.training.posterior.domains import TINY
from pipelines.training.posterior.packs import held_out_file, read_pack, training_file
from pipelines.training.train import add_noise, cosine_alpha, spread_times
from pipelines.training.two_stage.data import sampler_of
from pipelines.training.two_stage.networks import NetworkShape
from psc_volumetric.errors import StorageError
from psc_volumetric.methods.two_stage.network import Autoencoder
from psc_volumetric.prior import Prior
from psc_volumetric.prior.finding import REFINER, domain_of
from psc_volumetric.prior.making.build import build_bundle, cosine_times
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.making.frontends import from_trained
from psc_volumetric.prior.making.networks import Architecture, build_network

__all__ = ["architecture_of", "latents_of", "make_refiner"]

CHANNELS, TINY_CHANNELS = (32, 64), (8, 16)
TILES = 3000
BATCH = 32
LEVELS = 64
CLIP = (-3.9, 3.9)
WARMUP = 100
REPORT_SECONDS = 30.0
Report = Callable[[str], object]


def architecture_of(prior: Prior) -> Architecture:
    """A U-Net on the latents of an autoencoder."""
    p = prior.program
    channels = TINY_CHANNELS if domain_of(prior.name) == TINY.name else CHANNELS
    return Architecture(
        slices=p.slices, tile=p.tile, fold=1, channels=channels, attention_levels=(False, True),
        num_head_channels=channels[0],
    )  # fmt: skip


def make_refiner(
    prior: Prior, folder: Path, domain: str, pack: Path, minutes: float, *, report: Report
) -> Prior:
    """Train a denoiser of latents and write it beside the files of their autoencoder.

    Parameters
    ----------
    prior : Prior
        A scalar autoencoder.
    folder : Path
        Of its bundle.
    domain : str
        A recipe.
    pack : Path
        Folder of packs.
    minutes : float
    report : callable
        Takes a line of progress.
    """
    out = folder / REFINER
    if out.exists():
        raise StorageError(f"{out} exists already", kind="target-exists", hint="remove it first")
    training = latents_of(prior, read_pack(training_file(pack, domain)), domain, TILES, seed=7)
    held_out = latents_of(prior, read_pack(held_out_file(pack, domain)), domain, 128, seed=8)
    net, steps = _trained(training, architecture_of(prior), minutes, report)
    losses = {t: _loss(net, held_out, t) for t in (0.1, 0.3, 0.5, 0.8)}
    report(", ".join(f"held-out velocity error at {t}: {loss:.3f}" for t, loss in losses.items()))
    times = cosine_times(LEVELS)
    alpha = np.cos(np.array(times) * (np.pi / 2 * 0.998))
    program = from_trained(net, architecture_of(prior), times)
    generator = torch.Generator().manual_seed(3)
    seen = []
    for level in range(0, LEVELS, 2):
        part = training[torch.randint(len(training), (4,), generator=generator)]
        noisy = add_noise(part, torch.full((4,), times[level]), generator)[0]
        seen.append((noisy, level))
    refiner = build_bundle(
        convert(program, observe(program, seen)),
        name=f"{prior.name}-refiner",
        alpha=alpha,
        prediction="v",
        clip=CLIP,
        metadata=_metadata(prior, steps, losses),
    )
    write_folder(out, refiner.files())
    return refiner


def latents_of(prior: Prior, volumes: Any, domain: str, count: int, *, seed: int) -> torch.Tensor:
    """(count, c, t, t) float32 latents of tiles that are as coding sees them, in units."""
    slices, tile, _ = prior.tile_shape
    shape = NetworkShape("scalar", slices, tile, (), prior.program.slices)
    sampler = sampler_of(volumes, domain, shape, seed=seed, plain=True)
    autoencoder = Autoencoder(prior, "cpu")
    parts = []
    for _ in range(-(-count // 16)):
        tiles = np.rint(sampler.batch(16).astype(np.float64) * 2048).astype(np.int64)
        parts.append(autoencoder.encode(tiles))
    found: NDArray[np.int64] = np.concatenate(parts)[:count]
    return torch.from_numpy((found / 2048).astype(np.float32))


def _trained(
    latents: torch.Tensor, architecture: Architecture, minutes: float, report: Report
) -> tuple[torch.nn.Module, int]:
    """A network, averaged weights, and its steps."""
    import copy

    torch.manual_seed(0)
    net: Any = build_network(architecture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = copy.deepcopy(net).eval().requires_grad_(False)
    optimisers = Optimisers(net, "muon", 0.01)
    generator = torch.Generator().manual_seed(1)
    began = reported = time.monotonic()
    number, seen = 0, []
    while (now := time.monotonic()) - began < 60 * minutes:
        falling = 0.5 * (1 + math.cos(math.pi * (now - began) / (60 * minutes))) + 0.01
        for group in optimisers.groups():
            group["lr"] = 2e-3 * min((number + 1) / WARMUP, 1.0) * falling
        x = latents[torch.randint(len(latents), (BATCH,), generator=generator)]
        t = spread_times(BATCH, generator)
        noisy, target, _, _ = add_noise(x, t, generator)
        loss = ((net(noisy, t * 1000) - target) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimisers.step()
        with torch.no_grad():
            for kept, new in zip(mean.parameters(), net.parameters(), strict=True):
                kept.lerp_(new, 1 - min(0.998, (number + 1) / (number + 20)))
        number += 1
        seen.append(loss.item())
        if now - reported >= REPORT_SECONDS:
            report(f"step {number}: velocity error {np.mean(seen[-200:]):.4f}")
            reported = now
    return mean, number


@torch.no_grad()
def _loss(net: Any, latents: torch.Tensor, t: float) -> float:
    generator = torch.Generator().manual_seed(2)
    times = torch.full((len(latents),), t)
    noisy, target, alpha, _ = add_noise(latents, times, generator)
    assert torch.allclose(alpha[0], cosine_alpha(times)[0])
    return float(((net(noisy, times * 1000) - target) ** 2).mean())


def _metadata(prior: Prior, steps: int, losses: dict[float, float]) -> dict[str, Any]:
    return {
        "description": f"Denoiser of the latents of {prior.name}, for the view refined",
        "modality": prior.metadata["psc_prior"]["modality"],
        "version": "0.1.0",
        "task": "detail of latents inside the cells of a stream, for views",
        "intended_use": "pictures labelled as generated detail; not for interpreting images",
        "training": {
            "autoencoder": prior.digest,
            "steps": steps,
            "held_out_velocity_error": {str(t): round(loss, 4) for t, loss in losses.items()},
        },
    }
