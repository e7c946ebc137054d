"""Per-frame facts of a DICOM data set: geometry, scaling, and what tells frames apart.

Classic single and multi-frame objects keep them at the top of the data set, enhanced ones in
functional groups; both come out as ``Frame`` records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Frame", "number", "numbers", "read_frames", "text"]


@dataclass(frozen=True)
class Frame:
    """Geometry, scaling and kind of one frame; None where the file does not say."""

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    traits: tuple[tuple[str, str], ...]


def read_frames(dataset: Dataset) -> tuple[tuple[Frame, ...], bool, bool]:
    """Give the frames, whether they stack along z, and whether functional groups say so."""
    count = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) == count:
        shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
        frames = tuple(_functional_frame(dataset, shared[0], group) for group in groups)
        return frames, all(frame.position is not None for frame in frames), True
    base = _plain_frame(dataset)
    if count == 1:
        return (base,), base.position is not None, False
    offsets = numbers(dataset, "GridFrameOffsetVector", count)
    if offsets is None or base.position is None or base.orientation is None or offsets[0] != 0:
        bare = Frame(None, None, None, base.slope, base.intercept, base.traits)
        return (bare,) * count, False, False
    return tuple(_shifted(base, offset) for offset in offsets), True, False


def _shifted(frame: Frame, offset: float) -> Frame:
    assert frame.position is not None and frame.orientation is not None
    a, b = frame.orientation[:3], frame.orientation[3:]
    normal = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    moved = tuple(p + offset * n for p, n in zip(frame.position, normal, strict=True))
    return Frame(
        moved, frame.orientation, frame.pixel_spacing, frame.slope, frame.intercept, frame.traits
    )


_PLAIN_TRAITS = (
    "FrameOfReferenceUID",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "ImageType",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TriggerTime",
    "CardiacNumberOfImages",
    "AcquisitionNumber",
    "AcquisitionTime",
    "FrameReferenceTime",
    "ContentTime",
)


def _plain_frame(dataset: Dataset) -> Frame:
    traits = tuple((name, text(dataset, name)) for name in _PLAIN_TRAITS if name in dataset)
    return Frame(
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing=numbers(dataset, "PixelSpacing", 2),
        slope=number(dataset, "RescaleSlope"),
        intercept=number(dataset, "RescaleIntercept"),
        traits=traits,
    )


def _functional_frame(dataset: Dataset, shared: Dataset | None, group: Dataset) -> Frame:
    def macro(name: str) -> Any:
        for holder in (group, shared):
            if holder is not None and holder.get(name):
                return holder[name].value[0]
        return dataset

    content = macro("FrameContentSequence")
    traits = [
        (name, text(content, name))
        for name in ("StackID", "TemporalPositionIndex")
        if name in content
    ]
    for sequence, name in (
        ("MREchoSequence", "EffectiveEchoTime"),
        ("MRDiffusionSequence", "DiffusionBValue"),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ):
        if name in macro(sequence):
            traits.append((name, text(macro(sequence), name)))
    scaling = macro("PixelValueTransformationSequence")
    return Frame(
        position=numbers(macro("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_spacing=numbers(macro("PixelMeasuresSequence"), "PixelSpacing", 2),
        slope=number(scaling, "RescaleSlope"),
        intercept=number(scaling, "RescaleIntercept"),
        traits=tuple(traits),
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
