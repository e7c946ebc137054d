"""A carrier that gives other bits is never used: the CPU steps down to plain torch."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from psc_volumetric.codec import BrickOptions, CodecParameters, IntensityMapping, encode_brick
from psc_volumetric.errors import NumericalError
from psc_volumetric.methods.posterior.network import Estimator, check_estimator
from psc_volumetric.methods.psc import trust
from psc_volumetric.prior import fused, load_prior, narrow
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.prior.trusted import Trusted


@pytest.fixture
def fresh_process(monkeypatch):
    """Nothing loaded, nothing trusted yet."""
    monkeypatch.setattr(trust.denoiser_for, "kept", {})
    monkeypatch.setattr(trust, "_trusted", set())


def _encode():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 900, (8, 64, 64)).astype("<u2")
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, 64, 64),
        mapping=IntensityMapping(0, 1000),
        parameters=CodecParameters(effort=1, step=2.0),
        prior=load_prior("test-tiny"),
        options=BrickOptions(base="psc", device="cpu"),
    ).data


def _spoil(monkeypatch, owner):
    honest = owner.__call__

    def off_by_one(self, x, level):
        return honest(self, x, level) + 1

    monkeypatch.setattr(owner, "__call__", off_by_one)


def test_wrong_fused_loops_are_replaced_and_reported(fresh_process, monkeypatch, caplog):
    want = _encode()
    trust.denoiser_for.kept.clear()
    trust._trusted.clear()
    _spoil(monkeypatch, fused.FusedRuntime)
    with caplog.at_level(logging.WARNING):
        assert _encode() == want
    assert "plain torch takes over" in caplog.text
    (loaded,) = trust.denoiser_for.kept.values()
    assert isinstance(loaded.network, TorchRuntime)


def test_wrong_loops_of_16_bits_are_replaced_and_reported(monkeypatch, caplog):
    prior = load_prior("test-tiny-posterior")
    assert isinstance(Estimator(prior, "cpu").network, narrow.NarrowRuntime)
    _spoil(monkeypatch, narrow.NarrowRuntime)
    with caplog.at_level(logging.WARNING):
        found = Trusted(Estimator, check_estimator)(prior, "cpu")
    assert "plain torch takes over" in caplog.text
    assert isinstance(found.network, TorchRuntime)


def test_wrong_torch_too_is_refused(fresh_process, monkeypatch):
    _spoil(monkeypatch, fused.FusedRuntime)
    _spoil(monkeypatch, TorchRuntime)
    with pytest.raises(NumericalError) as caught:
        _encode()
    assert caught.value.kind == "self-test"
    assert not trust.denoiser_for.kept
