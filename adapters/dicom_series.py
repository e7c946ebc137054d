"""Which DICOM files belong together, in which order.

Files are split by series, modality, size, pixel format, rescale type, orientation and pixel
spacing; multi-frame files stand alone. Where two slices would then lie at one position, echoes,
time points and the like are split apart; if nothing tells the slices apart they are refused. (The
frame of reference is one of these last: some anonymised series have a new one in every slice.)
Slices are sorted along the normal, never by file name or instance number.
A rescale slope that varies by slice does not split a series: it becomes a table.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from adapters.dicom_frames import Frame
from adapters.dicom_geometry import DUPLICATE_MM, along_normal, is_orientation
from adapters.dicom_header import ImageFile
from adapters.errors import SourceError

__all__ = ["frame_table", "has_geometry", "split_into_stacks"]

_SAME_DIRECTION = 1e-4
_SAME_SPACING_MM = 1e-4


def has_geometry(frame: Frame) -> bool:
    """Tell whether a frame says where it lies."""
    return (
        frame.position is not None
        and frame.pixel_spacing is not None
        and min(frame.pixel_spacing) > 0
        and is_orientation(frame.orientation)
    )


def split_into_stacks(
    images: Sequence[ImageFile],
) -> tuple[list[list[ImageFile]], list[tuple[list[ImageFile], SourceError]]]:
    """Sort image files into stacks that each make one volume (or one multi-frame file).

    Returns
    -------
    stacks : list of lists of ImageFile
        Each sorted along the normal.
    refused : list of (files, error)
        Groups with slices at one position that nothing tells apart (kind
        ``"duplicate-position"``).
    """
    stacks: list[list[ImageFile]] = []
    refused = []
    for group in _grouped(images):
        if len(group) == 1:
            stacks.append(group)
            continue
        try:
            stacks += [_sorted_slices(part) for part in _without_duplicates(group)]
        except SourceError as error:
            refused.append((group, error))
    return stacks, refused


def _grouped(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    groups: dict[Hashable, list[list[ImageFile]]] = {}
    for image in images:
        alone = len(image.frames) > 1 or image.enhanced or not has_geometry(image.frames[0])
        key: Hashable = image.path if alone else _series_key(image)
        similar = groups.setdefault(key, [])
        for group in similar:
            if not alone and _same_plane(group[0].frames[0], image.frames[0]):
                group.append(image)
                break
        else:
            similar.append([image])
    return [group for similar in groups.values() for group in similar]


def _series_key(image: ImageFile) -> Hashable:
    return (
        image.series_uid,
        image.modality,
        image.rows,
        image.columns,
        image.samples,
        image.word,
        image.bits_allocated,
        image.bits_stored,
        image.high_bit,
        image.photometric,
        image.rescale_type,
    )


def _same_plane(first: Frame, second: Frame) -> bool:
    return bool(
        np.allclose(first.orientation, second.orientation, rtol=0, atol=_SAME_DIRECTION)  # type: ignore[arg-type]
        and np.allclose(first.pixel_spacing, second.pixel_spacing, rtol=0, atol=_SAME_SPACING_MM)  # type: ignore[arg-type]
    )


def _distances(frames: Sequence[Frame]) -> list[float]:
    orientation = frames[0].orientation
    assert orientation is not None
    return [float(d) for d in along_normal(np.array([f.position for f in frames]), orientation)]


def _sorted_slices(images: Sequence[ImageFile]) -> list[ImageFile]:
    distances = _distances([image.frames[0] for image in images])
    return [images[i] for i in np.argsort(distances, kind="stable")]


def _most_at_one_place(frames: Sequence[Frame]) -> int:
    """Count the frames of the fullest position."""
    return max(len(place) for place in _places(frames))


def _places(frames: Sequence[Frame]) -> list[list[int]]:
    """Give frame numbers by position along the normal, ascending."""
    distances = _distances(frames)
    places: list[list[int]] = []
    last = -np.inf
    for i in np.argsort(distances, kind="stable"):
        if distances[i] - last < DUPLICATE_MM:
            places[-1].append(int(i))
        else:
            places.append([int(i)])
            last = distances[i]
    return places


def _without_duplicates(group: list[ImageFile]) -> list[list[ImageFile]]:
    most = _most_at_one_place([image.frames[0] for image in group])
    if most == 1:
        return [group]
    names = dict.fromkeys(name for image in group for name, _ in image.frames[0].traits)
    for name in names:
        parts: dict[str | None, list[ImageFile]] = {}
        for image in group:
            parts.setdefault(dict(image.frames[0].traits).get(name), []).append(image)
        # A trait that differs from slice to slice (a clock) would shred the series.
        if 1 < len(parts) <= most and all(
            _most_at_one_place([i.frames[0] for i in part]) < most for part in parts.values()
        ):
            return [piece for part in parts.values() for piece in _without_duplicates(part)]
    raise SourceError(
        f"{len(group)} slices, up to {most} at one position along the normal, and no echo, time, "
        "image type or acquisition attribute tells them apart",
        kind="duplicate-position",
        path=group[0].path.parent,
        hint="remove the copies, or put the acquisitions into folders of their own",
    )


def frame_table(frames: Sequence[Frame]) -> list[np.ndarray]:
    """Arrange the frames of one enhanced file as stacks, one per orientation.

    Returns
    -------
    list of (z,) or (t, z) int arrays
        Frame numbers, z sorted along the normal; frames at one place are ordered by their traits,
        then as in the file.

    Raises
    ------
    SourceError : kind ``"duplicate-position"``, positions hold different numbers of frames.
    """
    planes: list[list[int]] = []
    for i, frame in enumerate(frames):
        same = (plane for plane in planes if _same_plane(frames[plane[0]], frame))
        plane = next(same, None)
        if plane is None:
            planes.append([i])
        else:
            plane.append(i)
    return [_stack_of_plane(frames, plane) for plane in planes]


def _stack_of_plane(frames: Sequence[Frame], plane: list[int]) -> np.ndarray:
    places = _places([frames[i] for i in plane])
    counts = {len(place) for place in places}
    if len(counts) > 1:
        raise SourceError(
            f"expected the same number of frames at every position, found {sorted(counts)}",
            kind="duplicate-position",
        )
    table = np.array(
        [sorted((plane[i] for i in place), key=lambda n: _order(frames[n], n)) for place in places]
    ).T
    return table[0] if counts == {1} else table


def _order(frame: Frame, index: int) -> tuple[list[tuple[float, str]], int]:
    keys = []
    for _, value in frame.traits:
        try:
            keys.append((float(value), ""))
        except ValueError:
            keys.append((0.0, value))
    return keys, index
