"""A cut updates every element that speaks of positions or frames."""

import numpy as np
import pydicom
import pytest
from opened_items import EXACT, open_only, whole
from pydicom.dataset import Dataset
from test_dicom_frames import write_segments

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError
from tests.adapters.conftest import AXIAL, base_dataset, save

RANDOM = np.random.default_rng(31)


def cut(item, target, *key):
    (volume,) = item.volumes
    box = tuple(slice(*part) for part in key)
    start = tuple(part.start for part in box)
    part = RestoredVolume(volume.name, volume.array[box], start, volume.array.shape)
    made = adapters.restore_source("dicom", item.document, item.blobs, [part], target, EXACT)
    return pydicom.dcmread(made[0].path)


def write(path, frames, **elements):
    save(base_dataset(frames, NumberOfFrames=len(frames), **elements), path)
    return frames


def frames_of(count, dtype=np.uint16):
    return RANDOM.integers(0, 250, (count, 18, 24)).astype(dtype)


def write_dose(path, offsets, orientation=AXIAL, z=100.0):
    return write(
        path,
        frames_of(len(offsets), np.uint32),
        Modality="RTDOSE",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2",
        ImagePositionPatient=[-10, -20, z],
        ImageOrientationPatient=list(orientation),
        PixelSpacing=[2.0, 3.0],
        GridFrameOffsetVector=offsets,
        FrameIncrementPointer=0x3004000C,
        DoseGridScaling="4.2e-05",
        DoseUnits="GY",
    )


DOSES = {
    "relative": ([0, 3, 6, 9, 12, 15], AXIAL, 100.0, [0, 3, 6]),
    "absolute": ([100, 103, 106, 109, 112, 115], AXIAL, 100.0, [106, 109, 112]),
    "relative, downwards": ([0, -3, -6, -9, -12, -15], AXIAL, 100.0, [0, -3, -6]),
    "absolute, downwards": ([100, 97, 94, 91, 88, 85], AXIAL, 100.0, [94, 91, 88]),
    "relative, coronal": ([0, 3, 6, 9, 12, 15], (1.0, 0, 0, 0, 0, -1.0), 100.0, [0, 3, 6]),
    "relative, prone": ([0, 3, 6, 9, 12, 15], (1.0, 0, 0, 0, -1.0, 0), 0.0, [0, 3, 6]),
}


@pytest.mark.parametrize("name", DOSES)
def test_dose_grids_have_places_units_and_scales_and_cut_in_their_convention(tmp_path, name):
    offsets, orientation, z, expected = DOSES[name]
    frames = write_dose(tmp_path / "in" / "d.dcm", offsets, orientation, z)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.dims == ("z", "y", "x") and volume.unit == "Gy" and volume.slope == 4.2e-5
    normal = np.cross(orientation[:3], orientation[3:])
    absolute = name.startswith("absolute")
    for k, offset in enumerate(offsets):
        place = np.array([-10, -20, z])
        place = np.array([-10, -20, offset]) if absolute else place + normal * offset
        index = {plane.tobytes(): i for i, plane in enumerate(whole(volume))}[frames[k].tobytes()]
        found = volume.affine @ [index, 0, 0, 1]
        np.testing.assert_allclose(found[:3], place * [-1, -1, 1], atol=1e-6)
    first = 2 if np.allclose(whole(volume)[0], frames[0]) else len(offsets) - 5
    made = cut(item, tmp_path / "out", (first, first + 3), (4, 10), (5, 20))
    np.testing.assert_allclose(made.GridFrameOffsetVector, expected)
    again = open_only(tmp_path / "out").volumes[0]
    np.testing.assert_allclose(
        again.affine @ [0, 0, 0, 1], volume.affine @ [first, 4, 5, 1], atol=1e-6
    )
    np.testing.assert_array_equal(made.pixel_array, frames[2:5, 4:10, 5:20])


def test_offsets_of_neither_kind_give_no_places(tmp_path):
    write_dose(tmp_path / "d.dcm", [7, 10, 13, 16, 19, 22])
    (volume,) = open_only(tmp_path).volumes
    assert volume.affine is None and volume.dims == ("frame", "y", "x")


def test_times_between_frames_begin_anew(tmp_path):
    steps = [0, 10, 20, 30, 40, 50]
    write(tmp_path / "in" / "c.dcm", frames_of(6), FrameTimeVector=steps)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    (times,) = volume.coordinates
    assert volume.dims == ("time", "y", "x") and times.attrs["units"] == "ms"
    np.testing.assert_allclose(times.values, np.cumsum(steps))
    made = cut(item, tmp_path / "out", (2, 5), (0, 18), (0, 24))
    np.testing.assert_allclose(made.FrameTimeVector, [0, 30, 40])
    again = open_only(tmp_path / "out").volumes[0].coordinates[0]
    np.testing.assert_allclose(again.values, times.values[2:5] - times.values[2])


def test_numbers_of_frames_and_values_per_frame_follow(tmp_path):
    write(
        tmp_path / "in" / "c.dcm",
        frames_of(6),
        FrameTime=40,
        RepresentativeFrameNumber=4,
        FrameNumbersOfInterest=[1, 3, 5],
        PositionerPrimaryAngleIncrement=[0.0, 1.5, 3.0, 4.5, 6.0, 7.5],
        SliceLocationVector=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    )
    made = cut(open_only(tmp_path / "in"), tmp_path / "out", (2, 6), (0, 18), (0, 24))
    assert made.RepresentativeFrameNumber == 2
    assert list(made.FrameNumbersOfInterest) == [1, 3]
    assert list(made.PositionerPrimaryAngleIncrement) == [3.0, 4.5, 6.0, 7.5]
    assert list(made.SliceLocationVector) == [3.0, 4.0, 5.0, 6.0]
    made = cut(open_only(tmp_path / "in"), tmp_path / "one", (5, 6), (0, 18), (0, 24))
    assert "RepresentativeFrameNumber" not in made and "FrameNumbersOfInterest" not in made


def test_rotations_begin_at_their_first_view(tmp_path):
    turn = Dataset()
    turn.StartAngle, turn.AngularStep, turn.RotationDirection = 350.0, 6.0, "CC"
    turn.NumberOfFramesInRotation = 6
    write(
        tmp_path / "in" / "n.dcm",
        frames_of(6),
        Modality="NM",
        AngularViewVector=[1, 2, 3, 4, 5, 6],
        RotationVector=[1] * 6,
        NumberOfRotations=1,
        RotationInformationSequence=[turn],
    )
    item = open_only(tmp_path / "in")
    assert item.volumes[0].dims == ("angular_view", "y", "x")
    made = cut(item, tmp_path / "out", (2, 5), (0, 18), (0, 24))
    (left,) = made.RotationInformationSequence
    assert (left.StartAngle, left.NumberOfFramesInRotation) == (2.0, 3)
    assert list(made.AngularViewVector) == [1, 2, 3]


def region(left, top, right, bottom):
    found = Dataset()
    found.RegionLocationMinX0, found.RegionLocationMinY0 = left, top
    found.RegionLocationMaxX1, found.RegionLocationMaxY1 = right, bottom
    found.ReferencePixelX0, found.ReferencePixelY0 = 2, 3
    found.PhysicalDeltaX = found.PhysicalDeltaY = 0.05
    return found


def test_ultrasound_regions_are_cut_with_the_image(tmp_path):
    regions = [region(0, 0, 10, 8), region(12, 4, 23, 17), region(0, 14, 3, 17)]
    write(tmp_path / "in" / "u.dcm", frames_of(2), SequenceOfUltrasoundRegions=regions)
    made = cut(open_only(tmp_path / "in"), tmp_path / "out", (0, 2), (2, 12), (5, 20))
    first, second = made.SequenceOfUltrasoundRegions
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1")
    names = (*names, "RegionLocationMaxY1", "ReferencePixelX0", "ReferencePixelY0")
    assert [first[n].value for n in names] == [0, 0, 5, 6, 2 - 5, 3 - 2]
    assert [second[n].value for n in names] == [7, 2, 14, 9, 2, 3]


def test_shutters_move_with_the_image(tmp_path):
    write(
        tmp_path / "in" / "x.dcm",
        frames_of(2),
        ShutterShape=["RECTANGULAR", "POLYGONAL", "CIRCULAR"],
        ShutterLeftVerticalEdge=3,
        ShutterRightVerticalEdge=22,
        ShutterUpperHorizontalEdge=2,
        ShutterLowerHorizontalEdge=17,
        CenterOfCircularShutter=[9, 12],
        VerticesOfThePolygonalShutter=[2, 3, 17, 3, 9, 22],
    )
    made = cut(open_only(tmp_path / "in"), tmp_path / "out", (0, 2), (1, 12), (2, 20))
    assert (made.ShutterLeftVerticalEdge, made.ShutterRightVerticalEdge) == (1, 20)
    assert (made.ShutterUpperHorizontalEdge, made.ShutterLowerHorizontalEdge) == (1, 16)
    assert list(made.CenterOfCircularShutter) == [8, 10]
    assert list(made.VerticesOfThePolygonalShutter) == [1, 1, 16, 1, 8, 20]


def test_overlays_of_several_frames_follow_theirs(tmp_path):
    overlay = RANDOM.integers(0, 2, (3, 5, 7)).astype(np.uint8)
    dataset = base_dataset(frames_of(6), NumberOfFrames=6)
    packed = np.packbits(overlay.reshape(-1), bitorder="little").tobytes()
    for element, vr, value in (
        (0x10, "US", 5),
        (0x11, "US", 7),
        (0x15, "IS", "3"),
        (0x40, "CS", "G"),
        (0x50, "SS", [4, 6]),
        (0x51, "US", 2),
        (0x100, "US", 1),
        (0x102, "US", 0),
        (0x3000, "OW", packed + b"\0" * (len(packed) % 2)),
    ):
        dataset.add_new((0x6000, element), vr, value)
    save(dataset, tmp_path / "in" / "o.dcm")
    item = open_only(tmp_path / "in")
    made = cut(item, tmp_path / "out", (2, 6), (1, 18), (2, 24))
    assert made[0x6000, 0x15].value == 2 and made[0x6000, 0x51].value == 1
    assert list(made[0x6000, 0x50].value) == [3, 4]
    np.testing.assert_array_equal(made.overlay_array(0x6000), overlay[1:])
    made = cut(item, tmp_path / "none", (5, 6), (0, 18), (0, 24))
    assert (0x6000, 0x3000) not in made


def test_a_region_without_any_frame_of_a_segmentation_is_refused(tmp_path, write_enhanced):
    item = open_only(write_sparse(tmp_path / "in" / "s.dcm"))
    (volume,) = item.volumes
    key = (slice(0, 1), slice(1, 2), slice(0, 16), slice(0, 24))
    part = RestoredVolume("image", volume.array[key], (0, 1, 0, 0), volume.array.shape)
    with pytest.raises(SourceError) as caught:
        adapters.restore_source("dicom", item.document, item.blobs, [part], tmp_path / "o", EXACT)
    assert caught.value.kind == "bad-region"


def write_sparse(path):
    write_segments(path, [(1, 0), (1, 2), (2, 1)])
    return path.parent


class Counting:
    """A lazy array that knows the largest slab it was asked for."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        found = self.array[key]
        self.largest = max(self.largest, found.nbytes)
        return found


@pytest.mark.parametrize("lossless", [True, False])
def test_restoring_asks_for_slabs(tmp_path, write_series, monkeypatch, lossless):
    values = RANDOM.integers(0, 999, (24, 32, 40)).astype(np.uint16)
    write_series(tmp_path / "in", values=values)
    frames = RANDOM.integers(0, 999, (24, 32, 40)).astype(np.uint16)
    write(tmp_path / "multi" / "m.dcm", frames)
    monkeypatch.setattr("adapters.dicom.restore._SLAB_BYTES", 4 * 32 * 40 * 2)
    info = RestoreInfo(lossless=lossless, ratio=4.0, method="psc", level=None)
    for name in ("in", "multi"):
        item = open_only(tmp_path / name)
        (volume,) = item.volumes
        lazy = Counting(volume.array)
        part = RestoredVolume("image", lazy, (0, 0, 0), volume.array.shape)
        target = tmp_path / f"{name}-out"
        made = adapters.restore_source("dicom", item.document, item.blobs, [part], target, info)
        assert lazy.largest == 4 * 32 * 40 * 2
        assert [p.name for p in target.iterdir() if p.name.startswith(".")] == []
        found = [pydicom.dcmread(file.path).pixel_array for file in made]
        np.testing.assert_array_equal(np.reshape(found, (24, 32, 40)), whole(volume))
