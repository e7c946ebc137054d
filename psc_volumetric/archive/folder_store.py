"""What an archive needs of a store, and a folder of this machine as one, without Zarr.

Every failure of the storage below becomes a :class:`StorageError`, or a
:class:`ChecksumError` where the container itself (zip) says that it is damaged. What an archive in
a folder says of itself is read without Zarr, which takes longer to load than that.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from psc_volumetric.archive import folder
from psc_volumetric.archive.storage_errors import translated
from psc_volumetric.errors import PscError

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["ArchiveStore", "FolderStore"]


class ArchiveStore(ABC):
    """Keys to bytes, synchronously.

    Attributes
    ----------
    name : str
        How it is called in messages.
    root : Path or None
        Folder on this machine, when the store is one.
    is_remote : bool
        Whether each read is a request, so that many at once take no longer than one.
    lists : bool
        Whether it can say which keys there are.
    foreign_bytes : int
        Bytes of a zip file that belong to no member.
    bytes_read : int
        Bytes of objects that were read through this door since it was opened.
    """

    root: Path | None = None
    is_remote: bool = False
    lists: bool = True
    foreign_bytes: int = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes_read = 0
        self._counting = threading.Lock()

    @property
    @abstractmethod
    def store(self) -> Store:
        """The Zarr store whose root is the archive."""

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of a key, or of a range of it; None when the key is absent.

        Fewer bytes than asked for come back where the object ends.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Size of an object in bytes; None when absent."""

    @abstractmethod
    def listing(self, prefix: str = "") -> list[str]:
        """All keys that begin with ``prefix``, sorted."""

    @abstractmethod
    def set(self, key: str, data: bytes) -> None:
        """Write an object whole."""

    @abstractmethod
    def set_exclusive(self, key: str, data: bytes) -> bool:
        """Write only if the key is absent; True when the store now holds these bytes for good."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; absent ones are no error."""

    @abstractmethod
    def close(self) -> None:
        """Release file handles."""

    def get_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Parts of objects (key, start, length), of a store far away asked for at once.

        None for what did not come, whatever the reason; :meth:`get` says it.
        """
        found: list[bytes | None] = []
        for one in ranges:
            try:
                found.append(self.get(*one))
            except PscError:
                found.append(None)
        return found

    def heads(self, keys: Sequence[str], length: int) -> list[tuple[bytes | None, int | None]]:
        """First bytes and size of objects; likewise."""
        found: list[tuple[bytes | None, int | None]] = []
        for key in keys:
            try:
                found.append((self.get(key, 0, length), self.size(key)))
            except PscError:
                found.append((None, None))
        return found

    def flush(self, keys: Iterable[str]) -> None:
        """Put these objects and their names on disk, where there is one of this machine."""
        del keys

    def exists(self, key: str) -> bool:
        """Whether the key is there."""
        return self.size(key) is not None

    def put(self, key: str, data: bytes) -> None:
        """Write unless the same bytes are there already."""
        if self.size(key) != len(data) or self.get(key) != data:
            self.set(key, data)

    def _doing(self, what: str) -> contextlib.AbstractContextManager[None]:
        return translated(f"{self.name}: {what}", remote=self.is_remote)

    def _counted(self, data: bytes | None) -> bytes | None:
        with self._counting:
            self.bytes_read += len(data or b"")
        return data


class FolderStore(ArchiveStore):
    """A folder of this machine; objects are written beside their place and renamed.

    Parameters
    ----------
    root : Path
    name : str
        How to call it in messages.
    store : Store, optional
        Its Zarr store, if there is one already.
    write : bool
        Whether a Zarr store that is made may be written to.
    """

    root: Path

    def __init__(
        self, root: Path, name: str, *, store: Store | None = None, write: bool = False
    ) -> None:
        super().__init__(name)
        self.root = root
        self._given, self._write = store, write

    @cached_property
    def store(self) -> Store:
        """The Zarr store, made when something wants it."""
        from zarr.storage import LocalStore

        if self._given is not None:
            return self._given
        return LocalStore(self.root, read_only=not self._write)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of a file, or of a range of it."""
        if length == 0:
            return b""
        with self._doing(key):
            return self._counted(folder.read_file(self.root, key, start, length))

    def size(self, key: str) -> int | None:
        """Size of a file."""
        with self._doing(key):
            status = folder.check_plain_file(self.root, key)
            return None if status is None else status.st_size

    def listing(self, prefix: str = "") -> list[str]:
        """All files whose paths begin with ``prefix``."""
        with self._doing(f"listing {prefix!r}"):
            return folder.list_files(self.root, prefix)

    def set(self, key: str, data: bytes) -> None:
        """Write a file whole."""
        with self._doing(key):
            folder.write_file(self.root, key, data)

    def set_exclusive(self, key: str, data: bytes) -> bool:
        """Write a file unless it is there."""
        with self._doing(key):
            folder.write_exclusive(self.root, key, data)
        return self.get(key) == data

    def delete(self, key: str) -> None:
        """Remove a file."""
        with self._doing(key):
            (self.root / key).unlink(missing_ok=True)

    def flush(self, keys: Iterable[str]) -> None:
        """Put these files and their names on disk."""
        with self._doing("writing to disk"):
            folder.sync_files(self.root, keys)

    def close(self) -> None:
        """Release the Zarr store."""
        if "store" in self.__dict__:
            self.store.close()
