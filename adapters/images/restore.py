"""Writing image files again: the same bytes where pixels lie in them plainly, else encoded anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from adapters.base import (
    CUT,
    EQUAL_DATA,
    IDENTICAL,
    LOSSY,
    Array,
    RestoredVolume,
    RestoreInfo,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.images.pictures import JPEG, PNG, TIFF, format_of
from adapters.output import (
    check_stored_type,
    check_volumes_exist,
    file_target,
    loss_note,
    unusable_record,
)
from adapters.source_files import safe_target
from adapters.staging import staged_file, staged_folder

__all__ = ["restore_images"]

_MOST_TIFF = (1 << 32) - (1 << 26)  # bytes of pixels that offsets of 32 bits reach for sure
_OTHER_COLOURS = {"SEPARATED": 4, "CIELAB": 3}  # samples of colours that are not red, green, blue


@dataclass(frozen=True)
class _Page:
    """Where a page of a file comes from, and how its samples lie there."""

    volume: str
    index: int | None
    interleaved: bool
    dtype: np.dtype[Any]
    photometric: str | None


def restore_images(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write one image file, or a folder of those of a stack.

    Raises
    ------
    SourceError : kind ``"bad-region"``, ``"bad-target"``, ``"target-exists"``,
        ``"bad-document"``, ``"unsafe-name"``.
    """
    try:
        names = [str(name) for name in document["names"]]
        jpeg = document.get("jpegxl")
        if jpeg is not None and all(volume.is_whole for volume in volumes):
            return [_restore_jpeg(names[0], blobs[str(jpeg)], target)]
        if jpeg is not None:
            raise SourceError(
                "a JPEG comes back as a whole: a part would have to be compressed anew, with loss",
                kind="bad-region",
                hint="leave the region out; xr.open_dataset shows parts of its pixels",
            )
        kept = blobs["kept"]
        known = {name: tuple(map(int, v["shape"])) for name, v in document["volumes"].items()}
        types = {name: np.dtype(v["dtype"]) for name, v in document["volumes"].items()}
        files = [[_part(part) for part in file["parts"]] for file in document["files"]]
        plain = [bool(file["plain"]) for file in document["files"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise unusable_record("image", error) from error
    check_volumes_exist([(v.name, v.full_shape) for v in volumes], known)
    for volume in volumes:
        check_stored_type(volume.array.dtype, types[volume.name], volume.name)
    given = {volume.name: volume for volume in volumes}
    whole = set(given) == set(known) and all(v.is_whole for v in volumes)
    exact = whole and info.lossless
    chosen = [n for n, file in enumerate(files) if any(_has(given, p) for p in _pages(file))]
    outcomes = {
        n: (IDENTICAL if plain[n] else EQUAL_DATA) if exact else CUT if info.lossless else LOSSY
        for n in chosen
    }

    def write(number: int, path: Path) -> None:
        if exact and plain[number]:
            with path.open("wb") as stream:
                _write_plain(stream, files[number], kept, given)
        else:
            _encode(path, [p for p in _pages(files[number]) if _has(given, p)], given, info)

    if len(names) == 1:
        own = safe_target(target, names[0]).name
        place = file_target(target, own, format_of(Path(own)))
        with staged_file(place) as (work,):
            write(0, work)
        return [WrittenFile(place, 0, outcomes[0])]
    with staged_folder(target) as folder:
        for number in chosen:
            place = safe_target(folder, names[number])
            place.parent.mkdir(parents=True, exist_ok=True)
            write(number, place)
    return [WrittenFile(safe_target(target, names[n]), n, outcomes[n]) for n in chosen]


def _restore_jpeg(name: str, stream: bytes, target: Path) -> WrittenFile:
    import imagecodecs

    place = file_target(target, safe_target(target, name).name, JPEG)
    with staged_file(place) as (work,):
        try:
            work.write_bytes(imagecodecs.jpegxl_decode_jpeg(stream, numthreads=1))
        except (ValueError, RuntimeError) as error:
            raise unusable_record("JPEG", error) from error
    return WrittenFile(place, 0, IDENTICAL)


def _part(part: dict[str, Any]) -> slice | _Page:
    if "kept" in part:
        start, stop = part["kept"]
        return slice(int(start), int(stop))
    index = None if part["index"] is None else int(part["index"])
    other = part.get("photometric")
    return _Page(
        str(part["volume"]),
        index,
        bool(part["interleaved"]),
        np.dtype(part["dtype"]),
        None if other is None else str(other),
    )


def _pages(parts: Sequence[slice | _Page]) -> list[_Page]:
    return [part for part in parts if isinstance(part, _Page)]


def _has(given: Mapping[str, RestoredVolume], page: _Page) -> bool:
    volume = given.get(page.volume)
    if volume is None or page.index is None:
        return volume is not None
    start, size = volume.start[-3], volume.array.shape[-3]
    return start <= page.index < start + size


def _write_plain(
    stream: IO[bytes],
    parts: Sequence[slice | _Page],
    kept: bytes,
    given: Mapping[str, RestoredVolume],
) -> None:
    for part in parts:
        if isinstance(part, slice):
            stream.write(kept[part])
        else:
            pixels = _pixels(part, given)
            stream.write(np.ascontiguousarray(pixels, part.dtype).data)


def _pixels(page: _Page, given: Mapping[str, RestoredVolume]) -> Array:
    """Pixels of a page as a decoder gives them, in native byte order."""
    volume = given[page.volume]
    sizes = list(volume.array.shape)
    key = [slice(0, size) for size in sizes]
    if page.index is not None:
        at = page.index - volume.start[-3]
        key[-3] = slice(at, at + 1)
        del sizes[-3]
    pixels = np.asarray(volume.array[tuple(key)]).reshape(sizes)
    return np.moveaxis(pixels, 0, -1) if page.interleaved and pixels.ndim == 3 else pixels


def _encode(
    path: Path, pages: Sequence[_Page], given: Mapping[str, RestoredVolume], info: RestoreInfo
) -> None:
    """Write pages in the format of a name, without what the source said beside its pixels."""
    if format_of(path) == PNG:
        import imagecodecs

        pixels = np.ascontiguousarray(_pixels(pages[0], given))
        try:
            path.write_bytes(imagecodecs.png_encode(pixels))
        except (ValueError, RuntimeError) as error:
            raise SourceError(
                f"PNG holds no image of {pixels.shape} and {pixels.dtype}",
                kind="bad-region",
                hint="take all samples of the pixels",
            ) from error
    elif format_of(path) == TIFF:
        from tifffile import TiffWriter

        note = None if info.lossless else loss_note(info)
        size = sum(
            np.dtype(v.array.dtype).itemsize * math.prod(v.array.shape) for v in given.values()
        )
        with TiffWriter(path, bigtiff=size > _MOST_TIFF) as writer:
            for page in pages:
                pixels = np.ascontiguousarray(_pixels(page, given))
                kind = _photometric(page, pixels)
                planes = {"planarconfig": "contig" if page.interleaved else "separate"}
                options: dict[str, Any] = planes if pixels.ndim == 3 else {}
                writer.write(pixels, photometric=kind, metadata=None, description=note, **options)


def _photometric(page: _Page, pixels: Array) -> str:
    """What the numbers of a page are, as TIFF says it; brightness where a part is none of that."""
    if pixels.ndim == 2:
        return "miniswhite" if page.photometric == "MINISWHITE" else "minisblack"
    samples = pixels.shape[-1 if page.interleaved else 0]
    if page.photometric in _OTHER_COLOURS and samples == _OTHER_COLOURS[page.photometric]:
        return page.photometric.lower()
    return "rgb" if page.photometric is None and samples in (3, 4) else "minisblack"
