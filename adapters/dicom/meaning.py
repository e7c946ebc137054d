"""What values of parametric maps and segmentations mean, where a data set says it in its own way.

A parametric map has a real-world value mapping in place of a rescale slope (PS3.3 C.7.6.16.2.11), a
segmentation the names of its segments and what its fractions are (C.8.20.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapters.dicom.frames import Frame, number, text
from adapters.dicom.terms import known_ucum

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["RealWorld", "nominal_thickness", "real_world_of", "segmentation_facts"]

_PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
_SHARED, _EACH = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
_FRACTIONS = ("PROBABILITY", "OCCUPANCY")


@dataclass(frozen=True)
class RealWorld:
    """What the stored values of a parametric map stand for.

    Attributes
    ----------
    scales : tuple of (slope, intercept), or None
        One for each frame; None where some frame has none, or several that may be chosen from.
    unit : str or None
        Where all frames have the same one.
    """

    scales: tuple[tuple[float, float], ...] | None
    unit: str | None

    def over(self, frames: Sequence[Frame]) -> RealWorld:
        """The same, without scales where frames have some of their own that change values.

        The standard asks for one that changes nothing beside it.
        """
        plain = all(f.slope in (None, 1.0) and f.intercept in (None, 0.0) for f in frames)
        return self if plain else RealWorld(None, None)

    def applied(self, frames: Sequence[Frame]) -> tuple[Frame, ...]:
        """The frames with these scales; one that changes nothing is none."""
        if self.scales is None or set(self.scales) == {(1.0, 0.0)}:
            return tuple(frames)
        return tuple(
            replace(frame, slope=slope, intercept=intercept)
            for frame, (slope, intercept) in zip(frames, self.scales, strict=True)
        )


def real_world_of(dataset: Dataset, frames: Sequence[Frame]) -> RealWorld | None:
    """Give the mapping of a parametric map with these frames; None of all else."""
    if text(dataset, "SOPClassUID") != _PARAMETRIC_MAP:
        return None
    count = len(frames)
    shared = (dataset.get(_SHARED) or [None])[0]
    groups = list(dataset.get(_EACH) or [])
    groups = groups if len(groups) == count else [None] * count
    found = [_mapping(group, shared) for group in groups]
    units = {unit for _, unit in found}
    scales = tuple(scale for scale, _ in found if scale is not None)
    unit = units.pop() if len(units) == 1 else None
    return RealWorld(scales if len(scales) == count else None, unit).over(frames)


def _mapping(
    group: Dataset | None, shared: Dataset | None
) -> tuple[tuple[float, float] | None, str | None]:
    """Scale and unit of one frame, where there is one linear mapping."""
    name = "RealWorldValueMappingSequence"
    holder = next((h for h in (group, shared) if h is not None and h.get(name)), None)
    items = holder[name].value if holder is not None else []
    if len(items) != 1:
        return None, None
    slope = number(items[0], "RealWorldValueSlope")
    intercept = number(items[0], "RealWorldValueIntercept")
    codes = items[0].get("MeasurementUnitsCodeSequence")
    unit = known_ucum(text(codes[0], "CodeValue")) if codes else None
    if slope is None or intercept is None:
        return None, None
    return (slope, intercept), unit


def nominal_thickness(dataset: Dataset) -> float | None:
    """Thickness of a slice in mm, or the distance of slices, of the data set or its groups."""
    groups = [group for name in (_SHARED, _EACH) for group in (dataset.get(name) or [])[:1]]
    measures = [group.get("PixelMeasuresSequence") for group in groups]
    for holder in (dataset, *(sequence[0] for sequence in measures if sequence)):
        found = number(holder, "SliceThickness") or number(holder, "SpacingBetweenSlices")
        if found:
            return found
    return None


def segmentation_facts(dataset: Dataset) -> tuple[tuple[str, Any], ...]:
    """What a segmentation says of all of its values, by the name of an attribute."""
    facts: list[tuple[str, Any]] = []
    kind, fraction = text(dataset, "SegmentationType"), text(dataset, "SegmentationFractionalType")
    most = number(dataset, "MaximumFractionalValue")
    if kind in _TYPES:
        facts.append(("segmentation_type", kind))
    if kind == "FRACTIONAL" and fraction in _FRACTIONS:
        facts.append(("segmentation_fractional_type", fraction))
    if kind == "FRACTIONAL" and most is not None:
        facts.append(("maximum_fractional_value", int(most)))
    return tuple(facts)
