"""The network over real numbers is near the integers, and its derivative is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psc_volumetric.methods.psc.adasense import Measurements, ada_sense_step
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.prior import load_prior
from psc_volumetric.prior.smooth import SmoothDenoiser


def noisy(level: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the integer network makes of a noisy tile, and the tile."""
    prior = load_prior(name)
    rng = np.random.default_rng(level)
    wave = 900 * np.sin(np.arange(64) / 7)[None, None, :, None] * np.ones((1, 8, 64, 64))
    noise = rng.normal(0, 2048, wave.shape) * prior.sigma[level] / 65536
    x = torch.from_numpy(np.rint(wave * prior.alpha[level] / 65536 + noise)).to(torch.int32)
    return Denoiser(prior, "cpu").denoise(x, level).double(), x


@pytest.mark.parametrize(("name", "level"), [("test-tiny", 0), ("test-tiny", 20), ("mr-head", 12)])
def test_it_is_near_the_integers(name, level):
    whole, x = noisy(level, name)
    found = SmoothDenoiser(load_prior(name))(x.double(), float(level))
    assert float((found - whole).pow(2).mean().sqrt()) < 0.01 * float(whole.std())


def test_a_level_between_two_lies_between_them():
    smooth = SmoothDenoiser(load_prior("test-tiny"))
    _, x = noisy(5, "test-tiny")
    first, between, last = (smooth(x.double(), level) for level in (5.0, 5.5, 6.0))
    apart = float((last - first).abs().mean())
    assert 0 < float((between - (first + last) / 2).abs().mean()) < apart
    (alpha, sigma), (next_alpha, _) = smooth.schedule(5.5), smooth.schedule(6.0)
    assert alpha**2 + sigma**2 == pytest.approx(1)
    assert next_alpha < alpha < smooth.schedule(5.0)[0]


def test_its_derivative_is_that_of_differences():
    smooth = SmoothDenoiser(load_prior("test-tiny"))
    _, x = noisy(8, "test-tiny")
    along = torch.from_numpy(np.random.default_rng(0).normal(0, 1, x.shape)).float()
    weights = torch.from_numpy(np.random.default_rng(1).normal(0, 1, x.shape)).float()
    at = x.float().requires_grad_(True)
    (slope,) = torch.autograd.grad((smooth(at, 8.0) * weights).sum(), at)
    ahead, behind = (smooth(x.float() + h * along, 8.0) for h in (8.0, -8.0))
    difference = float(((ahead - behind) * weights).sum() / 16)
    assert float((slope * along).sum()) == pytest.approx(difference, rel=0.05)


def test_a_step_of_adasense_finds_what_samples_vary_along():
    rng = np.random.default_rng(2)
    directions = np.linalg.qr(rng.normal(size=(512, 3)))[0].T
    weights = rng.normal(size=(16, 3)) * [[900.0, 300.0, 90.0]]
    samples = torch.from_numpy(np.rint(500 + weights @ directions * 8))
    rows = ada_sense_step(Measurements(512, torch.device("cpu")), 2, lambda known: samples)
    _, _, expected = np.linalg.svd((samples - samples.mean(0)).numpy(), full_matrices=False)
    found = rows.numpy() / (1 << 14)
    assert found.shape == (2, 512)
    assert np.abs((found * expected[:2]).sum(1)) == pytest.approx([1, 1], abs=1e-3)
