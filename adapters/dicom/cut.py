"""A cut updates every element of a data set that speaks of positions or frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.dicom.frames import dose_positions, frame_count, numbers, plain_frame
from adapters.dicom.regions import move_overlays, move_regions, move_shutters, overlay_frames
from adapters.dicom.vectors import keep_in_vectors

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["crop", "keep_frames", "one_tile"]


def keep_frames(dataset: Dataset, frames: Sequence[int]) -> None:
    """Keep some frames, ascending, and all that is said of them."""
    count = frame_count(dataset)
    if len(frames) == count:
        return
    dataset.NumberOfFrames = len(frames)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and len(groups) == count:
        dataset.PerFrameFunctionalGroupsSequence = [groups[i] for i in frames]
    _keep_offsets(dataset, frames, count)
    keep_in_vectors(dataset, frames, count)
    overlay_frames(dataset, frames, count)
    if "IconImageSequence" in dataset:
        del dataset.IconImageSequence


def _keep_offsets(dataset: Dataset, frames: Sequence[int], count: int) -> None:
    """Move the origin of a dose grid to its first frame, in the convention that it has."""
    offsets = numbers(dataset, "GridFrameOffsetVector", count)
    if offsets is None:
        return
    dataset.NumberOfFrames = count  # as the offsets need it
    places = dose_positions(dataset, plain_frame(dataset))
    dataset.NumberOfFrames = len(frames)
    first = offsets[frames[0]]
    kept = [offsets[i] for i in frames]
    if offsets[0] == 0 or places is None:
        kept = [offset - first for offset in kept]
    dataset.GridFrameOffsetVector = [_decimal(offset) for offset in kept]
    if places is not None:
        dataset.ImagePositionPatient = [_decimal(v) for v in places[frames[0]]]


def one_tile(dataset: Dataset, tiles: dict[str, Any], frame: int) -> None:
    """Make one slice of a Siemens mosaic an image of its own."""
    grid = int(tiles["grid"])
    dataset.Rows, dataset.Columns = int(dataset.Rows) // grid, int(dataset.Columns) // grid
    dataset.ImagePositionPatient = [_decimal(v) for v in tiles["positions"][frame]]
    kinds = dataset.get("ImageType") or []
    kept = [k for k in ([kinds] if isinstance(kinds, str) else kinds) if str(k) != "MOSAIC"]
    dataset.ImageType = kept
    if "SliceLocation" in dataset:
        del dataset.SliceLocation
    for element in list(dataset):
        if element.tag.group in (0x0019, 0x0029, 0x0051):  # what Siemens says of the whole sheet
            del dataset[element.tag]


def crop(dataset: Dataset, box: tuple[int, int, int, int]) -> None:
    """Move every position, overlay and region to the new first pixel; drop what no longer fits."""
    row, column = box[0], box[2]
    shift = _in_plane_shift(dataset, row, column)
    if shift is not None:
        _move(dataset, shift)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    if shared is not None and "PlanePositionSequence" in shared:
        step = _group_shift(shared, None, row, column)
        if step is not None:
            _move(shared.PlanePositionSequence[0], step)
    for group in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        step = _group_shift(group, shared, row, column)
        if step is not None and "PlanePositionSequence" in group:
            _move(group.PlanePositionSequence[0], step)
    _move_detectors(dataset, row, column)
    move_overlays(dataset, box)
    move_regions(dataset, box)
    move_shutters(dataset, box)
    if "IconImageSequence" in dataset:
        del dataset.IconImageSequence


def _move_detectors(dataset: Dataset, row: int, column: int) -> None:
    """Move the positions that nuclear medicine keeps per detector."""
    spacing = numbers(dataset, "PixelSpacing", 2)
    for detector in dataset.get("DetectorInformationSequence") or []:
        orientation = numbers(detector, "ImageOrientationPatient", 6)
        if orientation is not None and spacing is not None:
            _move(detector, _shift(orientation, spacing, row, column))


def _group_shift(
    group: Dataset, shared: Dataset | None, row: int, column: int
) -> np.ndarray | None:
    from pydicom.dataset import Dataset as NewDataset

    merged = NewDataset()
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        for holder in (shared, group):
            if holder is not None and name in holder:
                merged.update(holder[name].value[0])
    return _in_plane_shift(merged, row, column)


def _in_plane_shift(dataset: Dataset, row: int, column: int) -> np.ndarray | None:
    orientation = numbers(dataset, "ImageOrientationPatient", 6)
    spacing = numbers(dataset, "PixelSpacing", 2)
    if orientation is None or spacing is None:
        return None
    return _shift(orientation, spacing, row, column)


def _shift(
    orientation: Sequence[float], spacing: Sequence[float], row: int, column: int
) -> np.ndarray:
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    shift: np.ndarray = along_row * spacing[1] * column + along_column * spacing[0] * row
    return shift


def _move(dataset: Dataset, shift: np.ndarray) -> None:
    position = numbers(dataset, "ImagePositionPatient", 3)
    if position is not None:
        moved = np.array(position) + shift
        dataset.ImagePositionPatient = [_decimal(v) for v in moved]


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)
