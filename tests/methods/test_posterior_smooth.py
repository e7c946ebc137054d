"""The float twin of an estimator is near its integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.posterior.smooth import SmoothNetwork
from psc_volumetric.prior import load_prior


def test_it_gives_what_the_integers_give_but_for_rounding() -> None:
    prior = load_prior("test-tiny-posterior")
    program = prior.program
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 500, (1, program.slices, 40, 48)).round().astype(np.int32)
    for level in (0, prior.levels - 1):
        exact = Estimator(prior, "cpu")(wide, level).astype(np.float64)
        near = SmoothNetwork(program, torch.device("cpu"))(torch.from_numpy(wide).float(), level)
        away = near.detach().double().numpy() - exact
        assert float((away**2).mean()) < 0.01 * float((exact**2).mean())


def test_a_denoiser_has_none() -> None:
    with pytest.raises(ParameterError, match="estimator"):
        SmoothNetwork(load_prior("test-tiny").program, torch.device("cpu"))
