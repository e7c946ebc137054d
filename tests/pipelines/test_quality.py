"""Likeness measures agree with their authors' code and fall as a picture gets worse."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipelines.evaluation.quality import (
    haarpsi,
    measure_quality,
    power_spectrum,
    spectrum_gap_db,
    ssim,
)
from psc_volumetric.errors import ParameterError

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def _pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A real slice and a damaged copy: coarse steps and a weak ripple; range 0..1."""
    image = pydicom.dcmread(PYDICOM_FILES / name).pixel_array
    low, peak = float(image.min()), float(image.max()) - float(image.min())
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    damaged = (image // 64 * 64).astype(float) + 0.02 * peak * np.sin(x * 0.7) * np.cos(y * 0.9)
    return (image - low) / peak, (damaged - low) / peak


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MR_small.dcm", 0.8823483313057676), ("CT_small.dcm", 0.9017645422746938)],
)
def test_ssim_equals_scikit_image(name, expected):
    # skimage 0.26.0, structural_similarity(gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, data_range=1.0, full=True), five voxels cut from each edge
    assert ssim(*_pair(name)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "cut", "expected"),
    [
        ("MR_small.dcm", np.s_[:, :], 0.9524773448525732),
        ("CT_small.dcm", np.s_[:, :], 0.9289710462571275),
        ("CT_small.dcm", np.s_[:121, :101], 0.9387111163294443),  # odd sizes
    ],
)
def test_haarpsi_equals_its_authors_code(name, cut, expected):
    # github.com/rgcda/haarpsi, haar_psi_numpy on 255 x values
    reference, damaged = _pair(name)
    assert haarpsi(reference[cut], damaged[cut]) == pytest.approx(expected, abs=1e-10)


def test_likeness_is_one_for_equal_planes_and_falls_with_noise():
    reference, _ = _pair("CT_small.dcm")
    noise = np.random.default_rng(0).standard_normal(reference.shape)
    for measure in (ssim, haarpsi):
        values = [measure(reference, reference + sigma * noise) for sigma in (0, 0.01, 0.03, 0.1)]
        assert values[0] == pytest.approx(1.0, abs=1e-12)
        assert all(a > b > 0 for a, b in itertools.pairwise(values)), values
        assert measure(reference, reference + 0.03 * noise) == pytest.approx(
            measure(reference + 0.03 * noise, reference), abs=1e-12
        )


def test_planes_without_structure_are_alike():
    assert haarpsi(np.zeros((20, 20)), np.zeros((20, 20))) == 1.0
    assert haarpsi(np.full((20, 20), 0.3), np.full((20, 20), 0.3)) == pytest.approx(1.0)


def test_spectrum_of_white_noise_is_flat_and_of_a_wave_in_its_band():
    noise = np.random.default_rng(1).standard_normal((128, 128))
    power = power_spectrum(noise)
    assert power.shape == (32,)
    assert np.ptp(10 * np.log10(power[4:])) < 3
    x = np.arange(128)
    wave = np.tile(np.sin(2 * np.pi * 0.25 * x), (128, 1))
    assert int(power_spectrum(wave).argmax()) == 16


def test_spectrum_gap_states_the_gain_and_stays_finite():
    power = power_spectrum(np.random.default_rng(2).standard_normal((64, 64)))
    assert spectrum_gap_db(power, power * 4)[1:] == pytest.approx(10 * np.log10(4), abs=1e-6)
    lost = power.copy()
    lost[20:] = 0
    gap = spectrum_gap_db(power, lost)
    assert np.isfinite(gap).all()
    assert (gap[20:] < -100).all()
    assert gap[:20] == pytest.approx(0, abs=1e-9)


def test_volume_is_the_mean_over_slices_in_stored_units():
    reference, damaged = _pair("CT_small.dcm")
    stored = np.stack([reference, reference]) * 500 - 20
    other = np.stack([reference, damaged]) * 500 - 20
    quality = measure_quality(stored, other, -20.0, 500.0)
    assert quality.ssim == pytest.approx((1 + ssim(reference, damaged)) / 2)
    assert quality.haarpsi == pytest.approx((1 + haarpsi(reference, damaged)) / 2)
    assert quality.spectrum_error_db > 0
    assert len(quality.spectrum_gap_db) == 32


def test_blur_shows_as_lost_high_frequencies():
    reference, _ = _pair("CT_small.dcm")
    blurred = (reference + np.roll(reference, 1, 0) + np.roll(reference, 1, 1)) / 3
    gap = measure_quality(reference[None], blurred[None], 0.0, 1.0).spectrum_gap_db
    assert abs(gap[1]) < 1
    assert gap[-1] < -3


def test_small_planes_have_no_window():
    plane = np.arange(81.0).reshape(1, 9, 9)
    quality = measure_quality(plane, plane, 0.0, 80.0)
    assert (quality.ssim, quality.haarpsi, quality.spectrum_error_db) == (None, None, 0.0)


def test_unequal_shapes_are_refused():
    with pytest.raises(ParameterError) as caught:
        measure_quality(np.zeros((1, 9, 9)), np.zeros((1, 9, 8)), 0.0, 1.0)
    assert caught.value.kind == "shape-mismatch"
