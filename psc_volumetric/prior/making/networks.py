"""Float networks the project trains: its own residual U-Net, or MONAI's ``DiffusionModelUNet``.

The slices of a tile enter the 2-D network as channels. Folding ``fold x fold`` pixels into
channels first cuts the cost per voxel by about ``fold**2`` (decision 0007), and costs quality
(decision 0019). Only training and conversion use this module; decoding never does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require

if TYPE_CHECKING:
    import torch

__all__ = ["Architecture", "build_network"]


@dataclass(frozen=True)
class Architecture:
    """Shape of a U-Net.

    Parameters
    ----------
    family : str
        ``"residual"`` (`psc_volumetric.prior.making.residual_unet`) or ``"monai"``
        (``DiffusionModelUNet``).
    slices, tile : int
        Tile shape is ``(slices, tile, tile)``.
    fold : int
        Pixels per side folded into channels before the first convolution (1, 2 or 4).
    channels : tuple of int
        Channels per resolution, coarse ones last; MONAI: multiples of ``norm_num_groups``.
    blocks : tuple of int
        Residual blocks per resolution, on the way down and again on the way up; ``"residual"``
        only.
    attention_levels : tuple of bool
        Self-attention per resolution; MONAI only, as are the rest.
    num_res_blocks, norm_num_groups, num_head_channels : int
        As in MONAI.
    mid_attention : bool
        Keep MONAI's attention in the middle block (costs little, gains little; default off).
    """

    family: str = "monai"
    slices: int = 8
    tile: int = 64
    fold: int = 2
    channels: tuple[int, ...] = (48, 72, 96)
    blocks: tuple[int, ...] = ()
    attention_levels: tuple[bool, ...] = (False, False, False)
    num_res_blocks: int = 1
    norm_num_groups: int = 8
    num_head_channels: int = 32
    mid_attention: bool = False

    def __post_init__(self) -> None:
        if self.family not in ("residual", "monai"):
            raise ParameterError(
                f"family must be 'residual' or 'monai', found {self.family!r}",
                kind="bad-architecture",
            )
        name = "blocks" if self.family == "residual" else "attention_levels"
        if len(self.channels) != len(getattr(self, name)):
            raise ParameterError(
                f"channels {self.channels!r} and {name} {getattr(self, name)!r} "
                "must have one entry per resolution",
                kind="bad-architecture",
            )
        if self.fold not in (1, 2, 4) or self.tile % (self.fold * 2 ** (len(self.channels) - 1)):
            raise ParameterError(
                f"tile {self.tile} must be divisible by fold {self.fold} "
                f"x 2^{len(self.channels) - 1}",
                kind="bad-architecture",
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """Rebuild from :meth:`to_dict`; unknown keys are a ``TypeError``."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def build_network(architecture: Architecture) -> torch.nn.Module:
    """Build the float network: (b, slices, tile, tile), t (b,) in 0..1000 -> velocity, same shape.

    Parameters
    ----------
    architecture : Architecture
        Shape of the network.

    Returns
    -------
    torch.nn.Module
        Randomly initialised; of family ``"monai"``, its ``unet`` attribute is the MONAI network.
    """
    import torch

    if architecture.family == "residual":
        from psc_volumetric.prior.making.residual_unet import ResidualUNet

        a = architecture
        return ResidualUNet(a.slices, a.channels, a.blocks, fold=a.fold)
    require("train", "a network of family 'monai'", "monai", "einops")
    from monai.networks.nets import DiffusionModelUNet

    class FoldedUNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            a = architecture
            width = a.slices * a.fold * a.fold
            self.unet = DiffusionModelUNet(
                spatial_dims=2,
                in_channels=width,
                out_channels=width,
                channels=a.channels,
                attention_levels=a.attention_levels,
                num_res_blocks=a.num_res_blocks,
                norm_num_groups=a.norm_num_groups,
                num_head_channels=a.num_head_channels,
            )
            if not a.mid_attention:
                self.unet.middle_block.attention = torch.nn.Identity()

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            folded = torch.nn.functional.pixel_unshuffle(x, architecture.fold)
            folded = folded.contiguous(memory_format=torch.channels_last)
            return torch.nn.functional.pixel_shuffle(self.unet(folded, t), architecture.fold)

    return FoldedUNet()
