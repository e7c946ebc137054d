"""Folders that files arrive in: what has been quiet for a while, and moving away what is archived.

A file that still grows is not archived. Its time of the last change of the inode (ctime) says so
even where a copy program sets the other times back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from psc_volumetric.archive.folder import sync_folders
from psc_volumetric.errors import StorageError

__all__ = ["finish_moves", "is_quiet", "move_sources"]

_AHEAD_S = 3600.0
_RECORD = ".psc-archive-moving-"
_LARGEST = 64 << 20


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

    Nothing is replaced: when one of the places is taken by something else, no file moves. A file
    that is there already, byte for byte, only leaves the source folder. Between file systems a
    file is copied and synced under another name before the source is removed. A link stays a link
    to the same file. A kill leaves a file in one place or in both, and `finish_moves` does the
    rest, so that what is left of a series is never taken for a series.

    Parameters
    ----------
    paths : sequence of Path
        Files below `source`.
    source, to : Path
        Folders. `source` may also be the one file itself.

    Raises
    ------
    StorageError : kind ``"target-exists"``: another file is there already; ``"storage-failed"``.
    """
    root = source.parent if source.is_file() else source
    places = [(path, to / path.relative_to(root)) for path in dict.fromkeys(paths)]
    with _failures_told(to):
        taken = [place for path, place in places if os.path.lexists(place)]
        taken = [place for path, place in places if place in taken and not _is_there(path, place)]
    if taken:
        raise StorageError(
            f"{str(taken[0])!r} is there already, so the archived source stays where it is",
            kind="target-exists",
            hint="remove one of them, or name another folder for archived sources",
        )
    with _failures_told(to):
        to.mkdir(parents=True, exist_ok=True)
        record = _write_record(places, root, to) if len(places) > 1 else None
        for path, place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            _move(path, place)
        if record is not None:
            record.unlink()


def finish_moves(source: Path, to: Path) -> int:
    """Move what a run that was killed or failed left of items it was moving.

    A file that was changed since is another one, and stays.

    Parameters
    ----------
    source, to : Path
        Folders, as for `move_sources`.

    Returns
    -------
    int
        How many files were moved.

    Raises
    ------
    StorageError : as `move_sources`.
    """
    moved = 0
    with _failures_told(to):
        for record in sorted(to.glob(f"{_RECORD}*.json")):
            root, names = _left(record)
            if root not in (source.absolute(), source.absolute().parent):
                continue
            move_sources([root / name for name in names], root, to)
            moved += len(names)
            record.unlink(missing_ok=True)
    return moved


def _write_record(places: Sequence[tuple[Path, Path]], root: Path, to: Path) -> Path:
    """Write down, for good, which files are about to move."""
    rows = [[str(path.relative_to(root)), *_size_and_time(path)] for path, _ in places]
    data = json.dumps({"source": str(root.absolute()), "files": rows}).encode()
    handle, name = tempfile.mkstemp(prefix=_RECORD, suffix=".partial", dir=to)  # mode 600
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    record = Path(name).with_suffix(".json")
    Path(name).rename(record)
    sync_folders([to])
    return record


def _left(record: Path) -> tuple[Path | None, list[str]]:
    """Source folder of a record, and the files that have not moved; None: it is no record."""
    names: list[str] = []
    try:
        with record.open("rb") as stream:
            found = json.loads(stream.read(_LARGEST))
        root, rows = Path(found["source"]), [(str(name), seen) for name, *seen in found["files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, names
    for name, seen in rows:
        if ".." in PurePath(name).parts or PurePath(name).is_absolute():
            continue
        with suppress(FileNotFoundError):
            if seen == _size_and_time(root / name):
                names.append(name)
    return root, names


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _is_there(path: Path, place: Path) -> bool:
    """Whether a place has a file already: its bytes, or a link to the same file."""
    if place.is_symlink():
        return path.is_symlink() and path.resolve() == place.resolve()
    return (
        place.is_file()
        and path.stat().st_size == place.stat().st_size
        and (_digest(path) == _digest(place))
    )


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


@contextmanager
def _failures_told(to: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"an archived source cannot be moved to {str(to)!r} ({error.strerror})",
            kind="storage-failed",
            hint="check the rights and the free space; the archive is sealed all the same",
        ) from error


def _move(path: Path, place: Path) -> None:
    if os.path.lexists(place):  # `_is_there`
        path.unlink()
        return
    if path.is_symlink():  # a relative one would point elsewhere
        place.symlink_to(path.resolve())
        path.unlink()
        return
    try:
        path.rename(place)
    except OSError as error:  # mounts of one file system do not tell by their numbers
        if error.errno != errno.EXDEV:
            raise
        _copy(path, place)
        path.unlink()


def _copy(path: Path, place: Path) -> None:
    """Copy and sync under another name first."""
    copy = place.with_name(place.name + ".partial")
    try:
        shutil.copy2(path, copy)
        with copy.open("rb") as stream:
            os.fsync(stream.fileno())
        copy.rename(place)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    sync_folders([place.parent])
