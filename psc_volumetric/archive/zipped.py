"""A zip archive open for reading, from this machine or from far away, by ranges of its bytes.

The members are checked before one is read: stored, not encrypted, each name once and a legal key,
no two over the same bytes. A member is a range of the file; its local header is read, and compared
with the directory, together with its first bytes.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import ZipStore

from psc_volumetric.archive.documents import check_key
from psc_volumetric.errors import FormatError

__all__ = ["CheckedZip", "local_zip", "remote_zip"]

LOCAL_HEADER, CENTRAL_HEADER, END, END_64 = 30, 46, 22, 76
LOCAL_MAGIC = b"PK\3\4"
TAIL = 16 << 10  # bytes at the end that are read first: all of the directory of a small archive


class _File(Protocol):
    """The bytes of a zip file."""

    @property
    def size(self) -> int:
        """How many."""
        ...

    async def read(self, start: int, length: int) -> bytes:
        """A range; fewer bytes where the file ends."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class _LocalFile:
    """A file of this machine; any number of threads read it at once."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._release = weakref.finalize(self, os.close, self._handle)  # at the latest
        status = os.fstat(self._handle)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FormatError(
                f"{path}: a pipe or device, no file", kind="not-a-file", hint="check the path"
            )

    async def read(self, start: int, length: int) -> bytes:
        """A range, by one call that moves no file position."""
        return os.pread(self._handle, length, start)

    def close(self) -> None:
        """Release the file."""
        self._release()
        self._handle = -1


class _RemoteFile:
    """An object of a Zarr store, whose root it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.size = sync(store.getsize(""))

    async def read(self, start: int, length: int) -> bytes:
        """A range, by one request."""
        wanted = RangeByteRequest(start, start + length)
        found = await self._store.get("", default_buffer_prototype(), wanted)
        if found is None:
            raise FileNotFoundError(str(self._store))
        return found.to_bytes()

    def close(self) -> None:
        """Release the store."""
        self._store.close()


class _Window(io.RawIOBase):
    """What ``zipfile`` reads the directory through; the end of the file is read once."""

    def __init__(self, file: _File) -> None:
        self._file, self._at = file, 0
        self._tail_start = max(0, file.size - TAIL)
        self._tail = sync(file.read(self._tail_start, TAIL))

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError("before the start of the file")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        length = left if size < 0 else min(size, left)
        if self._at >= self._tail_start:
            first = self._at - self._tail_start
            data = self._tail[first : first + length]
        else:
            data = sync(self._file.read(self._at, length)) if length else b""
        self._at += len(data)
        return data


class CheckedZip(ZipStore):
    """Zarr's zip store over ranges of a file, its directory checked.

    Parameters
    ----------
    name : str
        For messages.
    reopen : callable
        Gives the file, also in another process.
    is_remote : bool
        Whether reading takes requests to another machine.

    Attributes
    ----------
    outside : int
        Bytes of the file that belong to no member and not to the directory.
    """

    def __init__(self, name: str, reopen: Callable[[], _File], *, is_remote: bool = False) -> None:
        super().__init__(Path(name), mode="r", read_only=True)
        self._name = name
        self._reopen = reopen
        self.is_remote = is_remote
        self.outside = 0
        self._sync_open()

    def _sync_open(self) -> None:
        self._lock = threading.RLock()
        file = self._reopen()
        try:
            self._zf = zipfile.ZipFile(_Window(file))
            spans = _check_members(self._zf, self._name)
        except BaseException:
            file.close()
            raise
        self.outside = file.size - _expected_size(self._zf)
        self._extra = _without_extra(spans, self._zf.start_dir)
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

    async def getsize(self, key: str) -> int:
        """Bytes of a member; FileNotFoundError when absent."""
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Bytes of a member, or of a range of it; None when absent.

        Raises
        ------
        zipfile.BadZipFile : the member's own header is not what the directory says.
        """
        try:
            info = self._zf.getinfo(key)
        except KeyError:
            return None
        start, stop = _bounds(byte_range, info.file_size)
        return prototype.buffer.from_bytes(await self._member(info, start, stop))

    async def _member(self, info: zipfile.ZipInfo, start: int, stop: int) -> bytes:
        """Bytes of a member; its own header is looked at before the first of them."""
        head = _head_size(info)
        if start and info.filename not in self._extra:
            await self._member(info, 0, 0)
        if start:
            place = info.header_offset + head + self._extra[info.filename] + start
            return await self._file.read(place, stop - start)
        guessed = self._extra.get(info.filename, 0)
        data = await self._file.read(info.header_offset, head + guessed + stop)
        extra = self._extra[info.filename] = _check_header(data[:head], info)
        if extra > guessed:
            data += await self._file.read(info.header_offset + len(data), extra - guessed)
        return data[head + extra : head + extra + stop]

    def close(self) -> None:
        """Release the file."""
        super().close()
        self._file.close()


def local_zip(path: Path) -> CheckedZip:
    """Open a zip file of this machine; FormatError when it is no plain file."""
    return CheckedZip(str(path), lambda: _LocalFile(path))


def remote_zip(name: str, open_object: Callable[[], Store]) -> CheckedZip:
    """Open a zip file that is the root of a Zarr store; only what is needed is transferred."""
    return CheckedZip(name, lambda: _RemoteFile(open_object()), is_remote=True)


def _bounds(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    """Start and stop of a request within a member."""
    start, stop = 0, size
    if isinstance(wanted, RangeByteRequest):
        start, stop = wanted.start, min(wanted.end, size)
    elif isinstance(wanted, OffsetByteRequest):
        start = wanted.offset
    elif isinstance(wanted, SuffixByteRequest):
        start = max(0, size - wanted.suffix)
    return min(start, size), max(stop, min(start, size))


def _head_size(info: zipfile.ZipInfo) -> int:
    """Bytes of a member's own header without its extra field."""
    return LOCAL_HEADER + len(info.orig_filename.encode())


def _check_header(head: bytes, info: zipfile.ZipInfo) -> int:
    """Compare a member's own header with the directory; bytes of its extra field."""
    if head[:4] != LOCAL_MAGIC or head[LOCAL_HEADER:] != info.orig_filename.encode():
        raise zipfile.BadZipFile(f"the header of {info.filename!r} is not its own")
    return int.from_bytes(head[28:30], "little")


def _check_members(packed: zipfile.ZipFile, name: str) -> list[tuple[int, int, str]]:
    """Refuse members that no archive has; where each begins and ends at least, sorted."""
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
        stop = info.header_offset + _head_size(info) + info.file_size
        spans.append((info.header_offset, stop, info.filename))
    spans.sort()
    end = 0
    for start, stop, member in spans:
        if start < end or stop > packed.start_dir:
            raise _refused(name, member, "lies over another part of the file")
        end = stop
    return spans


def _without_extra(spans: list[tuple[int, int, str]], end: int) -> dict[str, int]:
    """Members that leave no room for an extra field before what follows them."""
    followers = [*(start for start, _, _ in spans), end][1:]
    return {
        member: 0
        for (_, stop, member), next_ in zip(spans, followers, strict=True)
        if stop == next_
    }


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
