"""A shipped prior gives its float network back, to train on from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.training.posterior.shipped import shipped_checkpoint
from pipelines.training.recipe import Recipe
from pipelines.training.warm_start import float_network, posterior_network
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.prior import load_prior
from psc_volumetric.prior.bundle import CONDITION_BITS, DEPTHS
from psc_volumetric.prior.making.posterior_net import FORESEEN
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


@pytest.mark.parametrize(
    ("name", "most"), [("test-tiny-posterior", 0.03), ("mr-head-posterior", 1e-3)]
)  # shares of the power; the tiny one has few digits
def test_a_posterior_network_says_what_its_integers_say(name, most):
    prior = load_prior(name)
    net, estimator = posterior_network(prior).eval(), Estimator(prior, "cpu")
    chance = torch.Generator().manual_seed(0)
    slices = prior.program.slices // 2
    rough = torch.rand(1, slices, 6, 6, generator=chance)
    smooth = torch.nn.functional.interpolate(rough, size=32, mode="bicubic") - 0.5
    for level in range(DEPTHS, len(prior.steps) * DEPTHS - DEPTHS, 3):
        step = torch.tensor([float(prior.steps[level // DEPTHS]) * 2.0**-CONDITION_BITS])
        noise = torch.randn(smooth.shape, generator=chance)
        decoded = 0.4 + step.clamp(max=0.1) * (4 * smooth + 0.5 * noise)  # more would saturate
        x = net.features(decoded, step)
        want = torch.from_numpy(estimator((x * 2048).round().int().numpy(), level)).float()
        want *= 2.0**-prior.program.out_bits
        with torch.no_grad():
            got, foreseen = (
                net(x, told, torch.tensor([level % DEPTHS])) for told in (step, FORESEEN * step)
            )
        away = ((got - want) ** 2).mean((0, 2, 3)) / (want**2).mean((0, 2, 3))
        assert float(away.max()) < most, level
        assert torch.allclose(got, foreseen, atol=0.01)  # until it learns what coarser planes are


def test_a_shipped_network_goes_on_with_the_training_it_had():
    state, name = shipped_checkpoint("test-tiny")
    told = load_prior("test-tiny-posterior").metadata["training"]
    assert name == "test-tiny-posterior" and state.steps == told["steps"]
    again = posterior_network(load_prior(name)).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in state.net.state_dict().items())


def test_what_is_no_posterior_network_is_refused():
    with pytest.raises(ParameterError, match="posterior network") as caught:
        posterior_network(load_prior("test-tiny"))
    assert caught.value.kind == "bad-start"
    with pytest.raises(ParameterError, match="expected a posterior network that ships") as caught:
        shipped_checkpoint("climate-grid")
    assert caught.value.kind == "bad-start"
