"""Folders that files arrive in: what has been quiet for a while, and moving away what is archived.

A file that still grows is not archived. Its time of the last change of the inode (ctime) says so
even where a copy program sets the other times back.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from psc_volumetric.errors import StorageError

__all__ = ["is_quiet", "move_sources"]

_AHEAD_S = 3600.0


def is_quiet(paths: Sequence[Path], quiet_s: float) -> bool:
    """Whether no file was changed, or put there, within the last ``quiet_s`` seconds.

    A file that is gone, because a copy program has just renamed it, is not quiet. One whose time is
    more than an hour ahead was changed by a clock that was wrong, and would wait for ever: it is
    quiet, and the proof before sealing notices if it still grows.
    """
    if quiet_s <= 0:
        return True
    try:
        newest = max(path.stat().st_ctime for path in paths)
    except FileNotFoundError:
        return False
    age = time.time() - newest
    return age >= quiet_s or age < -_AHEAD_S


def move_sources(paths: Sequence[Path], source: Path, to: Path) -> None:
    """Move files out of a source folder into the same places below another folder.

    Nothing is replaced: when one of the places is taken, no file moves. Between file systems a
    file is copied and synced under another name before the source is removed. A kill leaves a file
    in one place or in both.

    Parameters
    ----------
    paths : sequence of Path
        Files below `source`.
    source, to : Path
        Folders. `source` may also be the one file itself.

    Raises
    ------
    StorageError : kind ``"target-exists"``: a file is there already; ``"storage-failed"``.
    """
    root = source.parent if source.is_file() else source
    places = [(path, to / path.relative_to(root)) for path in dict.fromkeys(paths)]
    taken = [place for _, place in places if place.exists()]
    if taken:
        raise StorageError(
            f"{str(taken[0])!r} is there already, so the archived source stays where it is",
            kind="target-exists",
            hint="remove one of them, or name another folder for archived sources",
        )
    try:
        for path, place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            _move(path, place)
    except OSError as error:
        raise StorageError(
            f"an archived source cannot be moved to {str(to)!r} ({error.strerror})",
            kind="storage-failed",
            hint="check the rights and the free space; the archive is sealed all the same",
        ) from error


def _move(path: Path, place: Path) -> None:
    if path.stat().st_dev == place.parent.stat().st_dev:
        path.rename(place)
        return
    copy = place.with_name(place.name + ".partial")
    shutil.copy2(path, copy)
    with copy.open("rb") as stream:
        os.fsync(stream.fileno())
    copy.rename(place)
    path.unlink()
