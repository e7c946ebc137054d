"""One small door to bytes: local folder, zip file, or URL, all through Zarr stores.

Every failure of the storage below becomes a :class:`StorageError`, or a
:class:`ChecksumError` where the container itself (zip) says that it is damaged.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync  # the loop Zarr itself uses; async file systems are bound to it
from zarr.storage import FsspecStore, LocalStore, ZipStore

from psc_volumetric.errors import ChecksumError, FormatError, StorageError

__all__ = ["ArchiveStore", "Target", "is_leftover", "is_zip_name", "open_store", "target_text"]

_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.partial$")

Target = str | os.PathLike[str] | Store


def is_zip_name(target: Target) -> bool:
    """Whether the name asks for one zip file."""
    return not isinstance(target, Store) and os.fspath(target).lower().endswith(".zip")


def is_leftover(key: str) -> bool:
    """Whether this is a temporary file of a write that was killed."""
    return _LEFTOVER.search(key) is not None


def target_text(target: Target) -> str:
    """The target as people write it, for messages."""
    return str(target) if isinstance(target, Store) else os.fspath(target)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ChecksumError(
            f"{what}: the zip file is damaged here ({error})",
            kind="zip-damaged",
            hint="get another copy; `psc-archive verify` lists what is still good",
        ) from error
    except OSError as error:
        raise StorageError(
            f"{what}: the storage failed ({error.__class__.__name__}: {error})",
            kind="storage-failed",
            hint="check the path, the rights and the connection, then try again",
        ) from error


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
    """

    def __init__(self, store: Store, name: str, *, root: Path | None = None) -> None:
        self.store = store
        self.name = name
        self.root = root

    @property
    def cheap_sizes(self) -> bool:
        """Whether asking for a size costs no round trip over a network."""
        return isinstance(self.store, (LocalStore, ZipStore))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of a key, or of a range of it; None when the key is absent.

        Fewer bytes than asked for come back where the object ends.
        """
        wanted = None if length is None else RangeByteRequest(start, start + length)
        if length == 0:
            return b""
        with _translated(f"{self.name}: {key}"):
            found = sync(self.store.get(key, default_buffer_prototype(), wanted))
        return None if found is None else found.to_bytes()

    def size(self, key: str) -> int | None:
        """Size of an object in bytes; None when absent."""
        if isinstance(self.store, LocalStore):
            path = self.store.root / key
            return path.stat().st_size if path.is_file() else None
        with _translated(f"{self.name}: {key}"):
            try:
                return sync(self.store.getsize(key))
            except FileNotFoundError:
                return None

    def exists(self, key: str) -> bool:
        """Whether the key is there."""
        with _translated(f"{self.name}: {key}"):
            return sync(self.store.exists(key))

    def listing(self, prefix: str = "") -> list[str]:
        """All keys that begin with ``prefix``, sorted."""

        async def collect() -> list[str]:
            return [key async for key in self.store.list_prefix(prefix)]

        with _translated(f"{self.name}: listing {prefix!r}"):
            try:
                return sorted(sync(collect()))
            except FileNotFoundError:
                return []

    def set(self, key: str, data: bytes) -> None:
        """Write an object whole; local stores write beside it and rename."""
        with _translated(f"{self.name}: {key}"):
            sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(data)))

    def put(self, key: str, data: bytes) -> None:
        """Write unless the same bytes are there already."""
        if self.size(key) != len(data) or self.get(key) != data:
            self.set(key, data)

    def set_exclusive(self, key: str, data: bytes) -> bool:
        """Write only if the key is absent; True when the store now holds these bytes."""
        with _translated(f"{self.name}: {key}"):
            buffer = default_buffer_prototype().buffer.from_bytes(data)
            sync(self.store.set_if_not_exists(key, buffer))
        return self.get(key) == data

    def delete(self, key: str) -> None:
        """Remove an object; absent ones are no error."""
        with _translated(f"{self.name}: {key}"):
            sync(self.store.delete(key))

    def flush(self, keys: Iterable[str]) -> None:
        """Ask the operating system to put these objects on disk (local folders only)."""
        if self.root is None:
            return
        files = [self.root / key for key in keys]
        with _translated(f"{self.name}: writing to disk"):
            for entry in [*files, *{path.parent for path in files}]:
                handle = os.open(entry, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def close(self) -> None:
        """Release file handles."""
        self.store.close()


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
        return ArchiveStore(target, str(target))
    text = os.fspath(target)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text or "::" in text:
        return ArchiveStore(_remote_store(text, write=write, options=options), text)
    path = Path(text)
    with _translated(text):
        if write:
            return ArchiveStore(sync(LocalStore.open(path)), text, root=path)
        if path.is_dir():
            return ArchiveStore(sync(LocalStore.open(path, read_only=True)), text, root=path)
        if not path.exists():
            raise StorageError(f"{text}: there is nothing", kind="not-found", hint="check the path")
    try:
        return ArchiveStore(sync(ZipStore.open(path, mode="r")), text)
    except (zipfile.BadZipFile, EOFError) as error:
        raise FormatError(
            f"{text}: expected an archive (a folder, or a zip file), found a file that is not a "
            f"whole zip file ({error})",
            kind="not-an-archive",
            hint="it is something else, or was cut short when copied",
        ) from error


def _remote_store(url: str, *, write: bool, options: Mapping[str, Any] | None) -> Store:
    if is_zip_name(url):
        raise StorageError(
            f"{url}: zip files are read from this machine only",
            kind="unsupported-target",
            hint="copy it here, or keep the archive as a folder at the URL",
        )
    try:
        return FsspecStore.from_url(
            url, storage_options=None if options is None else dict(options), read_only=not write
        )
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"{url}: this kind of URL cannot be opened ({error})",
            kind="unsupported-target",
            hint='install the package it needs, for s3:// that is `pip install "psc-archive[s3]"`',
        ) from error
