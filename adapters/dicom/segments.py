"""Frames of a segmentation as a grid of segments and slices, empty where the file has no frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters.dicom.axes import Arrangement, AxisValues, places_of, sort_key, typed
from adapters.dicom.frames import Frame
from adapters.dicom.geometry import along_normal

__all__ = ["arrange_segments"]

_MOST_EMPTY = 64  # cells per frame; past that a segmentation stays a list of frames
_SMALL_GRID = 4096


def arrange_segments(frames: Sequence[Frame], numbers: Sequence[int]) -> Arrangement | None:
    """Arrange the frames of a segmentation: one axis of segments, places without a frame empty.

    PS3.3 A.51: frames in which a segment has no pixel may be left out of the file. Places that
    no segment has, between regularly spaced ones, become empty slices too.

    Returns
    -------
    Arrangement or None
        None when a segment has two frames at one place, or the grid would be mostly empty.
    """
    names = [dict(frames[n].traits).get("ReferencedSegmentNumber", "") for n in numbers]
    segments = sorted(set(names), key=sort_key)
    places = _filled(frames, places_of(frames, numbers))
    if len(segments) * len(places) > _MOST_EMPTY * len(numbers) + _SMALL_GRID:
        return None
    table = np.full((len(segments), len(places)), -1)
    owner = dict(zip(numbers, names, strict=True))
    for z, place in enumerate(places):
        for n in place:
            row = segments.index(owner[n])
            if table[row, z] >= 0:
                return None
            table[row, z] = n
    if len(segments) == 1:
        return Arrangement(table[0], ())
    values = typed(segments)
    known = AxisValues("segment", ("segment",), values, None, "segment number")
    return Arrangement(table, ("segment",), (known,))


def _filled(frames: Sequence[Frame], places: list[list[int]]) -> list[list[int]]:
    """Put empty places where the even spacing of the others leaves gaps."""
    if len(places) < 3:
        return places
    first = frames[places[0][0]]
    assert first.orientation is not None
    positions = np.array([frames[place[0]].position for place in places])
    steps = np.diff(along_normal(positions, first.orientation))
    least = float(steps.min())
    counts = np.rint(steps / least).astype(int)
    if np.any(np.abs(steps - counts * least) > 0.05 * least) or counts.sum() > _MOST_EMPTY * len(
        places
    ):
        return places
    filled = [places[0]]
    for count, place in zip(counts, places[1:], strict=True):
        filled += [[] for _ in range(count - 1)] + [place]
    return filled
