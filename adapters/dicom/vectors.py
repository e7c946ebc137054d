"""Elements with one value per frame, and what they count: kept for the frames that stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.dicom.frames import number, numbers

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["keep_in_vectors"]

_PER_FRAME = (  # any value, one per frame
    "FrameLabelVector",
    "FramePrimaryAngleVector",
    "FrameSecondaryAngleVector",
    "SliceLocationVector",
    "DisplayWindowLabelVector",
    "RWaveTimeVector",
    "PositionerPrimaryAngleIncrement",
    "PositionerSecondaryAngleIncrement",
    "TableVerticalIncrement",
    "TableLongitudinalIncrement",
    "TableLateralIncrement",
    "ImageTriggerDelay",
)
_COUNTED = {  # vector of numbers from 1 -> (how many there are, what describes each of them)
    "EnergyWindowVector": ("NumberOfEnergyWindows", "EnergyWindowInformationSequence"),
    "DetectorVector": ("NumberOfDetectors", "DetectorInformationSequence"),
    "PhaseVector": ("NumberOfPhases", "PhaseInformationSequence"),
    "RotationVector": ("NumberOfRotations", "RotationInformationSequence"),
    "RRIntervalVector": ("NumberOfRRIntervals", None),
    "TimeSlotVector": ("NumberOfTimeSlots", None),
    "AngularViewVector": (None, None),
    "SliceVector": ("NumberOfSlices", None),
    "TimeSliceVector": ("NumberOfTimeSlices", None),
}
_FRAME_NUMBERS = ("RepresentativeFrameNumber", "FrameNumbersOfInterest")
_OF_ALL_FRAMES = ("MaskSubtractionSequence", "StartTrim", "StopTrim", "FrameOfInterestDescription")


def keep_in_vectors(dataset: Dataset, frames: Sequence[int], count: int) -> None:
    """Keep the entries of some frames, ascending, in everything that has one per frame."""
    for name in _PER_FRAME:
        element = dataset.get(name)
        if element is not None and not isinstance(element, str) and _length(element) == count:
            setattr(dataset, name, [element[i] for i in frames])
    _keep_times(dataset, frames, count)
    for name, (total, described) in _COUNTED.items():
        vector = numbers(dataset, name, count)
        if vector is not None:
            _recount(dataset, name, [int(vector[i]) for i in frames], total, described)
    _renumber(dataset, frames)
    for name in _OF_ALL_FRAMES:
        if name in dataset:
            del dataset[name]


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _keep_times(dataset: Dataset, frames: Sequence[int], count: int) -> None:
    """FrameTimeVector holds steps from frame to frame, the first one 0 (PS3.3 C.7.6.5.1.2)."""
    steps = numbers(dataset, "FrameTimeVector", count)
    if steps is None:
        return
    times = np.cumsum([0.0, *steps[1:]])[list(frames)]
    dataset.FrameTimeVector = [_decimal(v) for v in np.diff(times, prepend=times[0])]


def _recount(
    dataset: Dataset, name: str, kept: list[int], total: str | None, described: str | None
) -> None:
    """Number what is left from 1 again, and drop what describes the others."""
    left = sorted(set(kept))
    setattr(dataset, name, [left.index(value) + 1 for value in kept])
    if total is not None:
        setattr(dataset, total, len(left))
    items = dataset.get(described) if described else None
    if items is not None and len(items) >= left[-1] and described is not None:
        setattr(dataset, described, [items[value - 1] for value in left])
    if name == "SliceVector" and left[0] > 1:
        _move_first_slice(dataset, left[0] - 1)
    if name == "AngularViewVector":
        _turn_first_view(dataset, left)


def _move_first_slice(dataset: Dataset, slices: int) -> None:
    """Move the origin of reconstructed slices along the normal."""
    step = number(dataset, "SpacingBetweenSlices") or number(dataset, "SliceThickness")
    for holder in dataset.get("DetectorInformationSequence") or [dataset]:
        place = numbers(holder, "ImagePositionPatient", 3)
        orientation = numbers(holder, "ImageOrientationPatient", 6)
        if place is not None and orientation is not None and step:
            normal = np.cross(orientation[:3], orientation[3:])
            moved = np.array(place) + normal * step * slices
            holder.ImagePositionPatient = [_decimal(v) for v in moved]


def _turn_first_view(dataset: Dataset, left: list[int]) -> None:
    """Begin a rotation at its first view that is left (PS3.3 C.8.4.12)."""
    for rotation in dataset.get("RotationInformationSequence") or []:
        start, step = number(rotation, "StartAngle"), number(rotation, "AngularStep")
        if start is not None and step is not None:
            sign = -1 if str(rotation.get("RotationDirection") or "") == "CW" else 1
            rotation.StartAngle = _decimal((start + sign * step * (left[0] - 1)) % 360)
        if "NumberOfFramesInRotation" in rotation:
            rotation.NumberOfFramesInRotation = len(left)


def _renumber(dataset: Dataset, frames: Sequence[int]) -> None:
    """Renumber references to frames; drop those to frames that are gone."""
    new = {old + 1: k + 1 for k, old in enumerate(frames)}
    for name in _FRAME_NUMBERS:
        value = dataset.get(name)
        if value is None or value == "":
            continue
        listed = list(value) if hasattr(value, "__len__") else [value]
        kept = [new[int(v)] for v in listed if int(v) in new]
        if kept:
            setattr(dataset, name, kept if len(kept) > 1 else kept[0])
        else:
            del dataset[name]


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)
