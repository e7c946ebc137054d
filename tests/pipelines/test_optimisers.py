"""Convolutions are moved by torch's Muon, everything else by AdamW."""

from __future__ import annotations

import pytest
import torch

from pipelines.training.optimisers import Optimisers
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.making.networks import Architecture, build_network

SMALL = Architecture(
    family="residual", slices=2, tile=16, fold=1, channels=(4, 6), blocks=(1, 1)
)  # fmt: skip


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(SMALL).to(memory_format=torch.channels_last)


def _one_step(net: torch.nn.Module, optimisers: Optimisers) -> dict[str, torch.Tensor]:
    """Take a step at rate 0.01 and return the gradients it was taken along."""
    x = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    (net(x, torch.tensor([100.0, 900.0])) - x).square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    for group in optimisers.groups():
        group["lr"] = 0.01
    optimisers.step()
    return gradients


def test_inner_convolutions_take_muons_step_and_the_rest_adamws():
    net = _network()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    gradients = _one_step(net, Optimisers(net, "muon", 0.02))
    inner = 0
    for name, parameter in net.named_parameters():
        assert parameter.grad is None
        if parameter.ndim == 4 and not name.startswith("conv_"):
            inner += 1
            rows = len(parameter)
            twin = torch.nn.Parameter(before[name].permute(0, 2, 3, 1).reshape(rows, -1).clone())
            twin.grad = gradients[name].permute(0, 2, 3, 1).reshape(rows, -1).clone()
            expected = torch.optim.Muon(
                [twin], 0.01, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
            )
            moved = parameter.permute(0, 2, 3, 1).reshape(rows, -1)
        else:
            twin = torch.nn.Parameter(before[name].clone())
            twin.grad = gradients[name]
            expected = torch.optim.AdamW([twin], 0.01, weight_decay=0.02, betas=(0.9, 0.99))
            moved = parameter
        expected.step()
        torch.testing.assert_close(moved, twin, msg=name)
    assert inner == 9  # two per block of three, shrink, grow, merge


def test_adamw_alone_moves_everything():
    net = _network()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    gradients = _one_step(net, Optimisers(net, "adamw", 0.0))
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, g in gradients.items() if g.any()}


def test_unknown_optimiser_is_refused():
    with pytest.raises(ParameterError, match="adamw, muon"):
        Optimisers(_network(), "sgd", 0.0)
