"""The functions of `adapters`, done by the reading process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from adapters import registry
from adapters.base import (
    Array,
    Candidate,
    Discovery,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.isolation.array import RemoteArray
from adapters.isolation.process import CRASHED, FAILED, MEMORY, TIMEOUT, reading_process
from adapters.originals import ORIGINAL, restore_originals

__all__ = [
    "content_sha256",
    "deidentify",
    "difference",
    "discover",
    "look",
    "open_source",
    "read_voxels",
    "restore_source",
]

_FILES_AT_ONCE = 64
# Formats whose files are found one by one.
_SINGLE_FILES = ("nifti", "netcdf", "fits", "trajectories", "video")
_LOST = (CRASHED, FAILED, MEMORY, TIMEOUT)


def discover(path: Path, *, keep: bool = False) -> Discovery:
    """As `adapters.discover`; a file that ends the reading process is listed as skipped."""
    return registry.discover(path, ask=_ask, keep=keep)


def look(path: Path, *, keep: bool = False) -> Discovery:
    """As `discover`, for inboxes: that there is no source at all is no error."""
    return registry.look(path, ask=_ask, keep=keep)


def open_source(candidate: Candidate) -> SourceItem:
    """As `adapters.open_source`; voxels are read by the reading process too."""
    if candidate.kind == ORIGINAL:  # nothing is looked into
        return registry.open_source(candidate)
    item = reading_process().ask({"do": "open", "candidate": candidate}, candidate.paths)
    assert isinstance(item, SourceItem)
    return item


def read_voxels(
    candidate: Candidate,
    volume: str,
    shape: Sequence[int],
    dtype: np.dtype[np.generic],
    box: Sequence[slice],
) -> Array:
    """Stored values of a region of a volume whose shape and type are known; opens nothing here.

    Raises
    ------
    SourceError : the voxels cannot be read, or the volume has another shape by now.
    """
    array = RemoteArray(candidate, volume, tuple(shape), np.dtype(dtype).str)
    return array[tuple(box)]


def content_sha256(kind: str, path: Path) -> str:
    """As `adapters.content_sha256`."""
    digest = reading_process().ask({"do": "content_sha256", "kind": kind, "path": path}, [path])
    return str(digest)


def restore_source(
    kind: str,
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """As `adapters.restore_source`; values are asked for slab by slab and written over there.

    Files that were kept as they were are written here: no format library is needed for them.
    """
    kept = restore_originals(document, blobs, volumes, target, info, folder=kind == "dicom")
    if kept is not None:
        return kept
    request = {
        "do": "restore",
        "kind": kind,
        "document": document,
        "blobs": list(blobs),
        "target": target,
        "info": info,
        "volumes": [
            (v.name, v.start, tuple(v.array.shape), v.full_shape, v.array.dtype.str)
            for v in volumes
        ],
    }
    size = sum(int(np.prod(v.array.shape)) * v.array.dtype.itemsize for v in volumes)

    def give(need: tuple[int | str, list[list[int]]]) -> Array | bytes:
        number, box = need
        if isinstance(number, str):
            return blobs[number]
        part = volumes[number].array[tuple(slice(*pair) for pair in box)]
        return np.asarray(part)

    written = reading_process().ask(request, [], extra_bytes=size, give=give)
    assert isinstance(written, list)
    return written


def deidentify(paths: Sequence[Path], folder: Path, key: bytes, profile: str) -> tuple[str, ...]:
    """As `adapters.dicom.deidentify.deidentify`."""
    request = {"do": "deidentify", "paths": list(paths), "folder": folder, "profile": profile}
    size = sum(path.stat().st_size for path in paths)
    notes = reading_process().ask({**request, "key": key.hex()}, paths, extra_bytes=size)
    return tuple(map(str, notes))


def difference(
    source: Candidate, restored: Sequence[Path], bounds: Mapping[str, float | None]
) -> str | None:
    """As `adapters.comparison.difference`."""
    asked = {
        "do": "difference",
        "source": source,
        "restored": list(restored),
        "bounds": dict(bounds),
    }
    found: str | None = reading_process().ask(asked, [*source.paths, *restored])
    return found


def _ask(kind: str, files: Sequence[Path]) -> Discovery:
    """Let an adapter sort files; leave out those on which the reading process ends."""
    found = Discovery((), ())
    size = _FILES_AT_ONCE if kind in _SINGLE_FILES else len(files)
    for start in range(0, len(files), size):
        found = _joined(found, _ask_group(kind, files[start : start + size]))
    return found


def _ask_group(kind: str, files: Sequence[Path]) -> Discovery:
    left = list(files)
    lost: list[Skipped] = []
    while left:
        last = -1

        def reached(number: int) -> None:
            nonlocal last
            last = number

        try:
            found = reading_process().ask(
                {"do": "discover", "kind": kind, "files": left}, left, reached=reached
            )
            return Discovery(found.candidates, (*found.skipped, *lost))
        except SourceError as error:
            if error.kind not in _LOST:
                raise
            if len(left) == 1:
                lost.append(Skipped.of(left.pop(), error))
            elif last >= 0 and (alone := _error_alone(kind, left[last])) is not None:
                lost.append(Skipped.of(left.pop(last), alone))
            else:
                return _joined(Discovery((), tuple(lost)), _ask_apart(kind, left, error))
    return Discovery((), tuple(lost))


def _error_alone(kind: str, file: Path) -> SourceError | None:
    """The error that a file gives when it is read by itself; None when it is good."""
    try:
        reading_process().ask({"do": "discover", "kind": kind, "files": [file]}, [file])
    except SourceError as error:
        return error
    return None


def _ask_apart(kind: str, files: Sequence[Path], error: SourceError) -> Discovery:
    """Files fail together though none does alone: folder by folder, or file by file."""
    parts = [list(part) for _, part in groupby(files, key=lambda file: file.parent)]
    if kind in _SINGLE_FILES:
        parts = [[file] for file in files]
    if len(parts) == 1:
        return Discovery((), tuple(Skipped.of(file, error) for file in files))
    found = Discovery((), ())
    for part in parts:
        found = _joined(found, _ask_group(kind, part))
    return found


def _joined(first: Discovery, second: Discovery) -> Discovery:
    return Discovery((*first.candidates, *second.candidates), (*first.skipped, *second.skipped))
