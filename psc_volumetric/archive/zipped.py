"""A zip archive open for reading, from this machine or from a URL.

The members are checked before one is read: stored, not encrypted, each name once and a legal key,
no two over the same bytes.
"""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from zarr.storage import ZipStore

from psc_volumetric.archive.documents import check_key
from psc_volumetric.errors import FormatError

__all__ = ["CheckedZip", "local_zip", "remote_zip"]

LOCAL_HEADER, CENTRAL_HEADER, END, END_64 = 30, 46, 22, 76
READ_AHEAD = 1 << 20  # bytes of one request to a URL


class CheckedZip(ZipStore):
    """Zarr's zip store over an open file, its directory checked.

    Parameters
    ----------
    name : str
        For messages.
    reopen : callable
        Gives the file, also in another process.

    Attributes
    ----------
    outside : int
        Bytes of the file that belong to no member and not to the directory.
    """

    def __init__(self, name: str, reopen: Callable[[], BinaryIO]) -> None:
        super().__init__(Path(name), mode="r", read_only=True)
        self._name = name
        self._reopen = reopen
        self.outside = 0
        self._sync_open()

    def _sync_open(self) -> None:
        self._lock = threading.RLock()
        file = self._reopen()
        try:
            self._zf = zipfile.ZipFile(file)
            self.outside = _check_members(self._zf, file.seek(0, os.SEEK_END), self._name)
        except BaseException:
            file.close()
            raise
        self._file = file
        self._is_open = True

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_file", None)
        return state

    def size(self, key: str) -> int | None:
        """Bytes of a member; None when absent."""
        try:
            return self._zf.getinfo(key).file_size
        except KeyError:
            return None

    def close(self) -> None:
        """Release the file."""
        super().close()
        self._file.close()


def local_zip(path: Path) -> CheckedZip:
    """Open a zip file of this machine; FormatError when it is no plain file."""

    def opened() -> BinaryIO:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise FormatError(
                f"{path}: a pipe or device, no file", kind="not-a-file", hint="check the path"
            )
        return os.fdopen(handle, "rb")

    return CheckedZip(str(path), opened)


def remote_zip(url: str, options: Mapping[str, Any] | None) -> CheckedZip:
    """Open a zip file at a URL; only the ranges that are needed are transferred."""

    def opened() -> BinaryIO:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url, **dict(options or {}))
        file: BinaryIO = files.open(path, "rb", block_size=READ_AHEAD)
        return file

    return CheckedZip(url, opened)


def _check_members(packed: zipfile.ZipFile, size: int, name: str) -> int:
    """Refuse members that no archive has; bytes of the file that nothing accounts for."""
    seen: set[str] = set()
    spans = []
    for info in packed.infolist():
        if info.filename.endswith("/") and not info.file_size:
            continue
        check_key(info.filename, where=name)
        if info.filename in seen:
            raise _refused(name, info.filename, "is there twice")
        seen.add(info.filename)
        if info.flag_bits & 1:
            raise _refused(name, info.filename, "is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _refused(name, info.filename, "is compressed; archives store their members")
        length = LOCAL_HEADER + len(info.orig_filename.encode()) + info.file_size
        spans.append((info.header_offset, info.header_offset + length, info.filename))
    end = 0
    for start, stop, member in sorted(spans):
        if start < end or stop > packed.start_dir:
            raise _refused(name, member, "lies over another part of the file")
        end = stop
    return size - _expected_size(packed)


def _expected_size(packed: zipfile.ZipFile) -> int:
    """Size of a file with these members and nothing else."""
    entries = [
        CENTRAL_HEADER + len(i.orig_filename.encode()) + len(i.extra) + len(i.comment)
        for i in packed.infolist()
    ]
    large = len(entries) >= 0xFFFF or packed.start_dir > 0xFFFFFFFF or sum(entries) > 0xFFFFFFFF
    return packed.start_dir + sum(entries) + END + (END_64 if large else 0)


def _refused(name: str, member: str, what: str) -> FormatError:
    return FormatError(
        f"{name}: member {member[:200]!r} {what}",
        kind="bad-zip",
        hint="it was not made by psc-archive, or was packed again; unpack it and open the folder",
    )
