"""Which DICOM files belong together, in which order.

Files are split by patient, study and series (one SeriesInstanceUID is not enough: some anonymisers
give all series the same), modality, size, pixel format, unit, orientation and pixel spacing;
multi-frame files stand alone, Siemens mosaics stack in time. Copies of one image are left out.
Slices are sorted along the normal, never by file name; see `dicom_axes` for slices at one place. A
rescale slope that varies by slice does not split a series: it becomes a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adapters.dicom.axes import places_of
from adapters.dicom.frames import Frame
from adapters.dicom.geometry import is_orientation
from adapters.dicom.header import ImageFile
from adapters.dicom.record import words_sha256
from adapters.errors import SourceError

__all__ = ["Series", "group_series", "has_geometry", "same_plane"]

_SAME_DIRECTION = 1e-4
_SAME_SPACING = 2e-4  # relative


@dataclass(frozen=True)
class Series:
    """Files that make one item, and copies of them that are left out.

    ``copies`` has (copy, original) pairs; ``key`` is a digest that tells this series from all
    others, whatever else is found beside it.
    """

    images: tuple[ImageFile, ...]
    copies: tuple[tuple[ImageFile, ImageFile], ...]
    key: str


def has_geometry(frame: Frame) -> bool:
    """Tell whether a frame says where it lies."""
    return (
        frame.position is not None
        and frame.pixel_spacing is not None
        and min(frame.pixel_spacing) > 0
        and is_orientation(frame.orientation)
    )


def group_series(images: Sequence[ImageFile]) -> list[Series]:
    """Sort image files into series that each make one item; files of a series keep their order."""
    found = []
    for group in _grouped(images):
        kept, copies = _without_copies(group)
        parts = _by_frame_of_reference(kept)
        for number, part in enumerate(parts):
            mine = {image.path for image in part}
            own = tuple(pair for pair in copies if pair[1].path in mine)
            extra = f"part {number}" if len(parts) > 1 else ""
            found.append(Series(tuple(part), own, _key_of(part[0], extra)))
    return found


def _grouped(images: Iterable[ImageFile]) -> list[list[ImageFile]]:
    groups: dict[Hashable, list[list[ImageFile]]] = {}
    for image in images:
        similar = groups.setdefault(_series_key(image), [])
        for group in similar:
            if same_plane(group[0].frames[0], image.frames[0]):
                group.append(image)
                break
        else:
            similar.append([image])
    return [group for similar in groups.values() for group in similar]


def _stands_alone(image: ImageFile) -> bool:
    if image.mosaic is not None:
        return False
    return len(image.frames) > 1 or image.enhanced or not has_geometry(image.frames[0])


def _series_key(image: ImageFile) -> Hashable:
    """Give what files of one volume share, orientation and spacing apart."""
    alone = _stands_alone(image)
    return (
        image.identity,
        image.modality,
        image.rows,
        image.columns,
        image.samples,
        image.word,
        image.bits_allocated,
        image.bits_stored,
        image.high_bit,
        image.photometric,
        image.unit,
        len(image.frames),
        image.unreadable_mosaic,
        (image.instance_uid or image.path.as_posix()) if alone else "",
        *((True,) if image.unreadable_scale else ()),  # others keep the key that they had
    )


def same_plane(first: Frame, second: Frame) -> bool:
    """Tell whether two frames share orientation and pixel spacing, or have neither."""
    if not has_geometry(first) or not has_geometry(second):
        return has_geometry(first) == has_geometry(second)
    return bool(
        np.allclose(first.orientation, second.orientation, rtol=0, atol=_SAME_DIRECTION)  # type: ignore[arg-type]
        and np.allclose(first.pixel_spacing, second.pixel_spacing, rtol=_SAME_SPACING, atol=0)  # type: ignore[arg-type]
    )


def _key_of(image: ImageFile, extra: str) -> str:
    """Digest what tells a series from others; the same whatever other files are there."""
    frame = image.frames[0]
    traits = [str(_series_key(image)), extra]
    if has_geometry(frame):
        assert frame.orientation is not None and frame.pixel_spacing is not None
        traits += [f"{v + 0.0:.2f}" for v in frame.orientation]
        traits += [f"{v:.3g}" for v in frame.pixel_spacing]
    return hashlib.sha256("\0".join(traits).encode()).hexdigest()


def _without_copies(
    group: list[ImageFile],
) -> tuple[list[ImageFile], list[tuple[ImageFile, ImageFile]]]:
    """Leave out files that are another one's copy: the same instance with the same pixels."""
    if len(group) == 1:
        return group, []
    seen: dict[str, list[tuple[ImageFile, str]]] = {}
    same = _instances(group)
    kept, copies = [], []
    # Of "2.dcm" and "2 (1).dcm" the first is the original.
    for image in sorted(group, key=lambda image: (len(image.path.name), image.path)):
        name = _instance(image)
        if same[name] < 2:
            kept.append(image)
            continue
        digest = _pixels_sha256(image)
        twin = next((other for other, known in seen.get(name, ()) if known == digest), None)
        if twin is None:
            seen.setdefault(name, []).append((image, digest))
            kept.append(image)
        else:
            copies.append((image, twin))
    return kept, copies


def _pixels_sha256(image: ImageFile) -> str:
    """Digest the pixels of a file; all of its bytes where they cannot be decoded."""
    try:
        return words_sha256(image)
    except SourceError:
        return hashlib.sha256(image.path.read_bytes()).hexdigest()


def _instance(image: ImageFile) -> str:
    """Give what copies of an image have in common."""
    return image.instance_uid or f"{image.path.stat().st_size} {image.frames[0].position}"


def _instances(group: Sequence[ImageFile]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for image in group:
        name = _instance(image)
        counts[name] = counts.get(name, 0) + 1
    return counts


def _by_frame_of_reference(group: list[ImageFile]) -> list[list[ImageFile]]:
    """Split slices at one place by frame of reference, where that leaves one at every place.

    It is no more than this last resort: some anonymised series have a new one in every slice.
    """
    if _stands_alone(group[0]):
        return [[image] for image in group]
    if len(group) == 1 or _fullest(group) == 1:
        return [group]
    parts: dict[str | None, list[ImageFile]] = {}
    for image in group:
        uid = dict(image.frames[0].traits).get("FrameOfReferenceUID")
        parts.setdefault(uid, []).append(image)
    if len(parts) > 1 and all(_fullest(part) == 1 for part in parts.values()):
        return list(parts.values())
    return [group]


def _fullest(group: Sequence[ImageFile]) -> int:
    frames = [image.frames[0] for image in group]
    return max(len(place) for place in places_of(frames, range(len(frames))))
