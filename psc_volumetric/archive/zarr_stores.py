"""Zarr stores as an `ArchiveStore` needs them: all but folders, which are read without Zarr."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import struct
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zarr.abc.buffer import Buffer
from zarr.abc.store import RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync  # the loop Zarr itself uses; async file systems are bound to it
from zarr.storage import FsspecStore

from psc_volumetric.archive.addresses import (
    Target,
    is_url,
    is_web,
    is_zip_name,
    root_of,
    target_text,
)
from psc_volumetric.archive.folder_store import ArchiveStore, FolderStore
from psc_volumetric.archive.storage_errors import failures, storage_error, translated
from psc_volumetric.archive.web import HttpStore
from psc_volumetric.archive.zipped import CheckedZip, local_zip, remote_zip
from psc_volumetric.errors import FormatError, StorageError
from psc_volumetric.extras import require

__all__ = ["ZarrStore", "open_zarr_store"]

REQUESTS = 16  # at once, to a store far away


class ZarrStore(ArchiveStore):
    """Keys of a Zarr store: a zip file, objects behind a URL, or memory.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Open; its root is the archive.
    name : str
        How to call it in messages.
    """

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(name)
        self._store = store
        self._zip = store if isinstance(store, CheckedZip) else None
        self.is_remote = self._zip is None or self._zip.is_remote
        self.lists = self._zip is not None or store.supports_listing

    @property
    def store(self) -> Store:
        """The Zarr store."""
        return self._store

    @property
    def foreign_bytes(self) -> int:  # type: ignore[override]
        """Bytes of a zip file that belong to no member."""
        return 0 if self._zip is None else self._zip.outside

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of an object, or of a range of it."""
        if length == 0:
            return b""
        with self._doing(key):
            return sync(self._range(key, start, length))

    def size(self, key: str) -> int | None:
        """Size of an object in bytes."""
        with self._doing(key):
            if self._zip is not None:
                return self._zip.size(key)
            try:
                return sync(self._store.getsize(key))
            except FileNotFoundError:
                return None

    def get_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Parts of objects, asked for at once."""
        return sync(_together([partial(self._range, *one) for one in ranges]))

    def heads(self, keys: Sequence[str], length: int) -> list[tuple[bytes | None, int | None]]:
        """First bytes and size of objects, asked for at once."""
        first = [partial(self._range, key, 0, length) for key in keys]
        sizes = [partial(self._store.getsize, key) for key in keys]
        if isinstance(self._store, HttpStore):  # which learns sizes from the first bytes
            return list(zip(sync(_together(first)), sync(_together(sizes)), strict=True))
        both = sync(_together([*first, *sizes]))
        return list(zip(both[: len(keys)], both[len(keys) :], strict=True))

    async def _range(self, key: str, start: int, length: int | None) -> bytes | None:
        wanted = None if length is None else RangeByteRequest(start, start + length)
        found = await self._store.get(key, default_buffer_prototype(), wanted)
        return self._counted(None if found is None else found.to_bytes())

    def listing(self, prefix: str = "") -> list[str]:
        """All keys that begin with ``prefix``, sorted."""

        async def collect() -> list[str]:
            return [key async for key in self._store.list_prefix(prefix)]

        with self._doing(f"listing {prefix!r}"):
            try:
                return sorted(key for key in sync(collect()) if not key.endswith("/"))
            except FileNotFoundError:
                return []

    def set(self, key: str, data: bytes) -> None:
        """Write an object whole."""
        with self._doing(key):
            sync(self._store.set(key, _buffer(data)))

    def set_exclusive(self, key: str, data: bytes) -> bool:
        """Write an object unless it is there."""
        with self._doing(key):
            sync(_create(self._store, key, data))
        return self.get(key) == data

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._doing(key):
            sync(self._store.delete(key))

    def close(self) -> None:
        """Release file handles."""
        self._store.close()


def _buffer(data: bytes) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(data)


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
    buffer = _buffer(data)
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


def open_zarr_store(
    target: Target, *, write: bool, options: Mapping[str, Any] | None
) -> ArchiveStore:
    """`open_store` of what is no folder by its path: a Zarr store, a URL, a zip file."""
    if not isinstance(target, (str, os.PathLike)):
        root = root_of(target)
        if root is not None:
            return FolderStore(root, str(target), store=target)
        return ZarrStore(target, str(target))
    text = os.fspath(target)
    if is_url(target):
        return ZarrStore(_remote_store(text, write=write, options=options), target_text(target))
    text = text.removeprefix("file://")
    try:
        with _opening_zip(text):
            return ZarrStore(local_zip(Path(text)), text)
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
    inside, _, outside = url.rpartition("::")
    if inside and ":" not in outside and "/" not in outside:
        raise StorageError(
            f"{target_text(url)}: expected an address at the end of the chain, found {outside!r}",
            kind="unsupported-target",
            hint=f"what is opened last stands first: {outside}::{inside}",
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
