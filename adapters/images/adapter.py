"""PNG, TIFF and JPEG files: pages as they are decoded, images of one shape in a folder as a stack.

TIFF files whose pixels lie in them plainly come back byte for byte from values and the bytes around
them. How others compress depends on who wrote them: lossless archives keep the original beside the
values. A JPEG has its loss behind it: it is kept as a JPEG XL transcode, which gives it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    EQUAL_DATA,
    IDENTICAL,
    Candidate,
    Coordinate,
    Discovery,
    Promise,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.images.jpeg import check_jpeg, open_jpeg
from adapters.images.pictures import JPEG, PNG, TIFF, Picture, format_of
from adapters.images.pixels import PageArray, pictures_of, planes_of
from adapters.images.places import Places, places_of
from adapters.images.restore import restore_images
from adapters.kept import Kept
from adapters.originals import original_blob
from adapters.source_files import file_records, open_plain, safe_name

__all__ = ["ImagesAdapter"]

_MOST_AROUND = 64 << 20
_PACKED = "how its pixels are compressed, and what it says beside them"


class ImagesAdapter:
    """Reads and writes image files; see ``adapters.base.Adapter``."""

    kind = "images"

    def sniff(self, path: Path) -> bool:
        """Tell by name; whether the name speaks the truth is checked in discovery."""
        return bool(format_of(path))

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per file; single images that are alike in one folder are one."""
        found: list[Candidate] = []
        skipped: list[Skipped] = []
        alike: dict[tuple[Any, ...], list[Path]] = {}
        for path in files:
            try:
                if format_of(path) == JPEG:
                    check_jpeg(path)
                    found.append(_candidate((path,), path.stem))
                    continue
                pages = pictures_of(path)
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                continue
            first = pages[0]
            lies = (format_of(path), first.interleaved, first.offset is None)
            one = (path.parent, *first.alike, *lies)
            alike.setdefault(one if len(pages) == 1 else (path,), []).append(path)
        taken: set[tuple[Path, str]] = set()
        for key, paths in alike.items():
            name = paths[0].stem if len(paths) == 1 else paths[0].resolve().parent.name
            if len(paths) > 1 and (paths[0].parent, name) in taken:
                name = f"{name}-{key[2]}x{key[1]}-{len(taken)}"
            taken.add((paths[0].parent, name))
            found.append(_candidate(tuple(paths), name))
        return Discovery(tuple(found), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Read what the files say of their pixels; these are read later."""
        if format_of(candidate.paths[0]) == JPEG:
            return open_jpeg(candidate)
        pages = [pictures_of(path) for path in candidate.paths]
        groups = _groups(pages, candidate)
        stacked = len(candidate.paths) > 1
        names = {
            name: PageArray(tuple(group), stacked or len(group) > 1)
            for name, group in groups.items()
        }
        document, blobs, plain = _record(candidate.paths, pages, names)
        promise = Promise(IDENTICAL) if plain else Promise(EQUAL_DATA, _PACKED)
        one_each = all(page.own for file in pages for page in file)
        numbers = {path: n for n, path in enumerate(candidate.paths)}
        known = None if plain or not one_each else numbers
        places = {path: places_of(path) for path in candidate.paths if format_of(path) == TIFF}
        return SourceItem(
            kind="images",
            name=candidate.name,
            volumes=tuple(
                _volume(name, array, stacked, known, places) for name, array in names.items()
            ),
            document=document,
            blobs=blobs,
            files=tuple(record.promising(promise) for record in file_records(candidate.paths)),
            suggested_prior=None,
            notes=(),
            bytes_beyond_remaking=() if plain else (_PACKED,),
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write the files again; see ``adapters.images.restore``."""
        return restore_images(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of type, shape and pixels of every page; of a JPEG its bytes."""
        if format_of(path) == JPEG:
            return file_records([path])[0].sha256
        found = hashlib.sha256()
        for page in pictures_of(path):
            pixels = planes_of(page)
            dtype = pixels.dtype.newbyteorder("<")
            found.update(f"{dtype.str} {pixels.shape}\n".encode())
            found.update(np.ascontiguousarray(pixels, dtype).tobytes())
        return found.hexdigest()


def _candidate(paths: tuple[Path, ...], name: str) -> Candidate:
    return Candidate("images", safe_name(name, "images"), paths, paths[0].as_posix())


def _groups(pages: Sequence[Sequence[Picture]], candidate: Candidate) -> dict[str, list[Picture]]:
    """Pages that are alike, by the name of the volume that they make."""
    kinds: dict[tuple[Any, ...], list[Picture]] = {}
    for page in (page for file in pages for page in file):
        kinds.setdefault(page.alike, []).append(page)
    groups = list(kinds.values())
    if len(candidate.paths) > 1 and (len(groups) > 1 or any(len(file) > 1 for file in pages)):
        raise SourceError(
            "the images of the folder are no longer alike",
            kind="source-changed",
            path=candidate.paths[0],
            hint="run the same command again",
        )
    if len(groups) == 1:
        return {"image": groups[0]}
    return {f"image_{number}": group for number, group in enumerate(groups)}


def _volume(
    name: str,
    array: PageArray,
    stacked: bool,
    numbers: Mapping[Path, int] | None,
    places: Mapping[Path, Sequence[Places]],
) -> Volume:
    first = array.pages[0]
    own = name.removeprefix("image")
    axes = ["y", "x"] if not own else [f"y{own}", f"x{own}"]
    if array.stacked:
        axes.insert(0, "file" if stacked else f"page{own}")
    if first.samples is not None:
        axes.insert(0, f"sample{own}")
    names = np.array([page.path.name for page in array.pages])
    kind = "PNG" if format_of(first.path) == PNG else "TIFF"
    other = {} if first.other is None else {"photometric_interpretation": first.other}
    coordinates = [Coordinate("file", ("file",), names, {})] if stacked else []
    special, facts = _said(array, places)
    beside = [
        coordinate
        for known in (() if stacked else places.get(first.path, ()))
        for coordinate in known.coordinates(array.pages, own)
    ]
    return Volume(
        name=name,
        array=array,
        dims=tuple(axes),
        affine=None,
        spacing_mm=None,
        unit=None,
        slope=None,
        intercept=None,
        special_values=special,
        coordinates=(*coordinates, *beside),
        attrs={"format": kind, **other, **facts},
        exact_only=first.exact,
        kept=None if numbers is None else _kept(array.pages, numbers, kind),
        said_beside=tuple(coordinate.name for coordinate in beside),
    )


def _said(
    array: PageArray, places: Mapping[Path, Sequence[Places]]
) -> tuple[tuple[float | int, ...], dict[str, Any]]:
    """Values that stand for none, and attributes in which all files agree."""
    numbers = {(page.path, page.page) for page in array.pages}
    found = [
        known
        for path, several in places.items()
        for known in several
        if numbers.intersection((path, page) for page in known.pages)
    ]
    special = sorted({value for known in found for value in known.special_values(array.dtype)})
    facts = (
        dict(found[0].facts) if found and len({str(known.facts) for known in found}) == 1 else {}
    )
    return tuple(special), facts | ({"nodata": special[0]} if len(special) == 1 else {})


def _kept(pages: Sequence[Picture], numbers: Mapping[Path, int], kind: str) -> Kept:
    """Where pages are in the files, whose numbers are given."""
    samples = None
    if pages[0].samples is not None:
        samples = "last" if pages[0].interleaved else "first"
    places = tuple((original_blob(numbers[page.path]), page.page) for page in pages)
    return Kept(kind.lower(), samples, places)


def _record(
    paths: Sequence[Path], pages: Sequence[Sequence[Picture]], names: dict[str, PageArray]
) -> tuple[dict[str, Any], dict[str, bytes], bool]:
    """Where the bytes of each file come from; whether they all do."""
    places = {
        (page.path, page.page): {"volume": name, "index": number if array.stacked else None}
        for name, array in names.items()
        for number, page in enumerate(array.pages)
    }
    kept = bytearray()
    files = []
    for path, own in zip(paths, pages, strict=True):
        parts = [
            {
                **places[path, page.page],
                "interleaved": page.interleaved,
                "dtype": page.file_dtype,
                **({"photometric": page.other} if page.other else {}),
            }
            for page in own
        ]
        plain = _interleave(path, own, parts, kept)
        files.append({"plain": plain is not None, "parts": plain or parts})
    document = {
        "document_version": 0,
        "names": [path.name for path in paths],
        "volumes": {
            name: {"shape": list(array.shape), "dtype": array.dtype.str}
            for name, array in names.items()
        },
        "files": files,
    }
    return document, {"kept": bytes(kept)}, all(file["plain"] for file in files)


def _interleave(
    path: Path, pages: Sequence[Picture], parts: Sequence[dict[str, Any]], kept: bytearray
) -> list[dict[str, Any]] | None:
    """Parts of a file in its order with the bytes between them; None where pages do not lie so."""
    if format_of(path) != TIFF or any(page.offset is None for page in pages):
        return None
    runs = sorted(
        ((page.offset or 0, page.nbytes, part) for page, part in zip(pages, parts, strict=True)),
        key=lambda run: run[:2],
    )
    size, at = path.stat().st_size, 0
    around = size - sum(nbytes for _, nbytes, _ in runs)
    made: list[dict[str, Any]] = []
    with open_plain(path) as stream:
        for offset, nbytes, part in [*runs, (size, 0, None)]:
            if offset < at or around > _MOST_AROUND:
                return None
            stream.seek(at)
            kept.extend(stream.read(offset - at))
            made.append({"kept": [len(kept) - (offset - at), len(kept)]})
            made += [part] if part is not None else []
            at = offset + nbytes
    return made
