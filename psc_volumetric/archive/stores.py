"""One small door to bytes: local folder, zip file, or URL, the last two through Zarr stores.

Every failure of the storage below becomes a :class:`StorageError`, or a
:class:`ChecksumError` where the container itself (zip) says that it is damaged.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import struct
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zarr.abc.store import RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync  # the loop Zarr itself uses; async file systems are bound to it
from zarr.storage import FsspecStore, LocalStore

from psc_volumetric.archive import folder
from psc_volumetric.archive.storage_errors import failures, storage_error, translated
from psc_volumetric.archive.web import HttpStore, without_secrets
from psc_volumetric.archive.zipped import CheckedZip, local_zip, remote_zip
from psc_volumetric.errors import FormatError, StorageError
from psc_volumetric.extras import require

__all__ = [
    "ArchiveStore",
    "Target",
    "is_leftover",
    "is_url",
    "is_web",
    "is_zip_name",
    "open_store",
    "target_text",
    "upload_file",
]

REQUESTS = 16  # at once, to a store far away

_WEB = ("http://", "https://")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")  # a path may have colons, too
_LEFTOVER = re.compile(r"(^|[./])[0-9a-f]{32}\.partial$")

Target = str | os.PathLike[str] | Store


def is_zip_name(target: Target) -> bool:
    """Whether the name asks for one zip file."""
    if isinstance(target, Store):
        return False
    text = os.fspath(target)
    return (urlsplit(text).path if is_web(text) else text).lower().endswith(".zip")


def is_url(target: Target) -> bool:
    """Whether the target is not on this machine's file system."""
    if isinstance(target, Store):
        return not isinstance(target, LocalStore)
    text = os.fspath(target)
    return _PROTOCOL.match(text) is not None and not text.startswith("file://")


def is_web(target: Target) -> bool:
    """Whether the target is behind a web server, which is read from and lists nothing."""
    return not isinstance(target, Store) and os.fspath(target).startswith(_WEB)


def is_leftover(key: str) -> bool:
    """Whether this is a temporary file of a write that was killed."""
    return _LEFTOVER.search(key) is not None


def target_text(target: Target) -> str:
    """The target as people write it, for messages; of a web address without its secrets."""
    if isinstance(target, Store):
        return str(target)
    text = os.fspath(target)
    return without_secrets(text) if is_web(text) else text


class ArchiveStore:
    """Keys to bytes, synchronously.

    Parameters
    ----------
    store : zarr.abc.store.Store
        An open Zarr store whose root is the archive.
    name : str
        How to call it in messages.
    root : Path, optional
        Folder on this machine, when the store is one.

    Attributes
    ----------
    is_remote : bool
        Whether each read is a request, so that many at once take no longer than one.
    lists : bool
        Whether it can say which keys there are.
    bytes_read : int
        Bytes of objects that were read through this door since it was opened.
    """

    def __init__(self, store: Store, name: str, *, root: Path | None = None) -> None:
        self.store = store
        self.bytes_read = 0
        self._counting = threading.Lock()
        self.name = name
        self.root = root
        is_zip = isinstance(store, CheckedZip)
        self.is_remote = store.is_remote if isinstance(store, CheckedZip) else root is None
        self.lists = is_zip or store.supports_listing

    @property
    def foreign_bytes(self) -> int:
        """Bytes of a zip file that belong to no member."""
        return self.store.outside if isinstance(self.store, CheckedZip) else 0

    def _doing(self, what: str) -> contextlib.AbstractContextManager[None]:
        return translated(f"{self.name}: {what}", remote=self.is_remote)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of a key, or of a range of it; None when the key is absent.

        Fewer bytes than asked for come back where the object ends.
        """
        if length == 0:
            return b""
        wanted = None if length is None else RangeByteRequest(start, start + length)
        with self._doing(key):
            if self.root is not None:
                return self._counted(folder.read_file(self.root, key, start, length))
            found = sync(self.store.get(key, default_buffer_prototype(), wanted))
        return self._counted(None if found is None else found.to_bytes())

    def _counted(self, data: bytes | None) -> bytes | None:
        with self._counting:
            self.bytes_read += len(data or b"")
        return data

    def size(self, key: str) -> int | None:
        """Size of an object in bytes; None when absent."""
        with self._doing(key):
            if self.root is not None:
                status = folder.check_plain_file(self.root, key)
                return None if status is None else status.st_size
            if isinstance(self.store, CheckedZip):
                return self.store.size(key)
            try:
                return sync(self.store.getsize(key))
            except FileNotFoundError:
                return None

    def get_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Parts of objects (key, start, length), asked for at once.

        None for what did not come, whatever the reason; :meth:`get` says it.
        """
        return sync(_together([partial(self._range, *one) for one in ranges]))

    def heads(self, keys: Sequence[str], length: int) -> list[tuple[bytes | None, int | None]]:
        """First bytes and size of objects, asked for at once; None for what did not come."""
        first = [partial(self._range, key, 0, length) for key in keys]
        sizes = [partial(self.store.getsize, key) for key in keys]
        if isinstance(self.store, HttpStore):  # which learns sizes from the first bytes
            return list(zip(sync(_together(first)), sync(_together(sizes)), strict=True))
        both = sync(_together([*first, *sizes]))
        return list(zip(both[: len(keys)], both[len(keys) :], strict=True))

    async def _range(self, key: str, start: int, length: int) -> bytes | None:
        wanted = RangeByteRequest(start, start + length)
        found = await self.store.get(key, default_buffer_prototype(), wanted)
        return self._counted(None if found is None else found.to_bytes())

    def exists(self, key: str) -> bool:
        """Whether the key is there."""
        return self.size(key) is not None

    def listing(self, prefix: str = "") -> list[str]:
        """All keys that begin with ``prefix``, sorted."""

        async def collect() -> list[str]:
            return [key async for key in self.store.list_prefix(prefix)]

        with self._doing(f"listing {prefix!r}"):
            if self.root is not None:
                return folder.list_files(self.root, prefix)
            try:
                return sorted(key for key in sync(collect()) if not key.endswith("/"))
            except FileNotFoundError:
                return []

    def set(self, key: str, data: bytes) -> None:
        """Write an object whole; in a folder it is written beside its place and renamed."""
        with self._doing(key):
            if self.root is not None:
                folder.write_file(self.root, key, data)
            else:
                sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(data)))

    def put(self, key: str, data: bytes) -> None:
        """Write unless the same bytes are there already."""
        if self.size(key) != len(data) or self.get(key) != data:
            self.set(key, data)

    def set_exclusive(self, key: str, data: bytes) -> bool:
        """Write only if the key is absent; True when the store now holds these bytes for good."""
        with self._doing(key):
            if self.root is not None:
                folder.write_exclusive(self.root, key, data)
            else:
                sync(_create(self.store, key, data))
        return self.get(key) == data

    def delete(self, key: str) -> None:
        """Remove an object; absent ones are no error."""
        with self._doing(key):
            if self.root is not None:
                (self.root / key).unlink(missing_ok=True)
            else:
                sync(self.store.delete(key))

    def flush(self, keys: Iterable[str]) -> None:
        """Put these objects and their names on disk (local folders only)."""
        if self.root is not None:
            with self._doing("writing to disk"):
                folder.sync_files(self.root, keys)

    def close(self) -> None:
        """Release file handles."""
        self.store.close()


async def _together(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Results of calls that run at once, some `REQUESTS` of them; None for those that fail."""
    limit = asyncio.Semaphore(REQUESTS)
    expected: tuple[type[Exception], ...] = (zipfile.BadZipFile, *failures())

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        async with limit:
            try:
                return await call()
            except expected:
                return None

    return await asyncio.gather(*map(one, calls))


async def _create(store: Store, key: str, data: bytes) -> None:
    """Write an object unless there is one, in one step where the store can do that."""
    buffer = default_buffer_prototype().buffer.from_bytes(data)
    if not isinstance(store, FsspecStore):
        await store.set_if_not_exists(key, buffer)
        return
    try:
        await store.fs._pipe_file(f"{store.path.rstrip('/')}/{key}", data, mode="create")
    except (TypeError, NotImplementedError):  # a file system that knows no modes
        await store.set_if_not_exists(key, buffer)
    except OSError as error:
        if await store.exists(key):
            return
        if error.errno != errno.ENOSYS:
            raise
        await store.set(key, buffer)  # a server that knows no conditions


def open_store(
    target: Target, *, write: bool = False, options: Mapping[str, Any] | None = None
) -> ArchiveStore:
    """Open where an archive is or will be.

    Parameters
    ----------
    target : str, path or zarr Store
        Folder, zip file, or URL such as ``s3://bucket/scan.psc.zarr``.
    write : bool
        Open for writing; a folder is made. Zip files are never written in place.
    options : mapping, optional
        Storage options for fsspec, for URLs.

    Raises
    ------
    StorageError : nothing there, not readable, or the URL needs a package that is missing.
    FormatError : a file that is not a zip file.
    """
    if isinstance(target, Store):
        root = target.root if isinstance(target, LocalStore) else None
        return ArchiveStore(target, str(target), root=root)
    text = os.fspath(target)
    if is_url(target):
        return ArchiveStore(_remote_store(text, write=write, options=options), target_text(target))
    text = text.removeprefix("file://")
    path = Path(text)
    with translated(text):
        if write:
            folder.make_folder(path)
        if write or path.is_dir():
            return ArchiveStore(LocalStore(path, read_only=not write), text, root=path)
        if not path.exists():
            raise StorageError(f"{text}: there is nothing", kind="not-found", hint="check the path")
    try:
        with _opening_zip(text):
            return ArchiveStore(local_zip(path), text)
    except OSError as error:
        raise storage_error(text, error, remote=False) from error


@contextlib.contextmanager
def _opening_zip(name: str) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        EOFError,
        UnicodeError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise FormatError(
            f"{name}: expected an archive (a folder, or a zip file), found a file that is not a "
            f"whole zip file ({error})",
            kind="not-an-archive",
            hint="it is something else, or was cut short when copied",
        ) from error


def _remote_store(url: str, *, write: bool, options: Mapping[str, Any] | None) -> Store:
    if is_zip_name(url) and write:
        raise StorageError(
            f"{url}: zip files are written on this machine only",
            kind="unsupported-target",
            hint="make it here and copy it there, or make an archive without .zip at the URL",
        )
    if is_web(url) and write:
        raise StorageError(
            f"{target_text(url)}: a web server is only read from",
            kind="unsupported-target",
            hint="write to a folder or an object store that the server serves",
        )
    try:
        with translated(target_text(url), remote=True), _opening_zip(target_text(url)):
            if is_zip_name(url):
                return remote_zip(target_text(url), lambda: _objects(url, options, write=False))
            return _objects(url, options, write=write)
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{target_text(url)}: this kind of URL cannot be opened ({error})",
            kind="unsupported-target",
            hint="check its spelling, or install the package that fsspec needs for it",
        ) from error


def _objects(url: str, options: Mapping[str, Any] | None, *, write: bool) -> Store:
    """The objects below a URL, or the one that is there."""
    if is_web(url):
        require("http", target_text(url))
        return HttpStore(url, options, whole=not is_zip_name(url))
    if re.match(r"s3a?://", url):
        require("s3", url)
    return FsspecStore.from_url(
        url, storage_options=None if options is None else dict(options), read_only=not write
    )


def upload_file(path: Path, url: str, options: Mapping[str, Any] | None = None) -> bool:
    """Write a file of this machine to a URL unless something is there; whether it was written.

    Raises
    ------
    StorageError : the server refuses, or fails.
    """
    from fsspec.core import url_to_fs

    if re.match(r"s3a?://", url):
        require("s3", url)
    with translated(url, remote=True):
        files, place = url_to_fs(url, **dict(options or {}))
        try:
            files.put_file(str(path), place, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno != errno.ENOSYS or files.exists(place):
                raise
            files.put_file(str(path), place)  # a server that knows no conditions
    return True
