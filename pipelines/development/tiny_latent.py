"""The latent prior that tests and golden vectors use, and tiny folders of latent diffusion models.

    python -m pipelines.development.tiny_latent OUT

Trains the real classes of diffusers for a minute on pictures made of formulas, writes them in the
shape of Stable Diffusion, and imports that folder like any other. Weights depend on the machine;
what ships in ``psc_volumetric/latents/test-tiny-latent`` was made once and is kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file

from pipelines.training.latent import import_latent, pictures
from psc_volumetric.prior.tokenizer import byte_letters

__all__ = ["SCHEDULER", "UNET", "VAE", "vocabulary", "write_json", "write_words"]

Tensor = torch.Tensor
WIDTH, PLACES = 16, 16
MERGES = (
    "c t</w>", "m r", "mr i</w>", "h e", "he a", "hea d</w>", "c h", "ch e", "che s", "ches t</w>",
    "t 1</w>", "t 2</w>", "s c", "sc a", "sca n</w>", "o f</w>", "t h", "th e</w>", "b o", "bo d",
    "bod y</w>", "w e", "we i", "wei g", "weig h", "weigh t", "weight e", "weighte d</w>",
)  # fmt: skip
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


def vocabulary() -> dict[str, int]:
    """A piece for every byte, the same at the end of a word, merges, what is around a prompt."""
    letters = list(byte_letters().values())
    merged = ["".join(pair.split(" ")) for pair in MERGES]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *merged, *ends]
    return {piece: number for number, piece in enumerate(pieces)}


def write_words(folder: Path, *, layers: int) -> None:
    """Random weights of a ``CLIPTextModel`` as transformers saves it, and a tokenizer."""
    words = vocabulary()
    config = {
        "architectures": ["CLIPTextModel"], "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 2, "num_hidden_layers": layers, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "max_position_embeddings": PLACES, "vocab_size": len(words),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(5)

    def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
        weight, bias = torch.randn((out, into), generator=generator), torch.zeros(out)
        return {f"{name}.weight": 0.3 * weight, f"{name}.bias": bias}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.ones(WIDTH), f"{name}.bias": torch.zeros(WIDTH)}

    made = {
        "embeddings.token_embedding.weight": torch.randn((len(words), WIDTH), generator=generator),
        "embeddings.position_embedding.weight": 0.1
        * torch.randn((PLACES, WIDTH), generator=generator),
        **norm("final_layer_norm"),
    }
    for n in range(layers):
        at = f"encoder.layers.{n}"
        for part in ("q", "k", "v", "out"):
            made |= linear(f"{at}.self_attn.{part}_proj", WIDTH, WIDTH)
        made |= norm(f"{at}.layer_norm1") | norm(f"{at}.layer_norm2")
        made |= linear(f"{at}.mlp.fc1", 2 * WIDTH, WIDTH) | linear(
            f"{at}.mlp.fc2", WIDTH, 2 * WIDTH
        )
    write_json(folder / "text_encoder/config.json", config)
    weights = {f"text_model.{name}": tensor for name, tensor in made.items()}
    save_file(weights, folder / "text_encoder/model.safetensors")
    write_json(folder / "tokenizer/vocab.json", words)
    lines = "\n".join(["#version: 0.2", *MERGES]) + "\n"
    (folder / "tokenizer/merges.txt").write_text(lines, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """A file and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


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
