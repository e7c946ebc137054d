"""Which adapter takes which file; the three entry points the pipelines call."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, cast

from adapters.base import (
    Adapter,
    Candidate,
    Discovery,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.originals import KEPT_KINDS, ORIGINAL, restore_originals
from adapters.source_files import safe_name

__all__ = [
    "KINDS",
    "adapter_for",
    "content_sha256",
    "discover",
    "look",
    "open_source",
    "restore_source",
]

# The order decides who is asked first; each file goes to the first adapter that accepts it.
_ADAPTERS = {
    "dicom": ("adapters.dicom.adapter", "DicomAdapter"),
    "nifti": ("adapters.nifti.adapter", "NiftiAdapter"),
    "netcdf": ("adapters.netcdf.adapter", "NetcdfAdapter"),
    "fits": ("adapters.fits.adapter", "FitsAdapter"),
    "images": ("adapters.images.adapter", "ImagesAdapter"),
    "trajectories": ("adapters.trajectories.adapter", "TrajectoriesAdapter"),
    "video": ("adapters.video.adapter", "VideoAdapter"),
    ORIGINAL: ("adapters.originals", "OriginalAdapter"),
}
KINDS = tuple(_ADAPTERS)


_ZARR_METADATA = frozenset(("zarr.json", ".zgroup", ".zarray"))
Ask = Callable[[str, Sequence[Path]], Discovery]


@cache
def adapter_for(kind: str) -> Adapter:
    """Give the adapter of a source format.

    Raises
    ------
    SourceError : kind ``"unknown-format"``.
    """
    if kind not in _ADAPTERS:
        raise SourceError(
            f"expected a source kind among {sorted(_ADAPTERS)!r}, found {kind!r}",
            kind="unknown-format",
        )
    module, name = _ADAPTERS[kind]
    return cast(Adapter, getattr(importlib.import_module(module), name)())


def discover(path: Path, ask: Ask | None = None, *, keep: bool = False) -> Discovery:
    """Find every volume source in a file or, recursively, in a folder.

    Parameters
    ----------
    path : Path
        A file, or a folder with any mixture of formats. Links to folders are not followed, and
        Zarr stores (archives among them) are passed over.
    ask : callable, optional
        Sorts files of one format into items; without it the adapters do, in this process.
    keep : bool
        Make items of the kind ``"original"`` of sound files that hold no volume.

    Returns
    -------
    Discovery
        At least one candidate; every other file is listed with its reason.

    Raises
    ------
    SourceError : kind ``"not-found"``; ``"nothing-found"`` for a folder without any source; for a
        single file the kind of the reason it cannot be taken.
    """
    path = Path(path)
    found = look(path, ask, keep=keep)
    skipped = found.skipped
    if found.candidates:
        return found
    if path.is_file() and skipped:
        raise SourceError(skipped[0].reason, kind=skipped[0].kind, path=path, hint=skipped[0].hint)
    raise SourceError(
        "expected DICOM, NIfTI, NetCDF, FITS, image, trajectory or video files, found "
        f"{_summary(skipped)}",
        kind="nothing-found",
        path=path,
    )


def look(path: Path, ask: Ask | None = None, *, keep: bool = False) -> Discovery:
    """As `discover`, for inboxes: that there is no source at all is no error.

    Raises
    ------
    SourceError : kind ``"not-found"``.
    """
    if not path.exists():
        raise SourceError("no such file or folder", kind="not-found", path=path)
    files, closed = ([path], []) if path.is_file() else _walk(path)
    candidates, skipped = _ask_adapters(files, ask or _ask_here, keep=keep)
    root = path.parent if path.is_file() else path
    return Discovery(tuple(_placed(c, root) for c in candidates), (*closed, *skipped))


def _walk(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """Files in a folder, sorted, and the places in it that cannot be looked into."""
    files: list[Path] = []
    closed: list[Skipped] = []

    def cannot(error: OSError) -> None:
        place = Path(os.fsdecode(error.filename or folder))
        hint = "let this account read it: what it holds is not archived"
        closed.append(Skipped(place, f"cannot read: {error.strerror}", "unreadable", hint))

    for place, folders, names in os.walk(folder, onerror=cannot):
        if not _ZARR_METADATA.isdisjoint(names):
            folders.clear()
            continue
        for name in names:
            file = Path(place, name)
            try:
                if file.is_file():
                    files.append(file)
            except OSError as error:
                cannot(error)
    return sorted(files), closed


def _ask_here(kind: str, files: Sequence[Path]) -> Discovery:
    return adapter_for(kind).discover(files)


def _ask_adapters(
    files: Sequence[Path], ask: Ask, *, keep: bool
) -> tuple[list[Candidate], list[Skipped]]:
    accepted: dict[str, list[Path]] = {kind: [] for kind in _ADAPTERS}
    skipped = []
    for file in files:
        if not _is_text(file):
            reason = "expected a path that is text (UTF-8), found other bytes in it"
            skipped.append(
                Skipped(file, reason, "bad-name", "rename it; archives keep names as text")
            )
            continue
        try:
            kind = next((k for k in _ADAPTERS if adapter_for(k).sniff(file)), None)
        except OSError as error:
            reason = f"cannot read: {error.strerror}"
            skipped.append(Skipped(file, reason, "unreadable"))
            continue
        if kind is None:
            reason = (
                "expected a DICOM, NIfTI, NetCDF, FITS, image, trajectory or video file, found none"
            )
            skipped.append(Skipped(file, reason, "unknown-format"))
        else:
            accepted[kind].append(file)
    candidates: list[Candidate] = []
    for kind, group in accepted.items():
        if group:
            found = ask(kind, group)
            candidates += found.candidates
            if keep:
                candidates += _originals(kind, found.skipped)
            skipped += [e for e in found.skipped if not keep or e.kind not in KEPT_KINDS]
    # Both halves of an image give the same candidate when they are asked about one by one.
    return list(dict.fromkeys(candidates)), sorted(skipped, key=lambda entry: entry.path)


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _originals(kind: str, skipped: Sequence[Skipped]) -> list[Candidate]:
    """Candidates of files that are kept as they are; those of DICOM folder by folder."""
    groups: dict[Path, list[Skipped]] = {}
    for entry in skipped:
        if entry.kind in KEPT_KINDS:
            alone = entry.path.with_name(entry.path.name.split(".")[0] or entry.path.name)
            groups.setdefault(entry.path.parent if kind == "dicom" else alone, []).append(entry)
    made = []
    for place, group in groups.items():
        digest = hashlib.sha256(str(place).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        name = f"dicom-{digest}" if kind == "dicom" else safe_name(place.name, kind)
        paths = tuple(dict.fromkeys(entry.path for entry in group))
        made.append(Candidate(ORIGINAL, name, paths, paths[0].as_posix(), group[0].reason))
    return made


def _placed(candidate: Candidate, root: Path) -> Candidate:
    """Note where a file was found; paths of DICOM files may name patients and say little else."""
    if candidate.name.startswith("dicom-") or candidate.kind == "dicom":
        return candidate
    place = PurePosixPath(candidate.paths[0].relative_to(root))
    if candidate.kind == "images" and len(candidate.paths) > 1:  # called as their folder
        place = place.with_name(candidate.name)
        place = place.parent if place.parent.name == candidate.name else place
    return replace(candidate, place=place)


def _summary(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return "no files"
    reasons: dict[str, int] = {}
    for entry in skipped:
        reasons[entry.reason] = reasons.get(entry.reason, 0) + 1
    shown = "; ".join(f"{count} x {reason}" for reason, count in list(reasons.items())[:3])
    more = len(reasons) - 3
    return f"{len(skipped)} file(s): {shown}" + (f"; and {more} more reasons" if more > 0 else "")


def open_source(candidate: Candidate) -> SourceItem:
    """Open one candidate: read its headers, check it, and hand over lazy volumes.

    Raises
    ------
    SourceError : the source is damaged or not supported; ``kind`` says which.
    """
    return adapter_for(candidate.kind).open(candidate)


def restore_source(
    kind: str,
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write decoded volumes in their source format.

    Parameters
    ----------
    kind, document, blobs
        As found in the ``SourceItem`` the archive was made from.
    volumes : sequence of RestoredVolume
        Whole volumes or regions; volumes that are not listed are left out.
    target : Path
        DICOM: a folder, new or empty. Other formats: a file name with a suffix of theirs,
        or a folder in which the source's own name is used. Existing files are never replaced.
    info : RestoreInfo
        Decides the labels of lossy output.

    Returns
    -------
    list of WrittenFile
        What was written, and what each file is compared with its source. Nothing is left behind
        when an error is raised.

    Raises
    ------
    SourceError : kind ``"target-exists"``, ``"bad-region"``, ``"bad-document"`` and others.
    """
    kept = restore_originals(document, blobs, volumes, Path(target), info, folder=kind == "dicom")
    if kept is not None:
        return kept
    return adapter_for(kind).restore(document, blobs, volumes, Path(target), info)


def content_sha256(kind: str, path: Path) -> str:
    """Give a digest of all that a file of a source format holds, whatever its encoding.

    Raises
    ------
    SourceError : the file cannot be read.
    """
    return adapter_for(kind).content_sha256(path)
