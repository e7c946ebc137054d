"""Per-frame facts of a DICOM data set: geometry, scaling, and what tells frames apart.

Classic single and multi-frame objects keep them at the top of the data set, enhanced ones in
functional groups, dose grids and nuclear medicine in vectors; all come out as ``Frame`` records.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.dicom.terms import known_image_type

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "NM_VECTORS",
    "Frame",
    "FrameSet",
    "dose_positions",
    "frame_count",
    "number",
    "numbers",
    "plain_frame",
    "read_frames",
    "text",
    "without_scale",
]


@dataclass(frozen=True)
class Frame:
    """Geometry, scaling and kind of one frame; None where the file does not say.

    Attributes
    ----------
    traits : tuple of (name, value)
        What may tell frames at one place apart, as text, by the standard's keyword.
    order : int or None
        InstanceNumber of a single-frame file, else the number of the frame.
    clock : float or None
        Seconds; only differences mean something.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    traits: tuple[tuple[str, str], ...]
    order: int | None = None
    clock: float | None = None


@dataclass(frozen=True)
class FrameSet:
    """Frames of a file; whether they have places along z; whether functional groups say so."""

    frames: tuple[Frame, ...]
    stacked: bool
    enhanced: bool
    times_ms: tuple[float, ...] | None = None


# Vectors of nuclear medicine (PS3.3 C.8.4.8) and the axis that each counts along.
NM_VECTORS = {
    "EnergyWindowVector": "energy_window",
    "DetectorVector": "detector",
    "PhaseVector": "phase",
    "RotationVector": "rotation",
    "RRIntervalVector": "rr_interval",
    "TimeSlotVector": "time_slot",
    "AngularViewVector": "angular_view",
    "TimeSliceVector": "time_slice",
    "SliceVector": "slice",
}

_PLAIN_TRAITS = (
    "FrameOfReferenceUID",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionGradientOrientation",
    "InversionTime",
    "TriggerTime",
    "AcquisitionNumber",
    "FrameReferenceTime",
)
_PRIVATE_B_VALUES = (  # group, creator, element: where scanners keep the b-value
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
_GE_OFFSET = 1e9  # GE adds it to b-values of multi-directional scans


def frame_count(dataset: Dataset) -> int:
    """Give NumberOfFrames, 1 when it is absent or empty; it may be any number."""
    value = dataset.get("NumberOfFrames")
    return 1 if value is None or value == "" else int(value)


def read_frames(dataset: Dataset) -> FrameSet:
    """Give the frames of a data set whose number of frames has been checked."""
    count = frame_count(dataset)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) == count:
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
        frames = tuple(_functional_frame(dataset, shared, g, i) for i, g in enumerate(groups))
        return FrameSet(frames, all(frame.position is not None for frame in frames), True)
    base = plain_frame(dataset)
    if count == 1 and "SliceVector" not in dataset:
        return FrameSet((base,), base.position is not None, False)
    positions = dose_positions(dataset, base)
    if positions is not None:
        moved = tuple(replace(base, position=p, order=i) for i, p in enumerate(positions))
        return FrameSet(moved, True, False)
    bare = replace(base, position=None, orientation=None, pixel_spacing=None)
    nuclear = _nuclear_frames(dataset, bare, count)
    if nuclear is not None:
        return FrameSet(nuclear, all(frame.position is not None for frame in nuclear), False)
    frames = tuple(replace(bare, order=i) for i in range(count))
    return FrameSet(frames, False, False, _frame_times(dataset, count))


def dose_positions(dataset: Dataset, base: Frame) -> list[tuple[float, ...]] | None:
    """Give the position of each frame of a grid with offsets; None when there is no such grid.

    PS3.3 C.8.8.3.2: offsets that begin with 0 count from ImagePositionPatient along the normal;
    offsets of an axial grid that begin with its z are z coordinates.
    """
    offsets = numbers(dataset, "GridFrameOffsetVector", frame_count(dataset))
    if offsets is None or base.position is None or base.orientation is None:
        return None
    normal = np.cross(base.orientation[:3], base.orientation[3:])
    if offsets[0] == 0:
        return [tuple((np.array(base.position) + normal * step).tolist()) for step in offsets]
    axial = np.allclose(np.abs(base.orientation), (1, 0, 0, 0, 1, 0), atol=1e-4)
    if axial and abs(offsets[0] - base.position[2]) <= 1e-3 + 1e-6 * abs(offsets[0]):
        return [(*base.position[:2], z) for z in offsets]
    return None


def _frame_times(dataset: Dataset, count: int) -> tuple[float, ...] | None:
    """Time of each frame from the first, in ms, of cine and other sequences."""
    steps = numbers(dataset, "FrameTimeVector", count)
    if steps is not None and count > 1:
        times = np.cumsum([0.0, *steps[1:]])
        return tuple(times.tolist())
    step = number(dataset, "FrameTime")
    return tuple((np.arange(count) * step).tolist()) if step and count > 1 else None


def _nuclear_frames(dataset: Dataset, bare: Frame, count: int) -> tuple[Frame, ...] | None:
    """Frames of nuclear medicine: its vectors as traits, and places of reconstructed slices."""
    vectors = {name: v for name in NM_VECTORS if (v := numbers(dataset, name, count)) is not None}
    if not vectors:
        return None
    detectors = dataset.get("DetectorInformationSequence") or [dataset]
    place = numbers(detectors[0], "ImagePositionPatient", 3)
    orientation = numbers(detectors[0], "ImageOrientationPatient", 6)
    step = number(dataset, "SpacingBetweenSlices") or number(dataset, "SliceThickness")
    located = bool(place and orientation and step and "SliceVector" in vectors)
    frames = []
    for i in range(count):
        traits = tuple(
            (name, str(int(vector[i])))
            for name, vector in vectors.items()
            if name != "SliceVector" or not located
        )
        frame = replace(bare, traits=traits, order=i)
        if located:
            assert place is not None and orientation is not None and step is not None
            normal = np.cross(orientation[:3], orientation[3:])
            moved = np.array(place) + normal * step * (vectors["SliceVector"][i] - 1)
            spacing = numbers(dataset, "PixelSpacing", 2)
            frame = replace(
                frame,
                position=tuple(moved.tolist()),
                orientation=orientation,
                pixel_spacing=spacing,
            )
        frames.append(frame)
    return tuple(frames)


def plain_frame(dataset: Dataset) -> Frame:
    """Give the frame that the top of a data set describes."""
    traits = [(name, text(dataset, name)) for name in _PLAIN_TRAITS if name in dataset]
    kind = _image_type(dataset.get("ImageType"))
    b_value = _b_value(dataset)
    traits += [("ImageType", kind)] if kind else []
    traits += [("DiffusionBValue", b_value)] if b_value is not None else []
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if number(dataset, "DoseGridScaling") is not None:  # a dose has no other scale (C.8.8.3)
        slope, intercept = number(dataset, "DoseGridScaling"), None
    instance = number(dataset, "InstanceNumber")
    return Frame(
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing=numbers(dataset, "PixelSpacing", 2),
        slope=slope,
        intercept=intercept,
        traits=tuple(traits),
        order=None if instance is None else int(instance),
        clock=_clock(dataset),
    )


def without_scale(frame: Frame) -> Frame:
    """The frame with its values as they are stored."""
    return replace(frame, slope=None, intercept=None)


def _image_type(value: Any) -> str:
    """Join the values of ImageType that the standard or the manufacturers define."""
    if value is None or value == "":
        return ""
    parts = [value] if isinstance(value, str) else [str(part) for part in value]
    known = [known_image_type(part.strip().upper()) for part in parts]
    hidden = [
        "OTHER" if part and not word else word for part, word in zip(parts, known, strict=True)
    ]
    return "/".join(word for word in hidden if word)


def _b_value(dataset: Dataset) -> str | None:
    stated = number(dataset, "DiffusionBValue")
    if stated is not None:
        return f"{stated:g}"
    if text(dataset, "Modality") != "MR":
        return None
    for group, creator, element in _PRIVATE_B_VALUES:
        try:
            value = dataset.private_block(group, creator)[element].value
            first = (
                value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
            )
            if isinstance(first, bytes):
                first = first.split(b"\\")[0].decode("ascii", "replace")
            found = float(str(first).split("\\")[0])
        except (KeyError, ValueError, IndexError, TypeError):
            continue
        return f"{found % _GE_OFFSET:g}"
    return None


def _clock(dataset: Dataset) -> float | None:
    """When the frame was acquired, in seconds."""
    for name in ("AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime"):
        found = _seconds(text(dataset, name)[:8], text(dataset, name)[8:])
        if found is not None:
            return found
    for word in ("Acquisition", "Content"):
        found = _seconds(text(dataset, word + "Date"), text(dataset, word + "Time"))
        if found is not None:
            return found
    return None


def _seconds(day: str, time: str) -> float | None:
    """Turn DICOM date and time of day into seconds; the date may be missing."""
    digits = time.split("+")[0].split("-")[0].replace(":", "")
    try:
        whole, _, rest = digits.partition(".")
        if not whole.isdigit() or len(whole) < 2:
            return None
        padded = whole.ljust(6, "0")
        seconds = int(padded[:2]) * 3600 + int(padded[2:4]) * 60 + int(padded[4:6])
        fraction = float(f"0.{rest}") if rest else 0.0
        days = datetime.datetime.strptime(day, "%Y%m%d").toordinal() if day else 0
    except ValueError:
        return None
    return days * 86400.0 + seconds + fraction


_FUNCTIONAL_TRAITS = (  # sequence of the functional group, element
    ("FrameContentSequence", "StackID"),
    ("SegmentIdentificationSequence", "ReferencedSegmentNumber"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
)
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def _functional_frame(
    dataset: Dataset, shared: Dataset | None, group: Dataset, index: int
) -> Frame:
    def macro(name: str) -> Any:
        for holder in (group, shared):
            if holder is not None and holder.get(name):
                return holder[name].value[0]
        return dataset

    traits = [
        (name, text(macro(sequence), name))
        for sequence, name in _FUNCTIONAL_TRAITS
        if name in macro(sequence)
    ]
    gradient = macro("MRDiffusionSequence").get("DiffusionGradientDirectionSequence")
    if gradient and "DiffusionGradientOrientation" in gradient[0]:
        name = "DiffusionGradientOrientation"
        traits.append((name, text(gradient[0], name)))
    for sequence in _FRAME_TYPES:
        kind = _image_type(macro(sequence).get("FrameType"))
        if kind:
            traits.append(("ImageType", kind))
            break
    scaling = macro("PixelValueTransformationSequence")
    return Frame(
        position=numbers(macro("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_spacing=numbers(macro("PixelMeasuresSequence"), "PixelSpacing", 2),
        slope=number(scaling, "RescaleSlope"),
        intercept=number(scaling, "RescaleIntercept"),
        traits=tuple(traits),
        order=index,
        clock=_clock(macro("FrameContentSequence")),
    )


def text(dataset: Dataset, name: str) -> str:
    """Give an element as stripped text, empty when absent."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


def number(dataset: Dataset, name: str) -> float | None:
    """Give a number, or None when it is absent or unreadable."""
    found = numbers(dataset, name, 1)
    return None if found is None else found[0]


def numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Give ``count`` finite numbers, or None when they are absent or unreadable."""
    try:
        value = dataset.get(name)
        if value is None or value == "":
            return None
        listed = [float(part) for part in (value if hasattr(value, "__len__") else [value])]
    except (ValueError, TypeError):
        return None
    if len(listed) != count or not all(abs(part) < 1e30 for part in listed):
        return None
    return tuple(listed)
