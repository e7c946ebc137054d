"""Source files by name and content: digests, names below a common folder, names safe to write."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from adapters.base import FileRecord
from adapters.errors import SourceError

__all__ = [
    "FileStates",
    "file_records",
    "file_states",
    "open_plain",
    "safe_name",
    "safe_target",
    "source_paths",
]

_HASH_BLOCK = 1 << 20

FileStates = tuple[tuple[int, int, int, int], ...]


def safe_name(text: str, fallback: str) -> str:
    """Reduce ``text`` to ``[A-Za-z0-9_.-]+``, not starting with a dot, dash or underscore."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).rstrip("_").lstrip("._-")
    return name or fallback


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read its bytes; a pipe or device, which may never end, is refused.

    Raises
    ------
    OSError
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "a folder, pipe or device, no file", str(path))
    return os.fdopen(handle, "rb")


def file_states(paths: Iterable[Path]) -> FileStates:
    """What tells a file from another one that gets its name, without reading it.

    Returns
    -------
    tuple of (size, mtime_ns, ctime_ns, inode)
        Zeros for a file that is not there: whoever opens it says so.
    """
    states = []
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            states.append((0, 0, 0, 0))
        else:
            states.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return tuple(states)


def file_records(paths: Iterable[Path]) -> tuple[FileRecord, ...]:
    """Hash files, block by block; names are relative to their deepest common folder.

    Raises
    ------
    SourceError : kind ``"unreadable"``.
    """
    listed = list(paths)
    root = _common_folder(listed)
    records = []
    for path in listed:
        digest, size = hashlib.sha256(), 0
        try:
            with open_plain(path) as stream:
                while block := stream.read(_HASH_BLOCK):
                    digest.update(block)
                    size += len(block)
        except OSError as error:
            raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from (
                error
            )
        name = path.absolute().relative_to(root).as_posix()
        records.append(FileRecord(name=name, size=size, sha256=digest.hexdigest()))
    return tuple(records)


def source_paths(records: Sequence[FileRecord], paths: Sequence[Path]) -> list[Path]:
    """Give the path behind each record that `file_records` made of these paths."""
    root = _common_folder(paths)
    return [root / record.name for record in records]


def _common_folder(paths: Sequence[Path]) -> Path:
    parents = [path.absolute().parent for path in paths]
    common = parents[0]
    while not all(parent.is_relative_to(common) for parent in parents):
        common = common.parent
    return common


def safe_target(folder: Path, name: str) -> Path:
    """Join a stored relative name to a folder, refusing names that leave it.

    Raises
    ------
    SourceError : kind ``"unsafe-name"``.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or not relative.parts or ".." in relative.parts or "\\" in name:
        raise SourceError(
            f"expected a relative file name inside the target folder, found {name!r}",
            kind="unsafe-name",
            hint="the archive's source record is damaged or hostile",
        )
    return folder.joinpath(*relative.parts)
