"""Files of an archive in a local folder: only plain ones are read, what is promised is on disk."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

from psc_volumetric.errors import FormatError

__all__ = [
    "check_plain_file",
    "list_files",
    "make_folder",
    "read_file",
    "remove_empty_folders",
    "sync_files",
    "sync_folders",
    "write_exclusive",
    "write_file",
]


def check_plain_file(root: Path, key: str) -> os.stat_result | None:
    """Status of a file, None when there is none.

    Raises
    ------
    FormatError
        Kind ``"not-a-file"``: a link, pipe, device or socket stands there, or a link on the way.
    """
    path, status = root, None
    parts = key.split("/")
    for number, part in enumerate(parts):
        path = path / part
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        last = number == len(parts) - 1
        if last and stat.S_ISDIR(status.st_mode):
            return None
        if not (stat.S_ISREG if last else stat.S_ISDIR)(status.st_mode):
            if stat.S_ISREG(status.st_mode):
                return None  # a file where a folder would be: the key does not exist
            raise FormatError(
                f"{root}: {key}: {path.name!r} is a link or no plain file",
                kind="not-a-file",
                hint="an archive holds plain files only; copy the archive with `cp -RL`",
            )
    return status


def read_file(root: Path, key: str, start: int = 0, length: int | None = None) -> bytes | None:
    """Bytes of a plain file, or of a range of it; None when there is none."""
    if check_plain_file(root, key) is None:
        return None
    handle = os.open(root / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        file.seek(start)
        if length is None:
            return file.read()
        # a limit is often far above what is there, and room for all of it would be taken at once
        return file.read(min(length, max(0, os.fstat(handle).st_size - start)))


def list_files(root: Path, prefix: str = "") -> list[str]:
    """Keys that begin with ``prefix``, sorted; links and pipes too, which no archive has.

    Raises
    ------
    OSError : a folder cannot be looked into, which is not the same as an empty one.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    top = root / prefix.rpartition("/")[0] if "/" in prefix else root
    keys = []
    for folder, folders, files in os.walk(top, onerror=fail):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        inside = Path(folder).relative_to(root)
        keys += [(inside / name).as_posix() for name in (*files, *links)]
    return sorted(key for key in keys if key.startswith(prefix))


def make_folder(path: Path) -> None:
    """Make a folder and those above it; their names are on disk afterwards."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folders([folder.parent])


def write_file(root: Path, key: str, data: bytes) -> None:
    """Write a file beside its place and rename it; on disk only after `sync_folders`."""
    path = root / key
    beside = _write_beside(path, data, sync=False)
    beside.replace(path)


def write_exclusive(root: Path, key: str, data: bytes) -> None:
    """Write a file unless there is one; what is there afterwards is on disk, with its name."""
    path = root / key
    beside = _write_beside(path, data, sync=True)
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    sync_folders([path.parent])


def _write_beside(path: Path, data: bytes, *, sync: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with beside.open("xb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return beside


def remove_empty_folders(top: Path) -> None:
    """Remove a folder and those in it, as far as they are empty; links are left alone."""
    if top.is_symlink() or not top.is_dir():
        return
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def sync_files(root: Path, keys: Iterable[str]) -> None:
    """Put files on disk, with their names and those of all folders down from the root's parent."""
    folders = {root.parent, root}
    for key in keys:
        path = root / key
        _sync(path)
        while (path := path.parent) not in folders:
            folders.add(path)
    sync_folders(sorted(folders, reverse=True))


def sync_folders(folders: Iterable[Path]) -> None:
    """Put the names in these folders on disk."""
    for folder in folders:
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
