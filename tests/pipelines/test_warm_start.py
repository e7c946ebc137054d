"""A shipped prior gives its float network back, to train on from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.training.recipe import Recipe
from pipelines.training.warm_start import float_network
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import load_prior
from psc_volumetric.prior.runtime import TorchRuntime


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct-body", "mr-head"])
def test_the_float_network_says_what_the_integers_say(name):
    prior, architecture = load_prior(name), Recipe.load(name).architecture
    net = float_network(prior, architecture).eval()
    runtime = TorchRuntime(prior.program)
    chance = torch.Generator().manual_seed(0)
    clean = torch.linspace(-1, 0.5, 64).view(1, 1, 64, 1).expand(2, *prior.tile_shape)
    # below t = 1/8 the rounding of the integers shows next to what little noise is left
    for level in range(8, prior.levels, 8):
        noise = torch.randn(clean.shape, generator=chance) * float(prior.sigma[level])
        samples = (clean * float(prior.alpha[level]) + noise) / 2**16
        want = runtime((samples * 2048).round().to(torch.int32), level)
        want = want.float() * 2.0**-prior.program.out_bits
        time = torch.full((2,), 1000 * (level + 1) / prior.levels)
        with torch.no_grad():
            got = net(samples, time)
        assert float(((got - want) ** 2).mean() / (want**2).mean()) < 4e-3, level


@pytest.mark.parametrize("change", [{"channels": (32, 64, 80)}, {"blocks": (1, 1, 1)}])
def test_another_architecture_is_refused(change):
    architecture = replace(Recipe.load("mr-head").architecture, **change)
    with pytest.raises(ParameterError) as caught:
        float_network(load_prior("mr-head"), architecture)
    assert caught.value.kind == "bad-start"


def test_a_prior_of_another_family_is_refused():
    with pytest.raises(ParameterError, match="'residual'") as caught:
        float_network(load_prior("test-tiny"), Recipe.load("test-tiny").architecture)
    assert caught.value.kind == "bad-start"
    with pytest.raises(ParameterError, match="recipe's architecture"):
        float_network(load_prior("test-tiny"), Recipe.load("mr-head").architecture)
