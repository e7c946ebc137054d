"""CT has one fixed mapping, whoever stored it how; what is no CT never gets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

import adapters
from adapters.base import Volume
from pipelines.archiving.options import ArchiveOptions, choose_prior
from pipelines.archiving.plan import plan
from pipelines.archiving.value_range import HU_HIGH, HU_LOW, volume_range
from psc_volumetric.values.mapping import IntensityMapping, normalise


def phantom_hu() -> np.ndarray:
    """A body of soft tissue with bone in air, noisy, (6, 64, 64) whole Hounsfield units."""
    _, y, x = np.meshgrid(np.arange(6), np.arange(64), np.arange(64), indexing="ij")
    radius = np.hypot(y - 32, x - 32)
    hu = np.where(radius < 24, 40.0, -1000.0)
    hu = np.where(radius < 8, 900.0, hu)
    return np.rint(hu + np.random.default_rng(0).normal(0, 25, hu.shape)).astype(np.int16)


def ct_volume(stored: np.ndarray, **changes) -> Volume:
    volume = Volume(
        name="image",
        array=stored,
        dims=("z", "y", "x"),
        affine=np.eye(4),
        spacing_mm=(1.0, 1.0, 1.0),
        unit="HU",
        slope=1.0,
        intercept=0.0,
        special_values=(),
        coordinates=(),
        attrs={},
    )
    return replace(volume, **changes)


def samples_of(volume: Volume) -> np.ndarray:
    found = volume_range(volume)
    assert found is not None and found.hounsfield
    return normalise(volume.array, IntensityMapping(found.low, found.high))


def test_the_same_tissue_gets_the_same_samples_from_every_storage():
    hu = phantom_hu()
    plain = samples_of(ct_volume(hu))
    shifted = ct_volume((hu + 1200).astype(np.uint16), intercept=-1200.0)
    np.testing.assert_array_equal(samples_of(shifted), plain)
    floats = ct_volume(hu.astype(np.float32))
    np.testing.assert_array_equal(samples_of(floats), plain)
    halves = ct_volume((hu * 2).astype(np.int32), slope=0.5)
    np.testing.assert_array_equal(samples_of(halves), plain)
    darker = ct_volume(np.minimum(hu, 300))  # another range, the same samples
    inside = hu <= 300
    np.testing.assert_array_equal(samples_of(darker)[inside], plain[inside])


def test_the_fixed_ends_map_to_one_and_usual_values_stay_below_the_prior_limit():
    found = volume_range(ct_volume(phantom_hu()))
    assert found is not None
    assert (found.low, found.high) == (HU_LOW, HU_HIGH) == (-1024.0, 1535.0)
    mapping = IntensityMapping(found.low, found.high)
    ends = normalise(np.array([-1024, 1535, 3071]), mapping) / 2048
    np.testing.assert_allclose(ends, [-1, 1, 2.2], atol=1e-3)


def test_low_and_high_are_whole_where_stored_values_are():
    volume = ct_volume(((phantom_hu() + 1024.5) / 0.7).round().astype(np.int16))
    found = volume_range(replace(volume, slope=0.7, intercept=-1024.5))
    assert found is not None and found.hounsfield
    assert (found.low, found.high) == (1.0, 3656.0)


@pytest.mark.parametrize(
    "changes",
    [{"unit": None, "affine": None}, {"unit": "K"}, {"attrs": {"slice_slope": [1.0]}}],
    ids=["no unit", "another unit", "slope by slice"],
)
def test_what_does_not_say_hounsfield_takes_the_sampled_range(changes):
    found = volume_range(ct_volume(phantom_hu(), **changes))
    assert found is not None and not found.hounsfield
    assert found.low == phantom_hu().min()


@pytest.mark.parametrize("outlier", [-1700, 3600, 30_000])
def test_values_far_outside_take_the_sampled_range(outlier):
    hu = phantom_hu().astype(np.int32)
    hu[:, 32, 30:40] = outlier + np.arange(10)
    found = volume_range(ct_volume(hu))
    assert found is not None and not found.hounsfield


class TestPadding:
    def with_corners(self, value: int, radius: int = 40) -> np.ndarray:
        hu = phantom_hu()
        y, x = np.ogrid[:64, :64]
        hu[:, np.hypot(y - 32, x - 32) > radius] = value
        return hu

    def found(self, hu: np.ndarray, **changes) -> tuple:
        found = volume_range(ct_volume(hu, **changes))
        assert found is not None
        return found.special_values

    @pytest.mark.parametrize("value", [-2000, -3024, -1500])
    def test_one_lonely_value_is_padding(self, value):
        assert self.found(self.with_corners(value)) == (value,)
        stored = (self.with_corners(value) + 1024).astype(np.int16)
        assert self.found(stored, intercept=-1024.0) == (value + 1024,)

    def test_it_joins_declared_padding(self):
        hu = self.with_corners(-2048)
        hu[0, 0, :4] = -3000
        assert self.found(hu, special_values=(-3000,)) == (-3000, -2048)

    def test_air_is_no_padding(self):
        assert self.found(np.maximum(self.with_corners(-1024), -1024)) == ()

    def test_few_voxels_are_no_padding(self):
        hu = phantom_hu()
        hu[0, 0, :5] = -2000
        assert self.found(hu) == ()

    def test_scattered_values_are_no_padding(self):
        hu = self.with_corners(-1400)
        noise = np.random.default_rng(1).integers(0, 40, hu.shape)
        assert self.found(np.where(hu == -1400, hu + noise, hu).astype(np.int16)) == ()


class TestGuess:
    """NIfTI has no modality."""

    def is_ct(self, values: np.ndarray, **changes) -> bool:
        found = volume_range(ct_volume(values, **{"unit": None, **changes}))
        return found is not None and found.hounsfield

    def test_ct_without_a_unit(self):
        assert self.is_ct(phantom_hu())
        assert self.is_ct((phantom_hu() + 1024).astype(np.int16), intercept=-1024.0)

    def test_everything_else(self):
        rng = np.random.default_rng(2)
        noise = rng.normal(0, 400, (6, 64, 64))
        assert not self.is_ct(np.abs(noise).astype(np.int16))  # MR
        assert not self.is_ct(noise.astype(np.int16) + 500)  # a difference image
        assert not self.is_ct((noise / 1000).astype(np.float32))
        assert not self.is_ct(phantom_hu().astype(np.float32))
        assert not self.is_ct(np.clip(phantom_hu() // 4 + 128, 0, 255).astype(np.uint8))
        assert not self.is_ct(phantom_hu(), attrs={"modality": "MR"})
        assert not self.is_ct(np.where(phantom_hu() > 0, 1000, -1000).astype(np.int16))

    def test_the_plan_says_so_and_takes_the_ct_prior(self, tmp_path: Path):
        nibabel.save(nibabel.Nifti1Image(phantom_hu().T, np.eye(4)), tmp_path / "ct.nii")
        options = ArchiveOptions("lossy", base="psc")
        (item,) = plan(tmp_path / "ct.nii", str(tmp_path), options).items
        assert item.prior == "ct-body"
        assert any("look like CT in Hounsfield units" in note for note in item.notes)
        assert item.variables[0].spec.parameters["low"] == -1024.0


def test_a_plan_tells_of_padding_it_found(tmp_path: Path, sources):
    hu = TestPadding().with_corners(-2000)
    nibabel.save(nibabel.Nifti1Image(hu.T, np.eye(4)), tmp_path / "ct.nii")
    (item,) = plan(tmp_path / "ct.nii", str(tmp_path), ArchiveOptions("lossy")).items
    assert item.variables[0].spec.special_values == (-2000,)
    assert any("-2000" in note and "padding" in note for note in item.notes)
    options = ArchiveOptions("lossy", base="psc")
    (item,) = plan(sources["dicom"], str(tmp_path), options).items
    assert item.prior == "ct-body"
    assert item.variables[0].spec.special_values == (-2000,)


def test_a_prior_that_is_not_installed_is_missed_aloud():
    assert choose_prior(None, "ct-body", ("ct-body", "mr-head")) == ("ct-body", None)
    name, note = choose_prior(None, "ct-body", ("mr-head",))
    assert name == "mr-head" and note is not None and "'ct-body' is not installed" in note


@pytest.mark.parametrize(
    ("folder", "special"),
    [("lidc-idri-0001", (-2000, -1024)), ("lidc-idri-0314", ()), ("dcm-qa-ge-head", (-1500,))],
)
def test_real_series(data_folder, folder, special):
    (candidate,) = adapters.discover(data_folder / "ct" / folder).candidates
    (volume,) = adapters.open_source(candidate).volumes
    found = volume_range(volume)
    assert found is not None and found.hounsfield
    assert found.special_values == special
