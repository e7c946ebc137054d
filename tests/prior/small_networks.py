"""Small float networks whose every weight is awake, for tests of conversion."""

from __future__ import annotations

import torch

from psc_volumetric.prior.making.float_program import FloatProgram
from psc_volumetric.prior.making.networks import Architecture, build_network

SMALL = Architecture(
    slices=4, tile=32, fold=2, channels=(16, 24), attention_levels=(False, False),
    norm_num_groups=4, num_head_channels=8,
)  # fmt: skip
RESIDUAL = Architecture(
    family="residual", slices=4, tile=32, fold=1, channels=(8, 16, 24), blocks=(2, 1, 1)
)
FOLDED = Architecture(
    family="residual", slices=4, tile=32, fold=2, channels=(16, 24), blocks=(1, 1)
)
ATTENTIVE = Architecture(
    slices=4, tile=32, fold=2, channels=(16, 24), attention_levels=(False, True),
    norm_num_groups=4, num_head_channels=8, mid_attention=True,
)  # fmt: skip


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere: fresh networks start their last layers at zero.

    Queries and attention outputs are made large, so that attention is neither uniform nor small.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * noise / max(1, parameter[0].numel()) ** 0.5)
            if "to_q" in name or "out_proj" in name or "to_out" in name:
                parameter.mul_(4)
    return net.eval()


def attentive_network() -> torch.nn.Module:
    """MONAI network of :data:`ATTENTIVE`, from a fixed seed."""
    torch.manual_seed(1)
    return awake(build_network(ATTENTIVE))


def random_tiles(program: FloatProgram, count: int = 4) -> torch.Tensor:
    """(count, slices, tile, tile) Gaussian tiles."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, program.slices, program.tile, program.tile), generator=generator)
