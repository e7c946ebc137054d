"""Volumes of a series: frames in a grid, its geometry, scaling, coordinates and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adapters.base import Coordinate, Volume
from adapters.dicom.axes import Arrangement, AxisValues, arrange, places_of
from adapters.dicom.bits import BitUse, limits_of
from adapters.dicom.frames import Frame
from adapters.dicom.geometry import Stack, along_normal, stack_slices
from adapters.dicom.header import ImageFile
from adapters.dicom.pixels import FrameArray, FramePlace, decoded_colours
from adapters.dicom.segments import arrange_segments
from adapters.dicom.series import has_geometry, same_plane
from adapters.dicom.terms import known_syntax

__all__ = ["Part", "in_order", "parts_of", "volume_of", "volume_record"]


@dataclass(frozen=True)
class Part:
    """Frames of one volume: ``table`` holds numbers into the item's flat list, -1 if absent."""

    name: str
    table: np.ndarray
    dims: tuple[str, ...]
    stack: Stack | None
    row: tuple[int, ...]
    coordinates: tuple[AxisValues, ...]
    notes: tuple[str, ...]

    @property
    def suffix(self) -> str:
        """What tells the axes of one volume of several apart."""
        return self.name[len("image") :]


def in_order(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Sort the files of a series as their first frames come in its volumes."""
    owners = [f for f, image in enumerate(images) for _ in image.frames]
    numbers = [int(n) for part in parts_of(images) for n in part.table.ravel() if n >= 0]
    return [images[f] for f in dict.fromkeys(owners[n] for n in numbers)]


def parts_of(images: Sequence[ImageFile]) -> list[Part]:
    """Arrange all frames of a series' files into volumes."""
    first = images[0]
    frames = [frame for image in images for frame in image.frames]
    if not first.stacked or not all(has_geometry(frame) for frame in frames):
        return [_without_places(first, frames)]
    found = [a for numbers in _planes(frames) for a in _arranged(first, frames, numbers)]
    parts = []
    for number, arrangement in enumerate(found):
        suffix = f"_{number}" if len(found) > 1 else ""
        parts.append(_part(first, frames, arrangement, suffix))
    return parts


def _without_places(image: ImageFile, frames: Sequence[Frame]) -> Part:
    """Frames that have no place in space: a list, or what vectors and times make of it."""
    bare = [replace(frame, position=None) for frame in frames]  # half a place is none
    (found,) = arrange(bare, [range(len(frames))])
    notes = ("no slice positions: no affine",)
    if len(frames) == 1:
        return Part("image", found.table, ("z", "y", "x"), None, (), (), notes)
    table, leads = found.table[..., 0], found.leads
    coordinates = [c for c in found.coordinates if "z" not in c.dims]
    if image.times_ms is not None:
        leads = (*leads[:-1], "time")
        times = np.array(image.times_ms)[: table.shape[-1]]
        coordinates = [c for c in coordinates if c.dims != ("time",)]
        coordinates.append(AxisValues("time", ("time",), times, "ms", "time from the first frame"))
    dims = (*leads, "y", "x")
    return Part("image", table, dims, None, (), tuple(coordinates), notes)


def _planes(frames: Sequence[Frame]) -> list[list[int]]:
    """Group frame numbers by stack, orientation and spacing."""
    planes: list[list[int]] = []
    for i, frame in enumerate(frames):
        stack = dict(frame.traits).get("StackID")
        for plane in planes:
            other = frames[plane[0]]
            if dict(other.traits).get("StackID") == stack and same_plane(other, frame):
                plane.append(i)
                break
        else:
            planes.append([i])
    return planes


def _arranged(
    image: ImageFile, frames: Sequence[Frame], numbers: Sequence[int]
) -> list[Arrangement]:
    if image.segmentation and image.enhanced:
        found = arrange_segments(frames, numbers)
        if found is not None:
            return [found]
    return arrange(frames, places_of(frames, numbers))


def _part(image: ImageFile, frames: Sequence[Frame], found: Arrangement, suffix: str) -> Part:
    axes = (*found.leads, *(("z",) if found.spatial else ()))
    coordinates = tuple(
        replace(c, dims=tuple(dim + suffix for dim in c.dims), name=_named(c, axes, suffix))
        for c in found.coordinates
    )
    dims = (*(axis + suffix for axis in axes), "y", "x")
    columns = found.table.reshape(-1, found.table.shape[-1]).T
    row = tuple(next((int(n) for n in column if n >= 0), -1) for column in columns)
    notes, stack = found.notes, None
    if image.unreadable_mosaic:
        notes = (
            *notes,
            "Siemens mosaic without a readable CSA header: kept as a sheet of tiles, no affine",
        )
    elif found.spatial:
        stack = _stack(image, frames, row)
        notes = (*notes, *stack.notes())
    return Part("image" + suffix, found.table, dims, stack, row, coordinates, notes)


def _named(coordinate: AxisValues, axes: tuple[str, ...], suffix: str) -> str:
    """An axis and its own coordinate keep one name."""
    return coordinate.name + suffix if coordinate.name in axes else coordinate.name


def _stack(image: ImageFile, frames: Sequence[Frame], row: Sequence[int]) -> Stack:
    known = [z for z, n in enumerate(row) if n >= 0]
    positions = np.array([frames[row[z]].position for z in known], np.float64)
    every = np.arange(len(row))
    filled = np.column_stack([np.interp(every, known, positions[:, axis]) for axis in range(3)])
    first = frames[row[known[0]]]
    spacing = first.pixel_spacing or (1.0, 1.0)
    return stack_slices(filled, first.orientation or (), (spacing[0], spacing[1]), image.nominal_mm)


def volume_of(
    part: Part,
    images: Sequence[ImageFile],
    places: Sequence[Sequence[FramePlace]],
    uses: Sequence[BitUse],
    padding: tuple[float | int, ...],
) -> Volume:
    """Make the volume of a part.

    Parameters
    ----------
    part : Part
    images : sequence of ImageFile
    places : sequence of sequences of FramePlace
        Per sample the places of all frames of the item.
    uses : sequence of BitUse
        Per file.
    padding : tuple of numbers
    """
    first = images[0]
    frames = [frame for image in images for frame in image.frames]
    numbers = [int(n) for n in part.table.ravel()]
    chosen = [frames[n] if n >= 0 else None for n in numbers]
    slopes = [frame.slope if frame else None for frame in chosen]
    intercepts = [frame.intercept if frame else None for frame in chosen]
    attrs = _attrs(part, images, uses)
    uniform = len(set(slopes)) == len(set(intercepts)) == 1
    if not first.nonlinear and not uniform:
        shape = part.table.shape
        attrs["slice_slope"] = np.array([1.0 if s is None else s for s in slopes])
        attrs["slice_slope"] = attrs["slice_slope"].reshape(shape).tolist()
        attrs["slice_intercept"] = np.array([i or 0.0 for i in intercepts]).reshape(shape).tolist()
    plain = uniform and not first.nonlinear
    return Volume(
        name=part.name,
        array=FrameArray(
            places=tuple(planes[n] if n >= 0 else None for planes in places for n in numbers),
            shape=(*samples_axis(first), *part.table.shape, first.rows, first.columns),
            type_name=uses[0].dtype,
        ),
        dims=(*("sample" for _ in samples_axis(first)), *part.dims),
        affine=part.stack.affine if part.stack else None,
        spacing_mm=part.stack.spacing_mm if part.stack else None,
        unit=None if first.nonlinear else _unit(first),
        slope=slopes[0] if plain else None,
        intercept=intercepts[0] if plain else None,
        special_values=padding,
        coordinates=_coordinates(part, frames, first),
        attrs=attrs,
        exact_only=first.exact_only,
        limits=limits_of(uses[0]),
    )


def _unit(image: ImageFile) -> str | None:
    """Unit of the values after scaling."""
    if image.real_world is not None and image.real_world.scales:
        return image.real_world.unit
    return image.unit


def samples_axis(image: ImageFile) -> tuple[int, ...]:
    """Give the length of the axis of samples; nothing for grey images, which have none."""
    return (image.samples,) if image.samples > 1 else ()


def _attrs(part: Part, images: Sequence[ImageFile], uses: Sequence[BitUse]) -> dict[str, Any]:
    first = images[0]
    attrs: dict[str, Any] = {
        "modality": first.modality,
        "photometric_interpretation": decoded_colours(first) or first.photometric,
        "bits_allocated": first.bits_allocated,
        "bits_stored": first.bits_stored,
        "high_bits": "kept" if any(use.planes for use in uses) else "by rule",
        "transfer_syntaxes": sorted({known_syntax(image.transfer_syntax) for image in images}),
        "lossy_before": any(image.lossy_before for image in images),
    }
    frames = [frame for image in images for frame in image.frames]
    if first.segmentation:
        attrs |= _segments(part, frames, first)
    if part.stack is not None:
        row = [frames[n] for n in part.row if n >= 0]
        attrs["slice_spacing"] = "irregular" if part.stack.affine is None else "regular"
        attrs["image_positions_lps_mm"] = [list(frame.position or ()) for frame in row]
        attrs["image_orientation_lps"] = list(row[0].orientation or ())
        attrs["pixel_spacing_mm"] = list(row[0].pixel_spacing or ())
        attrs["gantry_tilt_degrees"] = round(part.stack.tilt_degrees, 4)
    return attrs


def _segments(part: Part, frames: Sequence[Frame], image: ImageFile) -> dict[str, Any]:
    """What a segmentation says of its segments; the number of one that is alone has no axis."""
    attrs: dict[str, Any] = dict(image.segmentation_facts)
    if image.segment_labels:
        attrs["segment_numbers"] = [value for value, _ in image.segment_labels]
        attrs["segment_labels"] = [label for _, label in image.segment_labels]
    numbers = {
        dict(frames[n].traits).get("ReferencedSegmentNumber") for n in part.table.ravel() if n >= 0
    }
    alone = numbers.pop() if len(numbers) == 1 else None
    return attrs | ({"segment": int(alone)} if alone is not None and alone.isdigit() else {})


def _coordinates(part: Part, frames: Sequence[Frame], image: ImageFile) -> tuple[Coordinate, ...]:
    made = [_coordinate(known) for known in part.coordinates]
    labels = dict(image.segment_labels)
    for known in part.coordinates if labels else ():
        if known.meaning == "segment number":
            texts = np.array([labels.get(int(v), "") for v in known.values.flat], np.str_)
            meaning = {"long_name": "segment label"}
            name = "segment_label" + part.suffix
            made.append(Coordinate(name, known.dims, texts.reshape(known.values.shape), meaning))
    if part.stack is not None or "frame" + part.suffix in part.dims:
        meaning = {"units": "mm", "long_name": "position along the slice normal"}
        dim = part.dims[-3]
        if part.stack is not None:
            distances = part.stack.distances_mm
        elif part.row and frames[part.row[0]].orientation is not None:
            row = [frames[n] for n in part.row]
            positions = np.array([frame.position for frame in row])
            distances = along_normal(positions, row[0].orientation or ())
        else:
            return tuple(made)
        name = "slice_position" + part.suffix
        made.append(Coordinate(name, (dim,), np.asarray(distances), meaning))
    return tuple(made)


def _coordinate(known: AxisValues) -> Coordinate:
    attrs = {"long_name": known.meaning}
    if known.unit is not None:
        attrs = {"units": known.unit, **attrs}
    return Coordinate(known.name, known.dims, known.values, attrs)


def volume_record(part: Part, images: Sequence[ImageFile]) -> dict[str, Any]:
    """Give what the archive keeps of a volume: name, shape, and file and frame of every plane."""
    owners = [(f, i) for f, image in enumerate(images) for i in range(len(image.frames))]
    first = images[0]
    return {
        "name": part.name,
        "shape": [*samples_axis(first), *part.table.shape, first.rows, first.columns],
        "frames": [list(owners[n]) if n >= 0 else None for n in part.table.ravel()],
    }
