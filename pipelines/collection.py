"""Folders that hold archives: what is in them, and what to say where one archive is expected."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from psc_volumetric.archive.folders import (
    archives_in,
    folder_of,
    only_archive,
    refuse_folder,
    walk,
)
from psc_volumetric.archive.layout import MANIFEST_KEY, PARTIAL_KEY, SUFFIXES
from psc_volumetric.archive.stores import is_url, is_web, open_store, target_text
from psc_volumetric.errors import PscError

__all__ = [
    "archives_at",
    "archives_in",
    "folder_around",
    "folder_of",
    "names_in",
    "only_archive",
    "refuse_folder",
    "unfinished_in",
]

UNFINISHED = "unfinished"


def folder_around(archive: str) -> str:
    """The folder, or part of a bucket, that an archive is in."""
    text = (target_text(archive) if is_web(archive) else archive).rstrip("/")
    return text.rpartition("/")[0] if is_url(text) else str(Path(text).absolute().parent)


def names_in(target: str) -> list[str]:
    """Names of the files in a folder or bucket that are no part of an archive, below it."""
    folder = folder_of(target)
    if folder is not None:
        found = [here / name for here, _, files in walk(folder) for name in files]
        return sorted(path.relative_to(folder).as_posix() for path in found)
    if not is_url(target) or is_web(target):
        return []
    keys = _keys_below(target.rstrip("/"))
    inside = tuple(
        f"{key.removesuffix(MANIFEST_KEY)}" for key in keys if key.endswith(MANIFEST_KEY)
    )
    return [key for key in keys if not key.startswith(inside)]


def archives_at(target: str) -> list[str] | None:
    """Archives in a folder or below the URL of a bucket, as ``target/NAME``; None for one archive.

    Those that are being written are left out. Below a URL all objects are listed; web servers,
    which cannot list, have one archive at a URL.

    Returns
    -------
    list of str or None
        Sorted.

    Raises
    ------
    StorageError : a folder or bucket cannot be read.
    """
    folder = folder_of(target)
    if folder is not None:
        found = [path for path in archives_in(folder) if not _is_unfinished(path)]
        return [f"{target.rstrip('/')}/{path.relative_to(folder).as_posix()}" for path in found]
    base = target.rstrip("/")
    if not is_url(base) or is_web(base) or _has_suffix(base):
        return None
    keys = _keys_below(base)
    if MANIFEST_KEY in keys:
        return None
    sealed = {key.removesuffix(f"/{MANIFEST_KEY}") for key in keys if key.endswith(MANIFEST_KEY)}
    packed = {key for key in keys if _has_suffix(key)}
    return [f"{base}/{name}" for name in sorted(sealed | packed)]


def unfinished_in(target: str) -> list[str]:
    """Archives in a folder or bucket that were begun and not sealed, by their names; sorted."""
    folder = folder_of(target)
    if folder is None:
        keys = set(_keys_below(target.rstrip("/")))
        begun = {key.removesuffix(PARTIAL_KEY) for key in keys if key.endswith(PARTIAL_KEY)}
        return sorted(name.rstrip("/") for name in begun if name + MANIFEST_KEY not in keys)
    return [
        path.relative_to(folder).as_posix() for path in archives_in(folder) if _is_unfinished(path)
    ]


def _is_unfinished(path: Path) -> bool:
    """Whether an archive is being written; one that cannot be read is told when it is checked."""
    from psc_volumetric.archive.targets import target_state  # here: it loads what writes archives

    try:
        return target_state(path) == UNFINISHED
    except PscError:
        return False


def _keys_below(url: str) -> list[str]:
    with closing(open_store(url)) as store:
        return store.listing()


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
