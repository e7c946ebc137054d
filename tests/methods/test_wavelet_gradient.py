"""The transpose of the wavelet's synthesis, and what one coefficient does to samples."""

from __future__ import annotations

import numpy as np
import pytest

from psc_volumetric.methods.wavelet.gradient import curvatures, decoded, slopes
from psc_volumetric.methods.wavelet.transform import UNITS, dequantise, synthesise

SHAPES = [((5, 9, 12), 2), ((1, 7, 4), 0), ((8, 33, 16), 3), ((3, 3, 3), 1), ((2, 1, 5), 0)]


@pytest.mark.parametrize(("shape", "depth"), SHAPES)
def test_samples_are_those_of_a_reader_but_for_rounding(
    shape: tuple[int, int, int], depth: int
) -> None:
    steps = np.random.default_rng(2).integers(-9, 10, shape).astype(np.int32)
    exact = synthesise(dequantise(steps, depth), depth) / UNITS
    assert np.allclose(decoded(steps.astype(np.float32), depth), exact, atol=0.1)


@pytest.mark.parametrize(("shape", "depth"), SHAPES)
def test_slopes_are_the_transpose_of_decoding(shape: tuple[int, int, int], depth: int) -> None:
    steps, gradient = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    there = float((decoded(steps, depth) * gradient).sum())
    assert float((steps * slopes(gradient, depth)).sum()) == pytest.approx(there, rel=1e-4)


@pytest.mark.parametrize(("shape", "depth"), SHAPES)
def test_curvature_is_the_power_of_one_step(shape: tuple[int, int, int], depth: int) -> None:
    found = curvatures(shape, depth)
    for place in np.random.default_rng(1).integers(0, found.size, 6):
        one = np.zeros(shape, np.float32)
        one.flat[place] = 1
        assert found.flat[place] == pytest.approx(float((decoded(one, depth) ** 2).sum()), rel=1e-5)
