"""The float autoencoders that are trained: MONAI's own classes, small."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipelines.training.posterior.domains import TINY
from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require

__all__ = ["NetworkShape", "build_autoencoder", "shape_of"]


@dataclass(frozen=True)
class NetworkShape:
    """Shape of an autoencoder over tiles whose slices enter as channels.

    Attributes
    ----------
    quantiser : str
        ``"scalar"`` (MONAI ``AutoencoderKL``) or ``"vector"`` (MONAI ``VQVAE``).
    slices, tile : int
        A tile is (slices, tile, tile).
    channels : tuple of int
        Of every resolution, finest first.
    latents : int
        Channels of the latents.
    codes : int
        Vectors of the codebook; 0 for scalar ones.
    """

    quantiser: str
    slices: int
    tile: int
    channels: tuple[int, ...]
    latents: int
    codes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NetworkShape:
        """Rebuild from JSON."""
        return cls(**{**data, "channels": tuple(data["channels"])})

    @property
    def shrink(self) -> int:
        """Pixels of a tile along a side of a latent."""
        return int(2 ** (len(self.channels) - (self.quantiser == "scalar")))


SHAPES = {
    "scalar": NetworkShape("scalar", 8, 64, (24, 48, 96, 96), 8),
    "vector": NetworkShape("vector", 8, 64, (48, 64), 8, 256),
}


TINY_SHAPES = {
    "scalar": NetworkShape("scalar", 4, 32, (8, 8, 16), 4),
    "vector": NetworkShape("vector", 4, 32, (8, 8), 4, 16),
}


def shape_of(domain: str, quantiser: str) -> NetworkShape:
    """What is trained for a domain."""
    return (TINY_SHAPES if domain == TINY.name else SHAPES)[quantiser]


def build_autoencoder(shape: NetworkShape) -> torch.nn.Module:
    """Fresh weights of MONAI's class for a shape.

    Raises
    ------
    ParameterError
        MONAI is not installed, or the quantiser is not known.
    """
    require("train", "training an autoencoder", "monai")
    from monai.networks.nets import VQVAE, AutoencoderKL

    if shape.quantiser == "scalar":
        made: torch.nn.Module = AutoencoderKL(
            spatial_dims=2,
            in_channels=shape.slices,
            out_channels=shape.slices,
            channels=shape.channels,
            num_res_blocks=1,
            attention_levels=[False] * len(shape.channels),
            latent_channels=shape.latents,
            norm_num_groups=8,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        return made
    if shape.quantiser == "vector":
        made = VQVAE(
            spatial_dims=2,
            in_channels=shape.slices,
            out_channels=shape.slices,
            channels=shape.channels,
            num_res_layers=1,
            num_res_channels=shape.channels,
            downsample_parameters=((2, 4, 1, 1),) * len(shape.channels),
            upsample_parameters=((2, 4, 1, 1, 0),) * len(shape.channels),
            num_embeddings=shape.codes,
            embedding_dim=shape.latents,
            decay=0.99,
        )
        return made
    raise ParameterError(
        f"quantiser must be scalar or vector, found {shape.quantiser!r}", kind="bad-recipe"
    )
