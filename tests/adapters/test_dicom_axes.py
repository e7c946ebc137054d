"""What makes a volume: series in time, copies, patients, stopped scans, segments, detectors."""

import shutil

import numpy as np
import pydicom
import pytest
from opened_items import coordinates, open_only, positions, restored, whole
from pydicom.data import get_testdata_file

import adapters

RANDOM = np.random.default_rng(21)


def write_times(write_series, folder, per_slice, *, times=3, slices=4, **elements):
    """Slices of several volumes, the slowest axis is time; gives values (time, z, y, x)."""
    values = RANDOM.integers(0, 999, (times * slices, 18, 20)).astype(np.uint16)
    write_series(
        folder,
        values=values,
        positions=positions([3.0 * (k % slices) for k in range(times * slices)]),
        per_slice=lambda k: {"InstanceNumber": k + 1, **per_slice(k // slices, k % slices)},
        **elements,
    )
    return values.reshape(times, slices, 18, 20)


def test_only_instance_numbers_tell_volumes_of_a_series_apart(tmp_path, write_series):
    values = write_times(write_series, tmp_path / "in", lambda t, z: {"AcquisitionTime": "114815"})
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("time", "z", "y", "x") and volume.spacing_mm[0] == 3.0
    np.testing.assert_array_equal(whole(volume), values)
    np.testing.assert_array_equal(coordinates(volume)["temporal_position"].values, [1, 2, 3])
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_instance_numbers_may_count_slices_slowest(tmp_path, write_series):
    values = write_times(
        write_series, tmp_path, lambda t, z: {"InstanceNumber": 3 * z + t + 1}, times=3
    )
    np.testing.assert_array_equal(whole(open_only(tmp_path).volumes[0]), values)


def test_slices_acquired_one_after_the_other_have_a_time_each(tmp_path, write_series):
    write_times(
        write_series,
        tmp_path,
        lambda t, z: {"AcquisitionTime": f"10{t:02d}{5 * z:02d}.25", "AcquisitionDate": "20200101"},
    )
    (volume,) = open_only(tmp_path).volumes
    found = coordinates(volume)["acquisition_time"]
    assert found.dims == ("time", "z") and found.attrs["units"] == "s"
    expected = np.add.outer(60.0 * np.arange(3), 5.0 * np.arange(4))
    np.testing.assert_allclose(found.values, expected, atol=1e-6)


def test_midnight_does_not_turn_time_back(tmp_path, write_series):
    write_times(
        write_series,
        tmp_path,
        lambda t, z: {
            "AcquisitionDate": ["20191231", "20200101"][t],
            "AcquisitionTime": ["235959", "000001"][t],
        },
        times=2,
    )
    found = coordinates(open_only(tmp_path).volumes[0])["acquisition_time"]
    np.testing.assert_allclose(found.values, [0, 2])


def test_diffusion_keeps_the_order_of_acquisition_and_says_the_b_values(tmp_path, write_series):
    b_values = [0, 1000, 1000, 500]
    values = write_times(
        write_series,
        tmp_path,
        lambda t, z: {
            "DiffusionBValue": float(b_values[t]),
            "DiffusionGradientOrientation": [0.0, float(t), 0.0],
        },
        times=4,
    )
    (volume,) = open_only(tmp_path).volumes
    assert volume.dims == ("b_value", "z", "y", "x")
    np.testing.assert_array_equal(whole(volume), values)
    found = coordinates(volume)["b_value"]
    np.testing.assert_array_equal(found.values, b_values)
    assert found.attrs["units"] == "s/mm2"


def test_private_b_values_of_ge_are_read(tmp_path, write_series):
    write_times(write_series, tmp_path, lambda t, z: {})
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        index = (int(dataset.InstanceNumber) - 1) // 4
        block.add_new(0x39, "IS", [1000000000 + [0, 700, 900][index], 8, 0, 0])
        dataset.save_as(path)
    found = coordinates(open_only(tmp_path).volumes[0])["b_value"]
    np.testing.assert_array_equal(found.values, [0, 700, 900])


def test_echoes_and_times_cross(tmp_path, write_series):
    values = write_times(
        write_series,
        tmp_path,
        lambda t, z: {"EchoNumbers": t % 2 + 1, "EchoTime": [4.5, 9.0][t % 2]},
        times=6,
    )
    (volume,) = open_only(tmp_path).volumes
    assert volume.dims == ("echo", "time", "z", "y", "x")
    np.testing.assert_array_equal(whole(volume), values.reshape(3, 2, 4, 18, 20).swapaxes(0, 1))
    assert list(coordinates(volume)["echo_time"].values) == [4.5, 9.0]
    assert coordinates(volume)["echo_time"].dims == ("echo",)
    assert list(coordinates(volume)["echo"].values) == [1, 2]


def test_slopes_by_slice_and_time_are_a_table(tmp_path, write_series):
    write_times(
        write_series,
        tmp_path,
        lambda t, z: {"RescaleSlope": 1 + 10 * t + z, "RescaleIntercept": 0},
        Modality="PT",
        Units="BQML",
    )
    (volume,) = open_only(tmp_path).volumes
    expected = np.add.outer(10 * np.arange(3), 1 + np.arange(4))
    np.testing.assert_array_equal(volume.attrs["slice_slope"], expected)
    assert volume.unit == "BQML" and volume.slope is None


@pytest.mark.parametrize("how", ["bytes", "another transfer syntax"])
def test_copies_are_left_out_and_named(tmp_path, write_series, how):
    values = write_series(tmp_path / "in")
    if how == "bytes":
        shutil.copy(tmp_path / "in" / "IM003.dcm", tmp_path / "in" / "IM003 (1).dcm")
    else:
        dataset = pydicom.dcmread(tmp_path / "in" / "IM003.dcm")
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        dataset.save_as(tmp_path / "in" / "x.dcm", implicit_vr=True, little_endian=True)
    found = adapters.discover(tmp_path / "in")
    assert [entry.kind for entry in found.skipped] == ["duplicate-copy"]
    item = adapters.open_source(found.candidates[0])
    np.testing.assert_array_equal(whole(item.volumes[0]), values)
    assert len(item.files) == 6 and any("copies of others" in note for note in item.notes)
    (copy,) = item.document["copies"]
    shorter, longer = ("IM003.dcm", "IM003 (1).dcm") if how == "bytes" else ("x.dcm", "IM003.dcm")
    assert (copy["of"], copy["name"]) == (shorter, longer)
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_the_same_uid_over_other_pixels_is_no_copy(tmp_path, write_series):
    write_series(tmp_path)
    dataset = pydicom.dcmread(tmp_path / "IM003.dcm")
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(tmp_path / "x.dcm")
    found = adapters.discover(tmp_path)
    assert found.skipped == ()
    (volume,) = adapters.open_source(found.candidates[0]).volumes
    assert volume.dims == ("frame", "y", "x") and volume.array.shape[0] == 7


@pytest.mark.parametrize("element", ["PatientID", "PatientName", "StudyInstanceUID"])
def test_patients_and_studies_never_share_an_item(tmp_path, write_series, element):
    write_series(tmp_path, prefix="A")
    write_series(tmp_path, prefix="B", **{element: "1.2.999"})
    found = adapters.discover(tmp_path).candidates
    assert [len(candidate.paths) for candidate in found] == [6, 6]
    for candidate in found:
        assert len({path.name[0] for path in candidate.paths}) == 1
    assert len({candidate.name for candidate in found}) == 2
    assert len({candidate.key for candidate in found}) == 2


def test_names_do_not_depend_on_what_lies_beside(tmp_path, write_series):
    write_series(tmp_path, prefix="A")
    (alone,) = adapters.discover(tmp_path).candidates
    write_series(tmp_path, prefix="B", values=np.zeros((3, 30, 24), np.int16))
    write_series(tmp_path, prefix="C", orientation=(1.0, 0, 0, 0, 0, -1.0))
    names = [c.name for c in adapters.discover(tmp_path).candidates]
    assert alone.name in names and len(set(names)) == 3


def test_micrometres_are_told_apart(tmp_path, write_series):
    write_series(
        tmp_path,
        positions=[np.array([0, 0, 0.001 * k]) for k in range(6)],
        PixelSpacing=[0.0008, 0.0007],
        SliceThickness=0.001,
    )
    (volume,) = open_only(tmp_path).volumes
    np.testing.assert_allclose(volume.spacing_mm, (0.001, 0.0008, 0.0007))
    uneven = [0, 0.001, 0.002, 0.0035, 0.004, 0.005]
    write_series(tmp_path / "b", positions=positions(uneven), PixelSpacing=[0.0008, 0.0007])
    assert open_only(tmp_path / "b").volumes[0].affine is None


def test_kinds_of_images_that_cover_different_places_are_volumes_of_their_own(
    tmp_path, write_series
):
    zs = [0, 2, 4, 6, 8, 10, 4, 6, 8]
    values = RANDOM.integers(0, 999, (9, 18, 20)).astype(np.uint16)
    write_series(
        tmp_path,
        values=values,
        positions=positions(zs),
        per_slice=lambda k: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[k // 6]]},
    )
    first, second = open_only(tmp_path).volumes
    np.testing.assert_array_equal(whole(first), values[:6])
    np.testing.assert_array_equal(whole(second), values[6:])
    np.testing.assert_allclose(second.affine @ [0, 0, 0, 1], [0, 0, 4, 1])


def test_header_text_that_is_no_term_goes_nowhere(tmp_path, write_series):
    write_series(
        tmp_path,
        Modality="DOE^SECRET",
        RescaleType="DOE SECRET",
        RescaleSlope=2,
        RescaleIntercept=0,
        ImageType=["ORIGINAL", "SECRET-4711"],
        PhotometricInterpretation="DOE SECRET",
    )
    found = adapters.discover(tmp_path)
    item = adapters.open_source(found.candidates[0])
    assert item.name.startswith("ot-")
    shown = repr((found.candidates[0].key, item.name, item.notes, item.volumes[0].attrs))
    shown += repr((item.volumes[0].unit, item.volumes[0].coordinates))
    assert "DOE" not in shown.upper() and "SECRET" not in shown.upper()


def test_slices_without_decoder_say_what_to_do(tmp_path, write_series):
    write_series(tmp_path / "in")
    source = pydicom.dcmread(get_testdata_file("MR_small_RLE.dcm"))
    source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    for k in range(4):
        source.SOPInstanceUID = f"1.2.3.{k}"
        source.save_as(tmp_path / "in" / f"m{k}.dcm")
    skipped = adapters.discover(tmp_path / "in").skipped
    assert [entry.path.name for entry in skipped] == ["m0.dcm", "m1.dcm", "m2.dcm", "m3.dcm"]
    assert {entry.kind for entry in skipped} == {"no-decoder"}
    assert len({entry.reason for entry in skipped}) == 1 and "plugin" in skipped[0].hint


def test_slices_beside_a_truncated_one_are_named_as_such(tmp_path, write_series):
    write_series(tmp_path)
    victim = tmp_path / "IM003.dcm"
    victim.write_bytes(victim.read_bytes()[:-100])
    write_series(tmp_path, prefix="OTHER", SeriesInstanceUID="1.2.3")
    found = adapters.discover(tmp_path)
    assert len(found.candidates) == 1
    assert {entry.kind for entry in found.skipped} == {"truncated"}
    assert {entry.path.name[:2] for entry in found.skipped} == {"IM"} and len(found.skipped) == 6
