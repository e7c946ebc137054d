"""What is at a target, and finishing what a run that was stopped after sealing left undone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psc_volumetric.archive.folder import list_files
from psc_volumetric.archive.layout import (
    MANIFEST_KEY,
    METADATA_KEY,
    PARTIAL_KEY,
    PARTIAL_PREFIX,
)
from psc_volumetric.archive.packing import remove_leftovers, remove_work_place, work_place
from psc_volumetric.archive.stores import (
    ArchiveStore,
    Target,
    is_leftover,
    is_url,
    is_zip_name,
    open_store,
)
from psc_volumetric.errors import FormatError, StorageError

__all__ = ["refuse_within_archive", "target_state", "tidy_up"]


def refuse_within_archive(folder: Path) -> None:
    """Refuse to write into a folder that is an archive or is in one, sealed or unfinished.

    Raises
    ------
    StorageError : kind ``"within-archive"``.
    """
    whole = Path(os.path.realpath(folder))
    for place in (whole, *whole.parents):
        marks = (place / MANIFEST_KEY).is_file() or (place / PARTIAL_KEY).is_file()
        if marks and (place / METADATA_KEY).is_file():
            raise StorageError(
                f"{str(folder)!r} is inside the archive {str(place)!r}",
                kind="within-archive",
                hint="what is in an archive is listed and never changes; choose a place outside",
            )


def target_state(target: Target, *, options: Mapping[str, Any] | None = None) -> str:
    """What stands at a target.

    Parameters
    ----------
    target : str, path or zarr Store
    options : mapping, optional
        Storage options for URLs.

    Returns
    -------
    str
        ``"absent"`` (nothing, or what the very first write of a killed run leaves),
        ``"unfinished"``, ``"sealed"`` (a manifest is there; whether it is good is not looked at),
        or ``"foreign"``.

    Raises
    ------
    StorageError : the storage fails, or the URL cannot be opened.
    """
    if is_zip_name(target) and not is_url(target):
        return _zip_state(target)
    if isinstance(target, (str, os.PathLike)) and not is_url(target):
        path = Path(os.fspath(target).removeprefix("file://"))
        if not path.exists():
            return "absent"
        if not path.is_dir():
            return "foreign"
    store = open_store(target, options=options)
    if store.exists(MANIFEST_KEY):
        return "sealed"
    if store.exists(PARTIAL_KEY):
        return "unfinished"
    return "absent" if all(is_leftover(key) for key in store.listing()) else "foreign"


def _zip_state(target: Target) -> str:
    path, work = Path(os.fspath(target)), work_place(target)  # type: ignore[arg-type]
    if os.path.lexists(path):
        try:
            store = open_store(target)
        except (FormatError, StorageError):
            return "foreign"
        try:
            return "sealed" if store.exists(MANIFEST_KEY) else "foreign"
        finally:
            store.close()
    found = target_state(work)
    return "unfinished" if found == "sealed" else found


def tidy_up(target: Target, *, options: Mapping[str, Any] | None = None) -> bool:
    """Finish tidying after a run that was killed between sealing and its end.

    Only what belongs to the sealed archive is removed: its journal; beside a zip file the tree it
    was packed from, known by the same manifest. Work of another archive is left alone.

    Returns
    -------
    bool
        Whether there was something to do.

    Raises
    ------
    StorageError : the storage fails.
    """
    if is_zip_name(target) and not is_url(target):
        return _tidy_zip(target)
    store = open_store(target, options=options)
    if not store.exists(MANIFEST_KEY) or not _has_journal(store):
        return False
    from psc_volumetric.archive.sealing import clean_up  # it writes, which restoring does not

    clean_up(open_store(target, write=True, options=options))
    return True


def _has_journal(store: ArchiveStore) -> bool:
    if store.exists(PARTIAL_KEY):
        return True
    if store.root is not None:
        folders = (store.root / PARTIAL_PREFIX).is_dir()
        return folders or any(is_leftover(key) for key in store.listing())
    return bool(store.listing(PARTIAL_PREFIX))


def _tidy_zip(target: Target) -> bool:
    path, work = Path(os.fspath(target)), Path(os.fspath(work_place(target)))  # type: ignore[arg-type]
    remove_leftovers(path)
    if not work.is_dir() or not path.is_file():
        return False
    listed = work / MANIFEST_KEY
    with_manifest = listed.is_file()
    if with_manifest:
        store = open_store(target)
        try:
            if store.get(MANIFEST_KEY) != listed.read_bytes():
                return False
        finally:
            store.close()
    elif list_files(work):
        return False  # unfinished work, of which this zip file is not the outcome
    remove_work_place(target)
    return True
