"""Perceptual measures rank known degradations as a person would."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from pipelines.evaluation.perception.features import FeatureNetwork, kernel_distance
from pipelines.evaluation.perception.measure import Perception, measure_perception
from pipelines.evaluation.perception.patches import pyramid, swd_by_scale
from pipelines.evaluation.perception.texture import texture_of
from pipelines.evaluation.quality import haarpsi, power_spectrum, spectrum_gap_db
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import load_prior

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
NAMES = ("CT_small.dcm", "MR_small.dcm")

Stack = np.ndarray


def _scan(name: str) -> Stack:
    """A real slice, (1, y, x) in units of its range."""
    image = pydicom.dcmread(PYDICOM_FILES / name).pixel_array.astype(float)
    return ((image - image.min()) / np.ptp(image))[None]


def _blurred(stack: Stack, sigma: float) -> Stack:
    """Gaussian blur of every slice."""
    fy, fx = np.fft.fftfreq(stack.shape[1])[:, None], np.fft.rfftfreq(stack.shape[2])
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    return np.fft.irfft2(np.fft.rfft2(stack) * gain, stack.shape[1:])


def _noisy(stack: Stack, sigma: float) -> Stack:
    return stack + sigma * np.random.default_rng(5).standard_normal(stack.shape)


def _blocky(stack: Stack, quality: int) -> Stack:
    eight = np.clip(np.rint(255 * stack), 0, 255).astype(np.uint8)
    coded = (imagecodecs.jpeg8_encode(image, level=quality) for image in eight)
    return np.stack([imagecodecs.jpeg8_decode(data) for data in coded]) / 255.0


DEGRADATIONS: dict[str, tuple[Callable[[Stack, float], Stack], tuple[float, ...]]] = {
    "blur": (_blurred, (0.4, 0.7, 1.2, 2.5)),
    "noise": (_noisy, (0.01, 0.03, 0.06, 0.12)),
    "blocks": (_blocky, (90, 50, 20)),
}


def _spectrum_gap(one: Stack, other: Stack) -> float:
    return float(np.abs(spectrum_gap_db(power_spectrum(one[0]), power_spectrum(other[0]))).mean())


def _swd(one: Stack, other: Stack) -> float:
    return float(np.mean(swd_by_scale(one, other)))


MEASURES: dict[str, Callable[[Stack, Stack], float]] = {
    "swd": _swd,
    "spectrum": _spectrum_gap,
    "haarpsi": lambda one, other: 1 - haarpsi(one[0], other[0]),
    "noise": lambda one, other: texture_of(one, other).noise_gap_octaves,
    "gradients": lambda one, other: texture_of(one, other).gradient_gap,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", DEGRADATIONS)
@pytest.mark.parametrize("measure", MEASURES)
def test_more_damage_is_farther_away(measure, how, name):
    scan, (damage, amounts) = _scan(name), DEGRADATIONS[how]
    found = [MEASURES[measure](scan, damage(scan, amount)) for amount in amounts]
    assert all(a < b for a, b in itertools.pairwise([0, *found])), found


@pytest.mark.parametrize("how", DEGRADATIONS)
def test_kernel_distance_grows_with_damage(how):
    scan, (damage, amounts) = _scan("CT_small.dcm")[:, 32:96, 32:96], DEGRADATIONS[how]
    network = FeatureNetwork(load_prior("mr-head"), 0.0, 1.0)
    source = network.features(scan)
    found = [kernel_distance(source, network.features(damage(scan, a))) for a in amounts]
    assert kernel_distance(source, source) == pytest.approx(0, abs=1e-6)
    assert all(a < b for a, b in itertools.pairwise([0, *found])), found


def _at_error(scan: Stack, damage: Callable[[Stack, float], Stack], error: float) -> Stack:
    """Damaged by as much as gives a root mean square error."""
    low, high = 1e-3, 8.0
    for _ in range(24):
        middle = (low * high) ** 0.5
        found = float(np.sqrt(np.mean((damage(scan, middle) - scan) ** 2)))
        low, high = (middle, high) if found < error else (low, middle)
    return damage(scan, low)


def _retextured(scan: Stack, amount: float) -> Stack:
    """Fine detail with other phases and the spectrum that it had: another draw of the texture."""
    spectrum = np.fft.rfft2(scan)
    fy, fx = np.fft.fftfreq(scan.shape[1])[:, None], np.fft.rfftfreq(scan.shape[2])
    fine = np.hypot(fy, fx) > 0.5 / (1 + amount)
    phases = np.fft.rfft2(np.random.default_rng(8).standard_normal(scan.shape))
    drawn = np.abs(spectrum) * phases / np.abs(phases)
    return np.fft.irfft2(np.where(fine, drawn, spectrum), scan.shape[1:])


@pytest.mark.parametrize("measure", ["swd", "spectrum", "noise", "gradients"])
def test_another_draw_of_the_texture_looks_more_real_than_blur_of_equal_error(measure):
    scan = _scan("CT_small.dcm")
    drawn = _retextured(scan, 0.8)
    blurred = _at_error(scan, _blurred, float(np.sqrt(np.mean((drawn - scan) ** 2))))
    assert MEASURES[measure](scan, drawn) < 0.6 * MEASURES[measure](scan, blurred)


def test_noise_classes_say_what_was_smoothed_and_what_was_added():
    scan = _scan("CT_small.dcm")
    smooth, noisy = texture_of(scan, _blurred(scan, 1.0)), texture_of(scan, _noisy(scan, 0.1))
    assert max(smooth.noise_octaves) < 0 < min(noisy.noise_octaves)


def test_pyramid_levels_add_up_again():
    from pipelines.evaluation.perception.patches import _enlarged

    scan = _scan("CT_small.dcm")[:, :101, :90]
    levels = pyramid(scan)
    total = levels[-1]
    for level in levels[-2::-1]:
        total = level + _enlarged(total, level.shape)
    assert np.allclose(total, scan, atol=1e-12)


def test_white_noise_in_the_finest_scale_is_found_there():
    scan = _scan("CT_small.dcm")
    found = swd_by_scale(scan, _noisy(scan, 0.05))
    assert found[0] == max(found) and len(found) == 4


def test_flat_and_small_volumes_have_no_distances():
    flat, small = np.zeros((2, 40, 40)), np.zeros((2, 4, 9))
    nothing = Perception(None, (), None, None, (), None)
    assert measure_perception(flat, flat, 0.0, 1.0) == nothing
    assert measure_perception(small, small + 1, 0.0, 1.0) == nothing


def test_other_shapes_are_refused():
    with pytest.raises(ParameterError) as caught:
        measure_perception(np.zeros((2, 40, 40)), np.zeros((2, 40, 41)), 0.0, 1.0)
    assert caught.value.kind == "shape-mismatch"


def test_small_volumes_have_features_of_repeated_edges():
    network = FeatureNetwork(load_prior("test-tiny"), 0.0, 1.0)
    scan = _scan("MR_small.dcm")[:, :40, :30]
    features = network.features(scan)
    assert len(features) == 16 and np.isfinite(features).all()
