"""Tiny folders like those of a latent diffusion model: the real classes, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_networks import awake

from pipelines.development import tiny_latent
from pipelines.development.tiny_latent import SCHEDULER
from pipelines.training.latents.words import write_json, write_words

UNET = {
    **tiny_latent.UNET,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
COLOURED = {
    **tiny_latent.VAE, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
}  # fmt: skip


def diffusers_folder(folder: Path, **unet: Any) -> Path:
    """A folder as diffusers saves Stable Diffusion; ``unet`` changes its settings."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(3)
    awake(UNet2DConditionModel(**{**UNET, **unet})).save_pretrained(folder / "unet")
    torch.manual_seed(4)
    AutoencoderKL(**COLOURED).eval().save_pretrained(folder / "vae")
    write_words(folder, layers=2)
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    return folder


def monai_folder(folder: Path, **unet: Any) -> Path:
    """MONAI's networks in the same places; text where ``unet`` says ``with_conditioning``."""
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

    unet = {
        "spatial_dims": 2, "in_channels": 4, "out_channels": 4, "channels": [8, 16],
        "attention_levels": [False, True], "num_res_blocks": 1, "num_head_channels": 8,
        "norm_num_groups": 4, **unet,
    }  # fmt: skip
    vae = {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": [8, 8, 8],
        "latent_channels": 4, "num_res_blocks": 1, "norm_num_groups": 4,
        "attention_levels": [False, False, False],
    }  # fmt: skip
    torch.manual_seed(3)
    _saved(folder / "unet", awake(DiffusionModelUNet(**unet)), unet, "DiffusionModelUNet", _tile=8)
    if unet.get("with_conditioning"):
        write_words(folder, layers=1)
    _saved(folder / "vae", AutoencoderKL(**vae).eval(), vae, "monai.AutoencoderKL")
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    return folder


def _saved(
    folder: Path, net: torch.nn.Module, config: dict[str, Any], name: str, **more: Any
) -> None:
    write_json(folder / "config.json", {"_class_name": name, **config, **more})
    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
