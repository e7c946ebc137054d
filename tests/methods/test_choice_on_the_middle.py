"""A large brick is coded once: which method, and with which step, is found on its middle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from psc_volumetric.codec import (
    CodecParameters,
    EncodedBrick,
    IntensityMapping,
    encode_brick,
)
from psc_volumetric.methods import choice


def scan(slices: int = 12) -> NDArray[Any]:
    """Slices that change slowly, with noise."""
    z, y, x = np.meshgrid(np.arange(slices), np.arange(96), np.arange(112), indexing="ij")
    noise = np.random.default_rng(5).normal(0, 6, z.shape)
    values = 400 * np.sin(y / 9 + z / 30) * np.cos(x / 13) + 300 * ((x - 50) ** 2 < 900) + noise
    stored: NDArray[Any] = np.rint(values).astype("<i2")
    return stored


def coded(values: NDArray[Any]) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=(16, 96, 112),
        mapping=IntensityMapping(-800.0, 800.0),
        parameters=CodecParameters(step=0.05),
        prior=None,
    )


def test_the_middle_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    values = scan(5)
    searched = coded(values)
    assert len(searched.compared) > 1
    monkeypatch.setattr(choice, "LARGE", 1000)
    once = coded(values)
    assert "on its middle" in once.choice
    assert once.compared.keys() == {once.method}
    assert once.method == searched.method
    assert once.last is not None and searched.last is not None
    error = [np.mean((last.astype(float) - values) ** 2) for last in (once.last, searched.last)]
    assert error[0] == pytest.approx(error[1], rel=0.2)
    assert len(once.data) == pytest.approx(len(searched.data), rel=0.1)


@pytest.mark.parametrize("middle", [np.nan, -400.0])
def test_a_middle_that_says_nothing(middle: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Land in an ocean's field; air in the middle of a scan."""
    values = scan().astype("<f4")
    values[:, 10:86, 10:102] = middle
    monkeypatch.setattr(choice, "LARGE", 1000)
    monkeypatch.setattr(choice, "middle_of", lambda _: (slice(0, 12), slice(20, 70), slice(20, 90)))
    brick = coded(values)
    assert brick.last is not None
    np.testing.assert_array_equal(np.isnan(brick.last), np.isnan(values))
    assert np.nanmax(np.abs(brick.last - values)) < 100
