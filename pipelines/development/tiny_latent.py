"""The latent prior that tests and golden vectors use, and tiny folders of latent diffusion models.

    python -m pipelines.development.tiny_latent OUT

Trains the real classes of diffusers for a minute on pictures made of formulas, writes them in the
shape of Stable Diffusion, and imports that folder like any other. Weights depend on the machine;
what ships in ``psc_volumetric/latents/test-tiny-latent`` was made once and is kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer

from pipelines.training.latent import import_latent, pictures
from pipelines.training.latents.words import PLACES, WIDTH, write_json, write_words

__all__ = ["SCHEDULER", "UNET", "VAE"]

Tensor = torch.Tensor
UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16,),
    "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1,
    "norm_num_groups": 4, "cross_attention_dim": WIDTH, "attention_head_dim": 2,
}  # fmt: skip
VAE = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": (4, 8, 8, 8), "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1, "norm_num_groups": 4,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
}  # fmt: skip
KL, RATE, BATCH = 1e-4, 3e-3, 8


def _pictures(count: int, seed: int) -> Tensor:
    return torch.from_numpy(pictures(count, seed, 64)).float()


def _batches(count: int) -> Iterator[Tensor]:
    for step in range(count):
        yield _pictures(BATCH, step + 1)


def _trained_vae(steps: int) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(4)
    vae: Any = AutoencoderKL(**VAE)
    optimiser = torch.optim.AdamW(vae.parameters(), RATE)
    for batch in _batches(steps):
        posterior = vae.encode(batch).latent_dist
        error = F.l1_loss(vae.decode(posterior.sample()).sample, batch)
        loss = error + KL * posterior.kl().mean() / batch[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    sys.stdout.write(f"autoencoder: mean error {error.item():.3f}\n")
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(_pictures(64, 10_000)).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def _trained_unet(vae: Any, steps: int) -> Any:
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(3)
    unet: Any = UNet2DConditionModel(**UNET)
    schedule: Any = DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if not k.startswith("_")})
    optimiser = torch.optim.AdamW(unet.parameters(), RATE)
    for batch in _batches(steps):
        with torch.no_grad():
            latents = vae.encode(batch).latent_dist.mode() * vae.config.scaling_factor
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (len(batch),))
        text = torch.randn(len(batch), PLACES, WIDTH)
        found = unet(schedule.add_noise(latents, noise, times), times, text).sample
        loss = F.mse_loss(found, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    sys.stdout.write(f"network: squared error of the noise {loss.item():.3f}\n")
    return unet.eval()


def main(
    out: Annotated[Path, typer.Argument(help="New prior folder.")],
    steps: Annotated[int, typer.Option(help="Of training, for each network.")] = 300,
) -> None:
    """Train the tiny latent prior and write its bundle."""
    vae = _trained_vae(steps)
    unet = _trained_unet(vae, steps)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
        write_words(folder, layers=1)
        import_latent(
            folder, out, name="test-tiny-latent", levels=20, report=lambda line: None,
            description="Tiny latent prior for tests, trained on pictures made of formulas",
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
