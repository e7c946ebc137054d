"""Local folders that hold archives: which are in them, and the only one where one is expected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from psc_volumetric.archive.layout import MANIFEST_KEY, SUFFIXES
from psc_volumetric.archive.stores import is_url
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["archives_in", "folder_of", "only_archive", "refuse_folder", "walk"]


def folder_of(target: str) -> Path | None:
    """The folder that a target is, unless it is an archive (or looks like one), or a URL."""
    text = target.removeprefix("file://")
    path = Path(text)
    if is_url(text) or not path.is_dir() or _looks_like_archive(path):
        return None
    return path


def archives_in(folder: Path) -> list[Path]:
    """All archives in a folder and the folders in it, sorted; links to folders are not followed.

    Raises
    ------
    StorageError : kind ``"storage-failed"``, a folder cannot be read.
    """
    found: list[Path] = []
    for here, archives, files in walk(folder):
        found += [here / name for name in archives]
        found += [here / name for name in files if name.lower().endswith(SUFFIXES)]
    return sorted(found)


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder that is no archive and in none: the archives that are folders, and the files."""

    def fail(error: OSError) -> None:
        raise StorageError(
            f"{error.filename}: cannot be read ({error.strerror})",
            kind="storage-failed",
            hint="check the rights",
        ) from error

    for place, folders, files in os.walk(folder, onerror=fail):
        here = Path(place)
        archives = [name for name in folders if _looks_like_archive(here / name)]
        yield here, archives, files
        folders[:] = sorted(set(folders) - set(archives))


def only_archive(target: str) -> str:
    """The archive to read at a target: itself, or the only one in a folder.

    Raises
    ------
    ParameterError : kind ``"folder-of-archives"``; names the archives that are in it.
    """
    found = _within(target)
    if len(found) > 1:
        raise _folder_of(found)
    return str(found[0]) if found else target


def refuse_folder(target: str) -> None:
    """Refuse a folder where one archive is expected that is changed, copied or signed.

    Raises
    ------
    ParameterError : kind ``"folder-of-archives"``; names the archives that are in it.
    """
    found = _within(target)
    if found:
        raise _folder_of(found)


def _within(target: str) -> list[Path]:
    """The archives in a folder; none of what is an archive itself, a file or a URL."""
    folder = folder_of(target)
    return [] if folder is None else archives_in(folder)


def _folder_of(found: list[Path]) -> ParameterError:
    names = ", ".join(repr(str(path)) for path in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    one = len(found) == 1
    return ParameterError(
        f"expected {'an' if one else 'one'} archive, found a folder with "
        f"{'the archive' if one else f'{len(found)}:'} {names}{more}",
        kind="folder-of-archives",
        hint="name it" if one else "name one of them; `psc-archive ls` and `verify` take folders",
    )


def _looks_like_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) or (path / MANIFEST_KEY).exists()
