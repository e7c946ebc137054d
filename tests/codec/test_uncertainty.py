"""Sigma: tables survive, coverage counts as it says, and real volumes are covered as promised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    DecodedBrick,
    EncodedBrick,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.psc.fields import PscFields
from psc_volumetric.methods.registry import read_index
from psc_volumetric.prior import Prior, load_prior
from psc_volumetric.sigma.fit import LevelErrors, fit_tables
from psc_volumetric.sigma.tables import (
    NOMINAL,
    SIGMA_STEPS,
    SigmaTables,
    coverage,
    voxel_classes,
)

POINTS = 0.03
WHOLE = (slice(None), slice(None), slice(None))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 4), st.integers(0, 31), st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 88])
)
def test_tables_survive(levels: int, first: int, seed: int, width: int) -> None:
    entries = np.random.default_rng(seed).integers(0, width, (levels, 18, 16))
    found = SigmaTables.unpack(SigmaTables(first, entries).pack(), levels)
    assert found.first == first
    np.testing.assert_array_equal(found.entries, entries)


def test_entries_out_of_range_are_refused() -> None:
    good = SigmaTables(3, np.full((2, 18, 16), 40)).pack()
    for bad in (b"", bytes([32]) + good[1:], good[:-1], bytes([3]) + bytes(range(0, 240, 5))):
        with pytest.raises(FormatError):
            SigmaTables.unpack(bad, 2)
    with pytest.raises(FormatError):
        SigmaTables(3, np.full((2, 18, 16), SIGMA_STEPS)).pack()


def test_classes_are_those_of_the_specification_for_the_loudest_means() -> None:
    rng = np.random.default_rng(4)
    for low, high in ((-(1 << 20), 1 << 20), (-2100, 2100), (0, 3)):
        mean = rng.integers(low, high, (2, 21, 19))
        mean[0] = np.where(rng.random((21, 19)) < 0.5, low, high)
        loud = np.clip(mean, -2048, 2048) * 8
        rough = np.zeros(mean.shape, np.int64)
        for axis in (-2, -1):
            change = np.abs(np.diff(loud, axis=axis))
            ends = [(0, 0)] * 3
            ends[axis] = (1, 1)
            padded = np.moveaxis(np.pad(change, ends), axis, 0)
            rough += np.moveaxis(padded[1:] + padded[:-1], 0, axis)
        around = np.pad(rough, ((0, 0), (8, 8), (8, 8)), mode="edge")
        window = np.lib.stride_tricks.sliding_window_view(around, (17, 17), (1, 2)).sum((-2, -1))
        squares = np.maximum((window // 289) ** 2, 1)
        halves = np.vectorize(lambda square: int(square).bit_length() - 1)(squares)
        band = np.clip((mean + 2048) // 256 + 1, 0, 17)
        np.testing.assert_array_equal(voxel_classes(mean, 0), band * 64 + halves)
        np.testing.assert_array_equal(voxel_classes(mean, np.zeros_like(mean)), band * 64 + halves)


def test_classes_see_no_further_than_eight_voxels() -> None:
    mean = np.zeros((2, 33, 33), np.int32)
    flat = voxel_classes(mean, 0)
    mean[0, 16, 16] = 1000
    changed = np.argwhere(voxel_classes(mean, 0) != flat)
    assert (changed[:, 0] == 0).all()
    assert (changed[:, 1:].min(), changed[:, 1:].max()) == (7, 25)


def test_normal_errors_are_covered_nominally() -> None:
    error = np.random.default_rng(1).normal(0, 3.0, 200_000)
    source = np.zeros(error.shape)
    found = coverage(source, error, np.full(error.shape, 3.0))
    assert np.abs(np.array(found) - NOMINAL).max() < 0.003
    assert np.isnan(coverage(source[:0], error[:0], source[:0])).all()


def test_an_exact_integer_stands_for_all_that_rounds_to_it() -> None:
    zeros = np.zeros(10, np.int16)
    sigma = np.full(10, NOMINAL[0] / 2)
    assert coverage(zeros, zeros, sigma) == pytest.approx((NOMINAL[0], 1.0, 1.0))
    assert coverage(zeros, zeros, sigma, rounding=False) == (1.0, 1.0, 1.0)
    assert coverage(zeros, zeros + 1, np.full(10, 1.0)) == pytest.approx((0.5, 1.0, 1.0))


@pytest.mark.parametrize("rounded", [False, True])
def test_a_fit_finds_sigmas_that_differ_a_hundredfold(rounded: bool) -> None:
    rng = np.random.default_rng(2)
    band = rng.integers(0, 18, 120_000)
    half = rng.integers(8, 20, band.size)
    true = 2.0 ** (half / 2 - 6) * (1 + band / 6)
    errors = np.abs(rng.normal(0, true))
    errors = np.rint(errors) if rounded else errors
    classes = (band * 64 + half).astype(np.uint16)
    level = LevelErrors(classes, errors)
    tables = fit_tables([level], unit=1 / 64, rounded=rounded, nbytes=100_000)
    assert tables is not None
    sigma = tables.sigma(0, classes) / 64
    zeros = np.zeros(errors.shape, np.int32 if rounded else np.float64)
    found = coverage(zeros, errors.astype(zeros.dtype), sigma)
    assert np.abs(np.array(found) - NOMINAL).max() < 0.02
    if not rounded:
        assert np.median(np.abs(np.log2(sigma / true))) < 0.3


def test_no_class_pays_with_a_wrong_sigma_for_a_small_table() -> None:
    """Few bytes for the tables, rare classes, heavy tails: each sigma stays near its errors."""
    rng = np.random.default_rng(11)
    odds = np.array([0.03, 0.9, 0.04, 0.03])
    kinds = rng.choice(4, 200_000, p=odds)
    classes = (np.array([3, 7, 11, 15])[kinds] * 64 + 20 + 3 * (kinds % 2)).astype(np.uint16)
    errors = np.abs(rng.standard_t(3, classes.size))
    tables = fit_tables([LevelErrors(classes, errors)], unit=1.0, rounded=False, nbytes=0)
    assert tables is not None
    sigma = tables.sigma(0, classes)
    for one in np.unique(classes):
        inside = classes == one
        typical = np.quantile(errors[inside], NOMINAL[0])
        assert 0.7 < sigma[inside][0] / typical < 1.5


def test_nothing_measured_is_no_table() -> None:
    empty = LevelErrors(np.zeros(0, np.uint16), np.zeros(0))
    assert fit_tables([empty], unit=1.0, rounded=True, nbytes=0) is None


# -- real volumes ---------------------------------------------------------------------------------


def _slow(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior("mr-head")


def volumes() -> dict[str, np.ndarray]:
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    brain = np.asarray(nibabel.load(folder / "example4d.nii.gz").dataobj)[..., 0].T
    slices = pydicom.dcmread(get_testdata_file("CT_small.dcm")).pixel_array[None]
    return {
        "nifti-int16": brain[8:16].astype("<i2"),
        "nifti-float32": (brain[8:16] / 7).astype("<f4"),
        "dicom-int16": slices.astype("<i2"),
    }


@pytest.fixture(scope="module", params=["nifti-int16", *_slow("nifti-float32", "dicom-int16")])
def coded(request: pytest.FixtureRequest, prior: Prior) -> tuple[np.ndarray, EncodedBrick]:
    values = volumes()[request.param]
    _, y, x = values.shape
    brick = encode_brick(
        values,
        position=(0, 0, 0),
        shape=(8, -(-y // 64) * 64, -(-x // 64) * 64),
        mapping=IntensityMapping(float(values.min()), float(values.max())),
        parameters=CodecParameters(effort=2, step=0.3),
        prior=prior,
        options=BrickOptions(base="psc"),
    )
    return values, brick


def decoded(brick: EncodedBrick, prior: Prior, level: int, selection=WHOLE) -> DecodedBrick:
    return decode_brick(
        lambda start, length: brick.data[start : start + length],
        selection=selection,
        level=level,
        prior=lambda digest: prior,
        spread=True,
    )


def test_every_level_of_a_real_volume_is_covered(
    coded: tuple[np.ndarray, EncodedBrick], prior: Prior
) -> None:
    values, brick = coded
    assert len(brick.coverage) >= 3
    for level, recorded in enumerate(brick.coverage):
        found = decoded(brick, prior, level)
        assert found.spread is not None
        shares = coverage(values, found.values, found.spread)
        assert np.abs(np.array(shares) - NOMINAL).max() < POINTS, f"level {level}: {shares}"
        assert shares == pytest.approx(recorded, abs=1e-6)
        rmse = math.sqrt(float(np.mean((found.values.astype(float) - values) ** 2)))
        assert 0.5 * rmse < found.spread.mean() < 1.5 * rmse


def test_sigma_tells_large_errors_from_small_ones(
    coded: tuple[np.ndarray, EncodedBrick], prior: Prior
) -> None:
    values, brick = coded
    found = decoded(brick, prior, 1)
    assert found.spread is not None
    error = np.abs(found.values.astype(float) - values)
    unsure = found.spread >= np.quantile(found.spread, 0.75)
    assert error[unsure].mean() > 1.5 * error[~unsure].mean()


def test_a_region_has_the_sigma_of_the_whole(
    coded: tuple[np.ndarray, EncodedBrick], prior: Prior
) -> None:
    _, brick = coded
    for level in (0, 2):
        whole = decoded(brick, prior, level).spread
        box = (slice(0, 1), slice(30, 70), slice(61, 66))
        part = decoded(brick, prior, level, box).spread
        assert whole is not None
        assert part is not None
        np.testing.assert_array_equal(part, whole[box])


def test_the_tables_are_small(coded: tuple[np.ndarray, EncodedBrick]) -> None:
    _, brick = coded
    index = read_index(lambda start, n: brick.data[start : start + n], len(brick.data))
    assert isinstance(index.fields, PscFields)
    assert 0 < len(index.fields.sigma) < 200
