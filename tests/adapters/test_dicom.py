import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from opened_items import open_only, positions, restored, whole
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

import adapters
from adapters import RestoreInfo, SourceError
from adapters.base import Candidate
from adapters.dicom.terms import archive_name

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def test_slices_are_sorted_by_position_whatever_names_and_numbers_say(tmp_path, write_series):
    values = write_series(tmp_path)
    item = open_only(tmp_path)
    np.testing.assert_array_equal(whole(item.volumes[0]), values)
    names = [record.name for record in item.files]
    assert names != sorted(names)
    assert item.suggested_prior == "mr-head"


def test_a_mixture_is_sorted_out_and_the_rest_is_reported(tmp_path, write_series):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a", prefix="OTHER", SeriesInstanceUID="1.2.3", Modality="CT")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.dcm").write_bytes(b"")
    for name in ("DICOMDIR", "test-SR.dcm", "MR_truncated.dcm"):
        shutil.copy(get_testdata_file(name), tmp_path / name)
    found = adapters.discover(tmp_path)
    assert sorted(len(candidate.paths) for candidate in found.candidates) == [6, 6]
    assert len({candidate.name for candidate in found.candidates}) == 2
    assert {entry.path.name: entry.kind for entry in found.skipped} == {
        "notes.txt": "unknown-format",
        "empty.dcm": "unknown-format",
        "DICOMDIR": "dicomdir",
        "test-SR.dcm": "no-pixels",
        "MR_truncated.dcm": "truncated",
    }


def test_names_and_messages_hold_no_identifiers(tmp_path, write_series):
    write_series(tmp_path)
    (candidate,) = adapters.discover(tmp_path).candidates
    assert candidate.name.startswith("mr-") and len(candidate.name) == len("mr-") + 20
    assert archive_name("MR", candidate.key) == candidate.name
    secret = archive_name("MR", candidate.key, b"a key")
    assert secret != candidate.name and secret == archive_name("MR", candidate.key, b"a key")


@pytest.mark.parametrize(
    ("trait", "axis", "coordinate", "expected"),
    [
        (lambda k: {"EchoTime": 10.0 * (k % 2 + 1)}, "echo", "echo_time", [10, 20]),
        (
            lambda k: {"TemporalPositionIdentifier": k % 2 + 1},
            "time",
            "temporal_position",
            [1, 2],
        ),
        (
            lambda k: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[k % 2]]},
            "frame_type",
            "frame_type",
            ["ORIGINAL/PRIMARY/M", "ORIGINAL/PRIMARY/P"],
        ),
        (lambda k: {"DiffusionBValue": 700.0 * (k % 2)}, "b_value", "b_value", [0, 700]),
        (
            lambda k: {"AcquisitionTime": f"1010{30 * (k % 2):02d}.5"},
            "time",
            "acquisition_time",
            [0, 30],
        ),
    ],
)
def test_echoes_times_and_kinds_at_one_place_become_an_axis(
    tmp_path, write_series, trait, axis, coordinate, expected
):
    values = write_series(tmp_path, positions=positions([0, 0, 2, 2, 4, 4]), per_slice=trait)
    (volume,) = open_only(tmp_path).volumes
    assert volume.dims == (axis, "z", "y", "x")
    np.testing.assert_array_equal(whole(volume), np.stack([values[0::2], values[1::2]]))
    found = {c.name: c for c in volume.coordinates}[coordinate]
    assert found.dims == (axis,) and list(found.values) == expected
    assert volume.affine is not None


def test_slices_that_fit_no_grid_are_kept_as_a_list(tmp_path, write_series):
    values = write_series(tmp_path / "in", positions=positions([0, 2, 2, 4, 6, 8]))
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("frame", "y", "x") and volume.affine is None
    assert any("up to 2 at one position" in note for note in item.notes)
    places = {c.name: c.values for c in volume.coordinates}["slice_position"]
    np.testing.assert_allclose(places, [0, 2, 2, 4, 6, 8])
    assert {plane.tobytes() for plane in whole(volume)} == {plane.tobytes() for plane in values}
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_orientation_size_and_pixel_format_split_a_series(tmp_path, write_series):
    write_series(tmp_path, prefix="A")
    write_series(tmp_path, prefix="B", orientation=CORONAL)
    write_series(tmp_path, prefix="C", values=np.zeros((3, 30, 24), np.int16))
    write_series(tmp_path, prefix="D", values=np.zeros((4, 20, 24), np.uint16))
    found = adapters.discover(tmp_path)
    assert sorted(len(candidate.paths) for candidate in found.candidates) == [3, 4, 6, 6]
    with pytest.raises(SourceError) as caught:
        adapters.open_source(Candidate("dicom", "x", tuple(sorted(tmp_path.iterdir())), "x"))
    assert caught.value.kind == "mixed-series"


def test_gaps_give_no_affine_but_keep_every_position(tmp_path, write_series):
    write_series(tmp_path, positions=positions([0, 2, 4, 8, 10, 12]))
    item = open_only(tmp_path)
    (volume,) = item.volumes
    assert volume.affine is None and volume.spacing_mm is None
    assert "about 1 slice(s) seem to be missing" in item.notes[0]
    np.testing.assert_allclose(volume.coordinates[0].values, [0, 2, 4, 8, 10, 12])
    assert [p[2] for p in volume.attrs["image_positions_lps_mm"]] == [0, 2, 4, 8, 10, 12]
    assert volume.attrs["slice_spacing"] == "irregular"


def test_rounded_positions_are_regular(tmp_path, write_series):
    write_series(tmp_path, positions=positions(np.round(np.arange(6) * 1.2345678, 2)))
    assert open_only(tmp_path).volumes[0].affine is not None


def test_gantry_tilt_stays_in_the_affine_as_shear(tmp_path, write_series):
    write_series(tmp_path, positions=[np.array([0, 0.5 * k, 2.5 * k]) for k in range(6)])
    item = open_only(tmp_path)
    affine = item.volumes[0].affine
    np.testing.assert_allclose(affine[:3, 0], [0, -0.5, 2.5])
    assert "gantry tilt of 11.31 degrees" in item.notes[0]


def test_single_slice_takes_the_nominal_thickness(tmp_path, write_series):
    write_series(tmp_path, values=np.ones((1, 9, 8), np.int16))
    item = open_only(tmp_path)
    assert item.volumes[0].spacing_mm == (2.5, 0.8, 0.7)
    assert "single slice" in item.notes[0]


def test_padding_is_special_as_stored_number(tmp_path, write_series):
    values = np.full((3, 18, 18), 100, np.int16)
    write_series(tmp_path / "a", values=values, PixelPaddingValue=-2000)
    assert open_only(tmp_path / "a").volumes[0].special_values == (-2000,)
    values[:, [0, 0, -1, -1], [0, -1, 0, -1]] = -2000
    write_series(
        tmp_path / "b", values=values, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024
    )
    item = open_only(tmp_path / "b")
    assert item.volumes[0].special_values == (-2000,)
    assert item.volumes[0].unit == "HU" and item.suggested_prior == "ct-body"
    assert any("padding outside the field of view" in note for note in item.notes)


def test_bits_above_the_stored_ones_survive(tmp_path, write_series):
    values = np.random.default_rng(1).integers(0, 4096, (3, 18, 20)).astype(np.uint16)
    values[:, 4:8, 4:8] |= 0x8000  # an overlay in bit 15
    write_series(tmp_path / "in", values=values, BitsStored=12, HighBit=11)
    item = open_only(tmp_path / "in")
    np.testing.assert_array_equal(whole(item.volumes[0]), values & 0x0FFF)
    assert item.volumes[0].limits == (0, 4095)
    assert any("bits above" in note for note in item.notes)
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_signed_words_without_sign_extension_become_signed_values(tmp_path, write_series):
    values = np.random.default_rng(1).integers(-2000, 2000, (3, 18, 20)).astype(np.int16)
    write_series(tmp_path / "in", values=values & 0x0FFF, BitsStored=12, HighBit=11)
    item = open_only(tmp_path / "in")
    np.testing.assert_array_equal(whole(item.volumes[0]), values)
    np.testing.assert_array_equal(item.volumes[0].array[1:2, 3:5, 2:7], values[1:2, 3:5, 2:7])
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_enhanced_frames_are_ordered_in_space_and_time(tmp_path, write_enhanced):
    places = [
        (AXIAL, (-9.0, 4.5, 3.0 * z), {"TemporalPositionIndex": time, "StackID": "1"})
        for z, time in ((1, 2), (0, 1), (2, 1), (1, 1), (2, 2), (0, 2))
    ]
    values = write_enhanced(tmp_path / "in" / "e.dcm", places)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("time", "z", "y", "x")
    np.testing.assert_array_equal(whole(volume), values[[[1, 3, 2], [5, 0, 4]]])
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [9, -4.5, 0, 1])
    key = (slice(1, 2), slice(1, 3), slice(4, 9), slice(5, 18))
    (path,) = restored(item, tmp_path / "out", keys=key)
    cut = pydicom.dcmread(path)
    assert cut.NumberOfFrames == 2 and (cut.Rows, cut.Columns) == (5, 13)
    np.testing.assert_array_equal(cut.pixel_array, values[[0, 4], 4:9, 5:18])
    first = cut.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    np.testing.assert_allclose(first.ImagePositionPatient, [-9 + 5 * 0.7, 4.5 + 4 * 0.8, 3.0])


def test_enhanced_file_with_two_orientations_gives_two_volumes(tmp_path, write_enhanced):
    places = [(AXIAL, (0, 0, 2.0 * k), {}) for k in range(3)]
    places += [(CORONAL, (0, 3.0 * k, 50), {}) for k in range(4)]
    values = write_enhanced(tmp_path / "in" / "e.dcm", places)
    item = open_only(tmp_path / "in")
    assert [volume.name for volume in item.volumes] == ["image_0", "image_1"]
    assert [volume.array.shape[0] for volume in item.volumes] == [3, 4]
    np.testing.assert_array_equal(whole(item.volumes[0]), values[:3])
    (path,) = restored(item, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "in" / "e.dcm").read_bytes()


def test_enhanced_frames_missing_at_a_position_are_kept_as_a_list(tmp_path, write_enhanced):
    places = [(AXIAL, (0, 0, z), {}) for z in (0.0, 0.0, 2.0)]
    values = write_enhanced(tmp_path / "in" / "e.dcm", places)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("frame", "y", "x") and volume.affine is None
    np.testing.assert_array_equal(whole(volume), values)
    (path,) = restored(item, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "in" / "e.dcm").read_bytes()


def test_classic_multi_frame_without_positions_is_a_time_series(tmp_path, write_series):
    source = Path(get_testdata_file("rtdose.dcm"))
    dataset = pydicom.dcmread(source)
    del dataset.GridFrameOffsetVector
    dataset.FrameTime = 40
    dataset.save_as(tmp_path / "cine.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.dims == ("time", "y", "x") and volume.affine is None
    np.testing.assert_allclose(volume.coordinates[0].values, np.arange(15) * 40.0)


def test_dose_grid_has_the_offsets_of_its_frames():
    (volume,) = open_only(Path(get_testdata_file("rtdose.dcm"))).volumes
    assert volume.spacing_mm == (5.0, 10.0, 10.0)


def test_compressed_files_come_back_native_under_their_own_uids(tmp_path):
    source = pydicom.dcmread(get_testdata_file("MR_small_RLE.dcm"))
    (path,) = restored(open_only(Path(source.filename)), tmp_path / "out")
    again = pydicom.dcmread(path)
    assert again.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert again.SOPInstanceUID == source.SOPInstanceUID
    assert "LossyImageCompression" not in again
    np.testing.assert_array_equal(again.pixel_array, source.pixel_array)


def test_lossy_files_say_so_and_get_new_uids(tmp_path, write_series):
    write_series(
        tmp_path / "in",
        LossyImageCompression="01",
        LossyImageCompressionRatio=10,
        LossyImageCompressionMethod="ISO_10918_1",
        DerivationDescription="before",
        SmallestImagePixelValue=b"\0\0",
    )
    item = open_only(tmp_path / "in")
    assert "the source was already compressed with loss" in item.notes
    info = RestoreInfo(lossless=False, ratio=42.0, method="psc-fast", level=2)
    paths = restored(item, tmp_path / "out", info=info)
    made = [pydicom.dcmread(path) for path in paths]
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "in").iterdir()}
    assert len({dataset.SeriesInstanceUID for dataset in made}) == 1
    assert len({dataset.SOPInstanceUID for dataset in made}) == len(made)
    for dataset in made:
        assert dataset.SeriesInstanceUID != "1.2.826.0.1.3680043.8.498.77"
        assert dataset.SOPInstanceUID not in sources
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.LossyImageCompression == "01"
        assert list(dataset.LossyImageCompressionRatio) == [10, 42]
        assert list(dataset.LossyImageCompressionMethod) == ["ISO_10918_1", "PSC_FAST"]
        assert dataset.ImageType[0] == "DERIVED"
        assert dataset.DerivationDescription == (
            "before; lossy archive compression, method psc-fast, level 2, ratio 42"
        )
        origin = dataset.SourceImageSequence[0]
        assert origin.ReferencedSOPInstanceUID in sources
        assert dataset.SmallestImagePixelValue == dataset.pixel_array.min()
    again = [pydicom.dcmread(p) for p in restored(item, tmp_path / "again", info=info)]
    assert [d.SOPInstanceUID for d in again] == [d.SOPInstanceUID for d in made]


def test_cut_files_are_derived_but_not_lossy(tmp_path, write_series):
    write_series(tmp_path / "in")
    item = open_only(tmp_path / "in")
    key = (slice(1, 4), slice(2, 12), slice(3, 20))
    made = [pydicom.dcmread(p) for p in restored(item, tmp_path / "out", keys=key)]
    assert len(made) == 3 and "LossyImageCompression" not in made[0]
    assert made[0].ImageType[0] == "DERIVED" and "cut to a region" in made[0].DerivationDescription
    np.testing.assert_allclose(
        made[0].ImagePositionPatient, [-90.5 + 3 * 0.7, 12.25 + 2 * 0.8, -310 + 2.5]
    )


def test_whole_slices_of_a_series_keep_their_identity(tmp_path, write_series):
    write_series(tmp_path / "in")
    item = open_only(tmp_path / "in")
    paths = restored(item, tmp_path / "out", keys=(slice(2, 5), slice(0, 20), slice(0, 24)))
    assert len(paths) == 3
    for path in paths:
        assert path.read_bytes() == (tmp_path / "in" / path.name).read_bytes()


def test_overlays_move_with_the_cut(tmp_path):
    item = open_only(Path(get_testdata_file("examples_overlay.dcm")))
    key = (slice(0, 1), slice(10, 110), slice(20, 220))
    (path,) = restored(item, tmp_path / "out", keys=key)
    assert list(pydicom.dcmread(path)[0x6000, 0x0050].value) == [1 - 10, 1 - 20]


def test_document_survives_json(tmp_path, write_series):
    write_series(tmp_path)
    document = open_only(tmp_path).document
    assert json.loads(json.dumps(document)) == document


def test_real_series_come_back_byte_for_byte(data_folder, tmp_path):
    folder = data_folder / "ct" / "dcm-qa-ge-head"
    item = open_only(folder)
    assert any("irregularly spaced" in note for note in item.notes)
    assert any("gantry tilt" in note for note in item.notes)
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_real_compressed_series_cut(data_folder, tmp_path):
    item = open_only(data_folder / "ct" / "totalsegmentator-dicom-j2k")
    (volume,) = item.volumes
    key = (slice(3, 5), slice(100, 180), slice(200, 300))
    restored(item, tmp_path / "out", keys=key)
    again = open_only(tmp_path / "out").volumes[0]
    np.testing.assert_array_equal(whole(again), volume.array[key])
    np.testing.assert_allclose(
        again.affine @ [0, 0, 0, 1], volume.affine @ [3, 100, 200, 1], atol=1e-3
    )


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm"])
def test_data_set_without_prefix_is_recognised(tmp_path, name):
    dataset = pydicom.dcmread(get_testdata_file(name))
    implicit = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
    dataset.preamble, dataset.file_meta = None, pydicom.dataset.FileMetaDataset()
    source = tmp_path / "bare"
    dataset.save_as(source, implicit_vr=implicit, little_endian=True)
    item = open_only(source)
    expected = pydicom.dcmread(get_testdata_file(name)).pixel_array
    np.testing.assert_array_equal(whole(item.volumes[0])[0], expected)
    (path,) = restored(item, tmp_path / "out")
    assert path.read_bytes() == source.read_bytes()


def test_unused_elements_do_not_confuse(tmp_path, write_series):
    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
    icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit, icon.PixelRepresentation = 7, 0
    icon.PixelData = bytes(16)
    icon["PixelData"].VR = "OB"
    values = write_series(tmp_path, IconImageSequence=[icon])
    np.testing.assert_array_equal(whole(open_only(tmp_path).volumes[0]), values)
