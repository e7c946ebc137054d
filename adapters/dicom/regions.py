"""What lies in an image and moves with a cut: overlays, ultrasound regions, shutters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adapters.dicom.frames import number, numbers

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["move_overlays", "move_regions", "move_shutters", "overlay_frames"]

Box = tuple[int, int, int, int]
_OVERLAYS = range(0x6000, 0x6020, 2)
_ROWS, _COLUMNS, _FRAMES = 0x0010, 0x0011, 0x0015
_ORIGIN, _FRAME_ORIGIN, _BIT, _DATA = 0x0050, 0x0051, 0x0102, 0x3000


def move_overlays(dataset: Dataset, box: Box) -> None:
    """Move overlays to the new first pixel; one inside the pixel words takes the image's size."""
    first_row, end_row, first_column, end_column = box
    for group in _OVERLAYS:
        inside = (group, _BIT) in dataset and (group, _DATA) not in dataset
        if inside:
            for element, size in (
                (_ROWS, end_row - first_row),
                (_COLUMNS, end_column - first_column),
            ):
                if (group, element) in dataset:
                    dataset[group, element].value = size
        elif (group, _ORIGIN) in dataset:
            origin = dataset[group, _ORIGIN].value
            moved = [int(origin[0]) - first_row, int(origin[1]) - first_column]
            dataset[group, _ORIGIN].value = moved


def overlay_frames(dataset: Dataset, frames: Sequence[int], count: int) -> None:
    """Keep the frames of multi-frame overlays that lie on the frames that stay."""
    for group in _OVERLAYS:
        if (group, _FRAMES) not in dataset:
            continue
        total = int(dataset[group, _FRAMES].value or 1)
        first = (
            int(dataset[group, _FRAME_ORIGIN].value) - 1 if (group, _FRAME_ORIGIN) in dataset else 0
        )
        kept = [k for k, frame in enumerate(frames) if 0 <= frame - first < total]
        if not kept:
            for element in [e for e in dataset if e.tag.group == group]:
                del dataset[element.tag]
            continue
        if (group, _DATA) in dataset:
            _keep_bits(dataset, group, [frames[k] - first for k in kept], total)
        dataset[group, _FRAMES].value = len(kept)
        if (group, _FRAME_ORIGIN) in dataset:
            dataset[group, _FRAME_ORIGIN].value = kept[0] + 1


def _keep_bits(dataset: Dataset, group: int, frames: Sequence[int], total: int) -> None:
    size = int(dataset[group, _ROWS].value) * int(dataset[group, _COLUMNS].value)
    data = np.frombuffer(dataset[group, _DATA].value, np.uint8)
    bits = np.unpackbits(data, bitorder="little")
    if len(bits) < total * size:
        return
    kept = np.concatenate([bits[k * size : (k + 1) * size] for k in frames])
    packed = np.packbits(kept, bitorder="little").tobytes()
    dataset[group, _DATA].value = packed + b"\0" * (len(packed) % 2)


def move_regions(dataset: Dataset, box: Box) -> None:
    """Cut ultrasound regions to the box (PS3.3 C.8.5.5); those outside of it go.

    The reference pixel counts from a region's corner, so it moves where that corner is cut off.
    """
    first_row, end_row, first_column, end_column = box
    regions = dataset.get("SequenceOfUltrasoundRegions")
    if not regions:
        return
    kept = []
    for region in regions:
        names = [
            f"RegionLocation{end}{axis}{k}" for end, k in (("Min", 0), ("Max", 1)) for axis in "XY"
        ]
        corners = [number(region, name) for name in names]
        if None in corners:
            continue
        left, top, right, bottom = (int(value or 0) for value in corners)
        if right < first_column or bottom < first_row or left >= end_column or top >= end_row:
            continue
        cut_left, cut_top = max(left, first_column), max(top, first_row)
        for name, change in (
            ("ReferencePixelX0", left - cut_left),
            ("ReferencePixelY0", top - cut_top),
        ):
            if name in region:
                setattr(region, name, int(region[name].value) + change)
        region.RegionLocationMinX0, region.RegionLocationMinY0 = (
            cut_left - first_column,
            cut_top - first_row,
        )
        region.RegionLocationMaxX1 = min(right, end_column - 1) - first_column
        region.RegionLocationMaxY1 = min(bottom, end_row - 1) - first_row
        kept.append(region)
    if kept:
        dataset.SequenceOfUltrasoundRegions = kept
    else:
        del dataset.SequenceOfUltrasoundRegions


_EDGES = {  # edge -> whether it counts columns; counted from 1 (PS3.3 C.7.6.11)
    "LeftVerticalEdge": True,
    "RightVerticalEdge": True,
    "UpperHorizontalEdge": False,
    "LowerHorizontalEdge": False,
}


def move_shutters(dataset: Dataset, box: Box) -> None:
    """Move the edges of display shutters and collimators, which count rows and columns."""
    first_row, first_column = box[0], box[2]
    for kind in ("Shutter", "Collimator"):
        for edge, across in _EDGES.items():
            name = kind + edge
            if name in dataset and number(dataset, name) is not None:
                value = int(number(dataset, name) or 0)
                setattr(dataset, name, value - (first_column if across else first_row))
        center = numbers(dataset, f"CenterOfCircular{kind}", 2)
        if center is not None:
            moved = [int(center[0]) - first_row, int(center[1]) - first_column]
            setattr(dataset, f"CenterOfCircular{kind}", moved)
        name = f"VerticesOfThePolygonal{kind}"
        vertices = [int(v) for v in dataset.get(name) or ()]
        if len(vertices) >= 6 and len(vertices) % 2 == 0:
            starts = (first_row, first_column)
            setattr(dataset, name, [v - starts[i % 2] for i, v in enumerate(vertices)])
