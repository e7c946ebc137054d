"""What values mean: maps of measurements, doses, segments, and frames that have half a place."""

import numpy as np
import pydicom
import pytest
from opened_items import open_only, restored, whole
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from test_dicom_frames import write_segments

from tests.adapters.conftest import AXIAL

PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
PLACES = [(AXIAL, (0, 0, 2.0 * z), {}) for z in range(4)]


def mapping(slope, intercept, unit="mm2/s"):
    item, code = Dataset(), Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    item.MeasurementUnitsCodeSequence = [code]
    return item


def write_map(write_enhanced, path, *mappings, rescale=1):
    """A parametric map of integers, with the identity that the standard asks for beside it."""
    values = write_enhanced(path, PLACES)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PARAMETRIC_MAP
    (shared,) = dataset.SharedFunctionalGroupsSequence
    identity = Dataset()
    identity.RescaleSlope, identity.RescaleIntercept, identity.RescaleType = rescale, 0, "US"
    shared.PixelValueTransformationSequence = [identity]
    shared.RealWorldValueMappingSequence = list(mappings)
    dataset.save_as(path)
    return values


def test_a_parametric_map_is_in_its_unit(tmp_path, write_enhanced):
    path = tmp_path / "in" / "e.dcm"
    values = write_map(write_enhanced, path, mapping(1e-6, -2e-3))
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    np.testing.assert_array_equal(whole(volume), values)
    assert (volume.slope, volume.intercept, volume.unit) == (1e-6, -2e-3, "mm2/s")
    (again,) = restored(item, tmp_path / "out")
    assert again.read_bytes() == path.read_bytes()


def test_mappings_by_frame_are_a_table(tmp_path, write_enhanced):
    write_map(write_enhanced, tmp_path / "e.dcm")
    dataset = pydicom.dcmread(tmp_path / "e.dcm")
    del dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.RealWorldValueMappingSequence = [mapping(number + 1.0, 0.0)]
    dataset.save_as(tmp_path / "e.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.attrs["slice_slope"] == [1, 2, 3, 4] and volume.unit == "mm2/s"


@pytest.mark.parametrize(
    ("mappings", "rescale", "unit"),
    [
        ([mapping(2.0, 0.0), mapping(3.0, 0.0)], 1, None),
        ([mapping(float("inf"), 0.0)], 1, None),
        ([], 1, None),
        ([mapping(2.0, 0.0)], 5, None),
    ],
    ids=["two", "infinite", "none", "beside another scale"],
)
def test_a_map_that_may_mean_several_things_is_not_guessed(
    tmp_path, write_enhanced, mappings, rescale, unit
):
    write_map(write_enhanced, tmp_path / "e.dcm", *mappings, rescale=rescale)
    item = open_only(tmp_path)
    (volume,) = item.volumes
    assert (volume.slope, volume.unit) == (rescale, unit)
    assert any("without one linear mapping" in note for note in item.notes)


def test_a_unit_that_is_no_term_goes_nowhere(tmp_path, write_enhanced):
    write_map(write_enhanced, tmp_path / "e.dcm", mapping(2.0, 0.0, "Doe^Secret"))
    (volume,) = open_only(tmp_path).volumes
    assert volume.slope == 2 and volume.unit is None


def test_a_dose_has_no_scale_but_its_own(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file("rtdose.dcm"))
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.save_as(tmp_path / "dose.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert (volume.unit, volume.slope) == ("1", float(dataset.DoseGridScaling))  # RELATIVE
    assert not volume.intercept


def test_a_single_enhanced_frame_is_as_thick_as_it_says(tmp_path, write_enhanced):
    write_enhanced(tmp_path / "e.dcm", PLACES[:1])
    (volume,) = open_only(tmp_path).volumes
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


@pytest.mark.parametrize("numbers", [(2, 2), (1, 2)])
def test_segments_say_what_they_are(tmp_path, numbers):
    write_segments(tmp_path / "s.dcm", [(number, z) for z, number in enumerate(numbers)])
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    (volume,) = open_only(tmp_path).volumes
    stated = [(int(s.SegmentNumber), s.SegmentLabel) for s in dataset.SegmentSequence]
    assert volume.attrs["segment_numbers"] == [number for number, _ in stated]
    assert volume.attrs["segment_labels"] == [label for _, label in stated]
    assert volume.attrs.get("segment") == (2 if numbers == (2, 2) else None)


def test_fractions_say_of_what(tmp_path):
    write_segments(tmp_path / "s.dcm", [(1, 0), (1, 1)], bits=8)
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    dataset.SegmentationType, dataset.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
    dataset.MaximumFractionalValue = 200
    dataset.save_as(tmp_path / "s.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.attrs["segmentation_type"] == "FRACTIONAL"
    assert volume.attrs["segmentation_fractional_type"] == "PROBABILITY"
    assert volume.attrs["maximum_fractional_value"] == 200


def test_frames_with_half_a_place_are_no_times(tmp_path, write_enhanced):
    write_enhanced(tmp_path / "e.dcm", PLACES)
    dataset = pydicom.dcmread(tmp_path / "e.dcm")
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PlaneOrientationSequence
    dataset.save_as(tmp_path / "e.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.dims == ("frame", "y", "x") and volume.affine is None
