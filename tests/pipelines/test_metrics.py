"""Definitions of rate and distortion."""

import numpy as np
import pytest

from psc_volumetric.errors import ParameterError
from psc_volumetric.metrics import (
    bd_psnr_db,
    bd_rate_percent,
    data_range,
    interpolate_at_rate,
    max_error,
    mse,
    psnr_db,
    rate_bpv,
)


def test_distortion_of_a_known_shift():
    reference = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    restored = reference + np.uint16(3)
    assert mse(reference, restored) == 9.0
    assert max_error(reference, restored) == 3.0
    assert psnr_db(reference, restored, 999.0) == pytest.approx(10 * np.log10(999**2 / 9))
    assert psnr_db(reference, reference, 999.0) == float("inf")


def test_unsigned_extremes_do_not_wrap():
    low, high = np.zeros(4, np.uint16), np.full(4, 65535, np.uint16)
    assert mse(low, high) == 65535.0**2


def test_masked_voxels_do_not_count():
    reference = np.array([0.0, 5.0, np.nan, 9.0])
    restored = np.array([0.0, 6.0, np.nan, 0.0])
    mask = np.array([True, True, False, False])
    assert mse(reference, restored, mask) == 0.5
    assert data_range(reference) == 9.0
    assert data_range(reference, mask) == 5.0
    assert mse(reference, restored, np.zeros(4, bool)) == 0.0


def test_rate_counts_bits_per_voxel():
    assert rate_bpv(1000, 8000) == 1.0


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: mse(np.zeros(3), np.zeros(4)), "shape-mismatch"),
        (lambda: psnr_db(np.zeros(3), np.ones(3), 0.0), "bad-peak"),
        (lambda: rate_bpv(1, 0), "bad-rate"),
        (lambda: bd_psnr_db([1.0], [2.0], [1.0, 2.0], [3.0, 4.0]), "bad-curve"),
    ],
)
def test_wrong_arguments_are_refused_by_kind(call, kind):
    with pytest.raises(ParameterError) as caught:
        call()
    assert caught.value.kind == kind


def test_bd_psnr_of_a_curve_shifted_by_two_db_is_two():
    rates = [0.05, 0.1, 0.2, 0.5]
    psnrs = [30.0, 33.0, 36.5, 41.0]
    assert bd_psnr_db(rates, psnrs, rates, [p + 2 for p in psnrs]) == pytest.approx(2.0)
    assert bd_psnr_db(rates, psnrs, rates[::-1], psnrs[::-1]) == pytest.approx(0.0)
    assert bd_psnr_db(rates, psnrs, [1.0, 2.0], [50.0, 60.0]) is None


def test_bd_psnr_of_straight_lines_of_different_range():
    slope = 10.0
    one = [0.01, 0.1, 1.0]
    other = [0.02, 0.3, 2.0]
    gain = bd_psnr_db(
        one,
        [30 + slope * np.log10(r) for r in one],
        other,
        [31 + slope * np.log10(r) for r in other],
    )
    assert gain == pytest.approx(1.0, abs=1e-9)


def test_bd_rate_of_a_curve_that_needs_a_fifth_fewer_bits():
    rates = [0.05, 0.1, 0.2, 0.5]
    psnrs = [30.0, 33.0, 36.5, 41.0]
    fewer = [0.8 * rate for rate in rates]
    assert bd_rate_percent(rates, psnrs, fewer[::-1], psnrs[::-1]) == pytest.approx(-20.0)
    assert bd_rate_percent(fewer, psnrs, rates, psnrs) == pytest.approx(25.0)
    assert bd_rate_percent(rates, psnrs, [1.0, 2.0], [50.0, 60.0]) is None


def test_curve_is_read_between_its_points_and_not_beyond():
    rates, psnrs = [0.05, 0.1, 0.5], [30.0, 33.0, 41.0]
    assert interpolate_at_rate(rates, psnrs, 0.1) == pytest.approx(33.0)
    assert 33 < interpolate_at_rate(rates, psnrs, 0.2) < 41
    assert interpolate_at_rate(rates, psnrs, 0.6) is None
    assert interpolate_at_rate(rates, psnrs, 0.49, slack=0.05) < 41
    assert 41 < interpolate_at_rate(rates, psnrs, 0.52, slack=0.05) < 42
    assert 29 < interpolate_at_rate(rates, psnrs, 0.048, slack=0.05) < 30
    assert interpolate_at_rate(rates, psnrs, 0.53, slack=0.05) is None
