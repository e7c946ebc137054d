"""How stored values become physical ones: scales by series and slice, and what is no scale."""

import pydicom
import pytest
from opened_items import open_only
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement

import adapters


def test_slope_by_slice_is_a_table_and_does_not_split(tmp_path, write_series):
    write_series(
        tmp_path, Modality="PT", per_slice=lambda k: {"RescaleSlope": k + 1, "RescaleIntercept": 0}
    )
    (volume,) = open_only(tmp_path).volumes
    assert volume.slope is None and volume.intercept is None
    assert volume.attrs["slice_slope"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [("1,5", "3"), ("abc", "3"), ("nan", "3"), ("1\\2", "3"), ("", "3"), ("2", "x"), ("2", "")],
)
def test_a_scale_that_is_no_number_is_not_guessed(tmp_path, write_series, slope, intercept):
    values = write_series(tmp_path, Modality="CT", RescaleSlope=2, RescaleIntercept=-1024)
    for path in sorted(tmp_path.iterdir())[:3]:  # those of the others keep their scale
        dataset = pydicom.dcmread(path)
        for name, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
            tag = pydicom.datadict.tag_for_keyword(name)
            dataset[tag] = RawDataElement(
                pydicom.tag.Tag(tag), "DS", len(value), value.encode(), 0, False, True
            )
        dataset.save_as(path)
    found = adapters.discover(tmp_path).candidates
    items = sorted((adapters.open_source(c) for c in found), key=lambda i: i.volumes[0].unit or "")
    stored, scaled = (item.volumes[0] for item in items)
    assert (stored.slope, stored.intercept, stored.unit) == (None, None, None)
    assert "slice_slope" not in stored.attrs
    assert any("is no number: stored values are shown" in note for note in items[0].notes)
    assert (scaled.slope, scaled.intercept, scaled.unit) == (2, -1024, "HU")
    assert stored.array.shape[0] + scaled.array.shape[0] == len(values)


def test_a_scale_that_is_empty_throughout_is_none(tmp_path, write_series):
    write_series(tmp_path, RescaleSlope="", RescaleIntercept="")
    item = open_only(tmp_path)
    assert item.volumes[0].slope is None and item.volumes[0].intercept is None
    assert not any("no number" in note for note in item.notes)


def test_a_dose_whose_scale_is_no_number_is_in_no_unit(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file("rtdose.dcm"))
    tag = pydicom.tag.Tag("DoseGridScaling")
    dataset[tag] = RawDataElement(tag, "DS", 4, b"1,5 ", 0, False, True)
    dataset.save_as(tmp_path / "dose.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.slope is None and volume.unit is None
