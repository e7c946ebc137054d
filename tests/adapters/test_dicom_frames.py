"""Frames that share a file: more than were stated, stopped scans, segments, detectors."""

import numpy as np
import pydicom
import pytest
from opened_items import coordinates, open_only, restored, whole
from pydicom.dataset import Dataset

from tests.adapters.conftest import AXIAL, base_dataset, save

RANDOM = np.random.default_rng(22)


def test_frames_beyond_the_stated_number_are_kept_with_a_note(tmp_path):
    frames = RANDOM.integers(0, 999, (3, 18, 20)).astype(np.uint16)
    save(base_dataset(frames, NumberOfFrames=2), tmp_path / "in" / "a.dcm")
    item = open_only(tmp_path / "in")
    np.testing.assert_array_equal(whole(item.volumes[0]), frames[:2])
    assert any("hold more than the header's frames" in note for note in item.notes)
    (path,) = restored(item, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "in" / "a.dcm").read_bytes()


def enhanced_places(counts, **traits):
    return [
        (AXIAL, (0, 0, 2.0 * z), {"TemporalPositionIndex": t + 1, **traits})
        for t, slices in enumerate(counts)
        for z in range(slices)
    ]


@pytest.mark.parametrize("counts", [(4, 4, 2), (4, 3)])
def test_a_stopped_scan_keeps_its_complete_volumes(tmp_path, write_enhanced, counts):
    values = write_enhanced(tmp_path / "in" / "e.dcm", enhanced_places(counts))
    item = open_only(tmp_path / "in")
    first, rest = item.volumes
    full = len(counts) - 1
    np.testing.assert_array_equal(whole(first).reshape(-1, 18, 20), values[: 4 * full])
    np.testing.assert_array_equal(whole(rest), values[4 * full :])
    assert first.affine is not None and any("not finished" in note for note in item.notes)
    (path,) = restored(item, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "in" / "e.dcm").read_bytes()


def test_enhanced_frames_have_slopes_echoes_and_triggers(tmp_path, write_enhanced):
    places = [(AXIAL, (0, 0, 2.0 * z), {}) for e in range(2) for z in range(3)]
    write_enhanced(tmp_path / "e.dcm", places)
    dataset = pydicom.dcmread(tmp_path / "e.dcm")
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        echo, scaling = Dataset(), Dataset()
        echo.EffectiveEchoTime = [12.5, 80.0][k // 3]
        scaling.RescaleSlope, scaling.RescaleIntercept = k + 1, -k
        group.MREchoSequence, group.PixelValueTransformationSequence = [echo], [scaling]
    dataset.save_as(tmp_path / "e.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.dims == ("echo", "z", "y", "x")
    assert list(coordinates(volume)["echo_time"].values) == [12.5, 80.0]
    assert volume.attrs["slice_slope"] == [[1, 2, 3], [4, 5, 6]]
    assert volume.attrs["slice_intercept"] == [[0, -1, -2], [-3, -4, -5]]


@pytest.mark.parametrize(
    ("kinds", "modality", "unit"),
    [
        (("HU",), "CT", "HU"),
        ((None,), "CT", "HU"),
        (("US",), "CT", None),
        (("HU", "HU", "HU"), "CT", "HU"),
        (("HU", "ED", "HU"), "CT", None),
        ((None,), "MR", None),
    ],
)
def test_enhanced_values_have_the_unit_that_all_frames_state(
    tmp_path, write_enhanced, kinds, modality, unit
):
    """One scaling for all frames, or one of each; without a type the values of CT are in HU."""
    write_enhanced(tmp_path / "e.dcm", [(AXIAL, (0, 0, 2.0 * z), {}) for z in range(3)])
    dataset = pydicom.dcmread(tmp_path / "e.dcm")
    dataset.Modality = modality
    shared, groups = (
        dataset.SharedFunctionalGroupsSequence,
        (dataset.PerFrameFunctionalGroupsSequence),
    )
    for kind, group in zip(kinds, shared if len(kinds) == 1 else groups, strict=True):
        scaling = Dataset()
        scaling.RescaleSlope, scaling.RescaleIntercept = 1, -1024
        if kind is not None:
            scaling.RescaleType = kind
        group.PixelValueTransformationSequence = [scaling]
    dataset.save_as(tmp_path / "e.dcm")
    (volume,) = open_only(tmp_path).volumes
    assert volume.unit == unit


def write_segments(path, cells, *, bits=1):
    """A segmentation with one frame per (segment, z); gives its frames."""
    frames = RANDOM.integers(0, 2, (len(cells), 16, 24)).astype(np.uint8)
    if bits == 8:
        frames *= RANDOM.integers(1, 256, frames.shape).astype(np.uint8)
    dataset = base_dataset(frames, NumberOfFrames=len(cells), Modality="SEG")
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.SegmentationType = "BINARY" if bits == 1 else "FRACTIONAL"
    if bits == 1:
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.HighBit = 0
        packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
        dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    del dataset.PixelSpacing, dataset.SliceThickness
    labels = []
    for number, label in ((1, "Liver"), (2, "Milz ä"), (3, "Kidney")):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, label
        labels.append(segment)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SegmentSequence = labels
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 2.0
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for segment, z in cells:
        group, place, which = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [1.0, 2.0, 2.0 * z]
        which.ReferencedSegmentNumber = segment
        group.PlanePositionSequence, group.SegmentIdentificationSequence = [place], [which]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    save(dataset, path)
    return frames


@pytest.mark.parametrize("bits", [1, 8])
def test_sparse_segments_fill_a_grid_and_come_back_sparse(tmp_path, bits):
    cells = [(1, 0), (1, 1), (2, 1), (2, 4), (3, 0), (3, 5)]
    frames = write_segments(tmp_path / "in" / "s.dcm", cells, bits=bits)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("segment", "z", "y", "x") and volume.exact_only is not None
    expected = np.zeros((3, 6, 16, 24), np.uint8)
    for (segment, z), frame in zip(cells, frames, strict=True):
        expected[segment - 1, z] = frame
    np.testing.assert_array_equal(whole(volume), expected)
    assert list(coordinates(volume)["segment_label"].values) == ["Liver", "Milz ä", "Kidney"]
    assert list(coordinates(volume)["segment"].values) == [1, 2, 3]
    np.testing.assert_allclose(volume.affine @ [5, 1, 1, 1], [-1 - 0.7, -2 - 0.8, 10, 1])
    (path,) = restored(item, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "in" / "s.dcm").read_bytes()
    key = {"image": (slice(1, 3), slice(1, 6), slice(2, 9), slice(3, 20))}
    (path,) = restored(item, tmp_path / "cut", key)
    cut = pydicom.dcmread(path)
    assert cut.NumberOfFrames == 3
    np.testing.assert_array_equal(cut.pixel_array, frames[[2, 3, 5], 2:9, 3:20])


def write_nuclear(path, vectors, **elements):
    """A nuclear medicine object whose frames are counted by vectors."""
    count = len(next(iter(vectors.values())))
    frames = RANDOM.integers(0, 999, (count, 16, 24)).astype(np.uint16)
    dataset = base_dataset(frames, NumberOfFrames=count, Modality="NM", **vectors, **elements)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    del dataset.SliceThickness
    save(dataset, path)
    return frames


def test_detectors_and_energy_windows_are_axes(tmp_path):
    windows, detectors = np.meshgrid([1, 2, 3], [1, 2], indexing="ij")
    items = [Dataset(), Dataset()]
    for k, detector in enumerate(items):
        detector.StartAngle = 90 * k
    frames = write_nuclear(
        tmp_path / "in" / "n.dcm",
        {
            "EnergyWindowVector": windows.ravel().tolist(),
            "DetectorVector": detectors.ravel().tolist(),
        },
        NumberOfEnergyWindows=3,
        NumberOfDetectors=2,
        DetectorInformationSequence=items,
    )
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("energy_window", "detector", "y", "x")
    np.testing.assert_array_equal(whole(volume), frames.reshape(3, 2, 16, 24))
    assert list(coordinates(volume)["detector"].values) == [1, 2]
    key = {"image": (slice(1, 3), slice(1, 2), slice(0, 16), slice(0, 24))}
    (path,) = restored(item, tmp_path / "out", key)
    cut = pydicom.dcmread(path)
    assert list(cut.EnergyWindowVector) == [1, 2] and cut.NumberOfEnergyWindows == 2
    assert list(cut.DetectorVector) == [1, 1] and cut.NumberOfDetectors == 1
    assert [detector.StartAngle for detector in cut.DetectorInformationSequence] == [90]
    np.testing.assert_array_equal(cut.pixel_array, frames[[3, 5]])


def test_reconstructed_slices_have_places_and_move_with_a_cut(tmp_path):
    place = Dataset()
    place.ImagePositionPatient, place.ImageOrientationPatient = [-50, -40, 30], list(AXIAL)
    write_nuclear(
        tmp_path / "in" / "n.dcm",
        {"SliceVector": [1, 2, 3, 4, 5]},
        NumberOfSlices=5,
        SpacingBetweenSlices=-4.0,
        DetectorInformationSequence=[place],
    )
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("z", "y", "x")
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [50, 40, 14, 1])
    np.testing.assert_allclose(volume.affine @ [4, 1, 1, 1], [50 - 0.7, 40 - 0.8, 30, 1])
    key = {"image": (slice(0, 3), slice(2, 9), slice(3, 20))}
    (path,) = restored(item, tmp_path / "out", key)
    cut = pydicom.dcmread(path)
    assert list(cut.SliceVector) == [1, 2, 3] and cut.NumberOfSlices == 3
    again = open_only(tmp_path / "out").volumes[0]
    np.testing.assert_allclose(again.affine @ [0, 0, 0, 1], volume.affine @ [0, 2, 3, 1])
    np.testing.assert_array_equal(whole(again), volume.array[key["image"]])
