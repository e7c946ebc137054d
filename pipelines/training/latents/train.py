"""Train the two networks of a latent prior, diffusers' own classes, from a pack.

A folder in the shape of Stable Diffusion is all there is: a later run goes on with what is in it.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.training.latents.data import PlaneSampler
from pipelines.training.latents.words import HEAD_MERGES, PLACES, WIDTH, write_json, write_words
from pipelines.training.optimisers import Optimisers
from psc_volumetric.prior.making.text_steps import encoded, read_text_encoder
from psc_volumetric.prior.tokenizer import Tokenizer

__all__ = [
    "EXTENT",
    "held_out_db",
    "held_out_error",
    "text_of",
    "train_autoencoder",
    "train_network",
]

Tensor = torch.Tensor
Report = Callable[[str], object]
EXTENT = 64  # pixels along a side
VAE = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4,
}  # fmt: skip
UNET = {
    "sample_size": EXTENT // 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "layers_per_block": 1,
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8,
    "cross_attention_dim": WIDTH, "attention_head_dim": 4,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}  # fmt: skip
KL = 2e-3  # error (normalised units) that one nat per pixel is worth
RATE, WARMUP = 2e-3, 100
REPORT_SECONDS, SAVE_SECONDS = 60.0, 180.0
BATCH, NETWORK_BATCH, KEPT = 4, 32, 2048
RECORD = "training.json"


def train_autoencoder(folder: Path, sampler: PlaneSampler, minutes: float, report: Report) -> None:
    """Train ``folder/vae`` for some minutes, or go on with it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(4)
    place = folder / "vae"
    known = (place / "config.json").is_file()
    net: Any = (
        AutoencoderKL.from_pretrained(place, low_cpu_mem_usage=False)
        if known
        else AutoencoderKL(**VAE)
    )
    net = net.to(memory_format=torch.channels_last)

    def loss_of() -> Tensor:
        x = torch.from_numpy(sampler.batch(BATCH)[0]).contiguous(memory_format=torch.channels_last)
        posterior = net.encode(x).latent_dist
        away = net.decode(posterior.sample()).sample - x
        error = away.abs().mean() + 4 * (away**2).mean()
        loss: Tensor = error + KL * posterior.kl().mean() / x[0].numel()
        return loss

    def save(mean: Any) -> None:
        scale = _scale(mean, sampler)
        mean.register_to_config(scaling_factor=scale)
        mean.save_pretrained(place)

    _run(net, loss_of, minutes, save, folder, "vae", report)


def train_network(
    folder: Path, sampler: PlaneSampler, minutes: float, report: Report, *, kept: int = KEPT
) -> None:
    """Train ``folder/unet`` on so many latents of ``folder/vae``, with words of its own."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(3)
    place = folder / "unet"
    if not (folder / "text_encoder").is_dir():
        write_words(folder, layers=1, merges=HEAD_MERGES)
        write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    vae: Any = _opened(AutoencoderKL, folder / "vae").eval()
    latents, said = _latents(vae, sampler, kept)
    told = text_of(folder)
    texts = {prompt: told(prompt) for prompt in sorted(set(said))}
    known = (place / "config.json").is_file()
    net: Any = (
        UNet2DConditionModel.from_pretrained(place, low_cpu_mem_usage=False)
        if known
        else UNet2DConditionModel(**UNET)
    )
    net = net.to(memory_format=torch.channels_last)
    schedule: Any = DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if not k.startswith("_")})

    def loss_of() -> Tensor:
        chosen = torch.randint(len(latents), (NETWORK_BATCH,))
        x, text = latents[chosen], torch.stack([texts[said[n]] for n in chosen.tolist()])
        noise, times = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        found = net(schedule.add_noise(x, noise, times), times, text).sample
        return F.mse_loss(found, schedule.get_velocity(x, noise, times))

    _run(net, loss_of, minutes, lambda mean: mean.save_pretrained(place), folder, "unet", report)


def text_of(folder: Path) -> Callable[[str], Tensor]:
    """From a prompt to what the text encoder makes of it, (places, width)."""
    from safetensors.torch import load_file

    config = json.loads((folder / "text_encoder/config.json").read_text())
    weights = load_file(folder / "text_encoder/model.safetensors")
    encoder = read_text_encoder(config, weights, str(folder))
    vocabulary = json.loads((folder / "tokenizer/vocab.json").read_text())
    tokenizer = Tokenizer(list(vocabulary), HEAD_MERGES, PLACES - 2)
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]

    def told(prompt: str) -> Tensor:
        tokens = [begin, *tokenizer.encode(prompt), end]
        return encoded(encoder, [*tokens, *[end] * (PLACES - len(tokens))])

    return told


@torch.no_grad()
def held_out_db(folder: Path, planes: Tensor) -> float:
    """PSNR of planes (n, 1, extent, extent) through the autoencoder, peak the intensity range."""
    from diffusers import AutoencoderKL

    net: Any = _opened(AutoencoderKL, folder / "vae").eval()
    away = [
        (net.decode(net.encode(x).latent_dist.mode()).sample - x).square().mean()
        for x in planes.split(BATCH)
    ]
    return 10 * math.log10(4 / float(torch.stack(away).mean()))


@torch.no_grad()
def held_out_error(folder: Path, sampler: PlaneSampler, count: int = 128) -> dict[str, float]:
    """Squared error of the network's velocity at some steps, told what planes are, and not."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    vae: Any = _opened(AutoencoderKL, folder / "vae").eval()
    net: Any = _opened(UNet2DConditionModel, folder / "unet").eval()
    schedule: Any = DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if not k.startswith("_")})
    latents, said = _latents(vae, sampler, count)
    told = text_of(folder)
    found = {}
    for name, texts in (("told", said), ("untold", [""] * count)):
        text = torch.stack([told(prompt) for prompt in texts])
        for step in (100, 400, 700, 900):
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
            times = torch.full((count,), step)
            out = net(schedule.add_noise(latents, noise, times), times, text).sample
            wanted = schedule.get_velocity(latents, noise, times)
            found[f"{name}, step {step}"] = round(float(F.mse_loss(out, wanted)), 4)
    return found


@torch.no_grad()
def _latents(vae: Any, sampler: PlaneSampler, count: int) -> tuple[Tensor, list[str]]:
    """Latents of planes as the network sees them, and what is said of each."""
    found, said = [], []
    for _ in range(-(-count // BATCH)):
        planes, prompts = sampler.batch(BATCH)
        found.append(vae.encode(torch.from_numpy(planes)).latent_dist.mode())
        said += prompts
    return torch.cat(found)[:count] * vae.config.scaling_factor, said[:count]


def _opened(kind: Any, place: Path, fresh: dict[str, Any] | None = None) -> Any:
    """A network as it was saved; one with random weights where there is none."""
    if fresh is not None and not (place / "config.json").is_file():
        return kind(**fresh)
    return kind.from_pretrained(place, low_cpu_mem_usage=False)


def _scale(vae: Any, sampler: PlaneSampler) -> float:
    vae.register_to_config(scaling_factor=1.0)
    return float(1 / _latents(vae.eval(), sampler, 64)[0].std())


def _run(
    net: Any,
    loss_of: Callable[[], Tensor],
    minutes: float,
    save: Callable[[Any], None],
    folder: Path,
    name: str,
    report: Report,
) -> None:
    """Train a network for some minutes; its averaged weights are saved now and then."""
    mean = copy.deepcopy(net).requires_grad_(False)
    optimisers = Optimisers(net.train(), "muon", 0.01)
    record = _record(folder)
    before = record.get(name, {"steps": 0, "seconds": 0.0})
    began = reported = saved = time.monotonic()
    number, seen = 0, []
    while (now := time.monotonic()) - began < 60 * minutes or not number:
        progress = min((now - began) / max(60 * minutes, 1e-9), 1.0)
        falling = 0.5 * (1 + math.cos(math.pi * progress)) + 0.01
        for group in optimisers.groups():
            group["lr"] = RATE * min((number + 1) / WARMUP, 1.0) * falling
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimisers.step()
        number += 1
        for kept, new in zip(mean.parameters(), net.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - min(0.998, (number + 1) / (number + 20)))
        seen.append(loss.item())
        if now - reported >= REPORT_SECONDS:
            report(f"{name}, step {number}, {now - began:.0f} s: {np.mean(seen):.4f}")
            reported, seen = now, []
        if now - saved >= SAVE_SECONDS:
            save(mean)
            saved = now
    save(mean)
    seconds = before["seconds"] + round(time.monotonic() - began)
    _record(folder, **{name: {"steps": before["steps"] + number, "seconds": seconds}})
    report(f"{name}: {number} steps in {time.monotonic() - began:.0f} s")


def _record(folder: Path, **added: Any) -> dict[str, Any]:
    path = folder / RECORD
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if added:
        write_json(path, found | added)
    return found | added
