"""Reading keys of a sealed archive: nothing comes back that the manifest does not vouch for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

from psc_volumetric.archive.layout import ATTRIBUTE, MANIFEST_KEY, METADATA_KEY, PARTIAL_KEY
from psc_volumetric.archive.manifest import Entry, Manifest, sha256_hex
from psc_volumetric.archive.stores import ArchiveStore
from psc_volumetric.errors import ChecksumError, FormatError

__all__ = ["SealedStore", "load_manifest"]


def load_manifest(store: ArchiveStore) -> Manifest:
    """The manifest of a sealed archive.

    Raises
    ------
    FormatError
        Kind ``"not-sealed"`` for an archive that was never finished, ``"not-an-archive"`` for
        anything else without a manifest; see also :meth:`Manifest.from_bytes`.
    """
    data = store.get(MANIFEST_KEY)
    if data is not None:
        return Manifest.from_bytes(data, where=store.name)
    if store.exists(PARTIAL_KEY) or _names_itself(store):
        raise FormatError(
            f"{store.name}: {MANIFEST_KEY} is missing, so this archive was never finished (or was "
            "copied incompletely)",
            kind="not-sealed",
            hint="run the same archive command again; it continues where it stopped",
        )
    raise FormatError(
        f"{store.name}: expected {MANIFEST_KEY}, found none; this is not a psc-archive",
        kind="not-an-archive",
        hint="give the folder, zip file or URL that `psc-archive archive` made",
    )


def _names_itself(store: ArchiveStore) -> bool:
    try:
        return ATTRIBUTE in json.loads(store.get(METADATA_KEY) or b"{}")["attributes"]
    except (ValueError, KeyError, TypeError):
        return False


def missing(name: str, key: str) -> FormatError:
    """The error for a listed key that the store does not have."""
    return FormatError(
        f"{name}: {key} is in the manifest but not in the store",
        kind="missing-key",
        hint="get this object from another copy; `psc-archive verify` lists all that is wrong",
    )


def wrong_size(name: str, key: str, expected: int, found: int) -> FormatError:
    """The error for an object that is longer or shorter than listed."""
    return FormatError(
        f"{name}: {key}: expected {expected} bytes, found {found}",
        kind="wrong-size",
        hint="the object is cut or was changed; `psc-archive verify` lists all that is wrong",
    )


def check_bytes(name: str, key: str, entry: Entry, data: bytes) -> None:
    """Refuse bytes that are not the listed ones."""
    if len(data) != entry.size:
        raise wrong_size(name, key, entry.size, len(data))
    found = sha256_hex(data)
    if found != entry.sha256:
        raise ChecksumError(
            f"{name}: {key}: expected SHA-256 {entry.sha256}, found {found}",
            kind="sha256",
            hint="the object is damaged; `psc-archive verify` lists all that is wrong",
        )


class SealedStore:
    """Checked access to a sealed archive.

    Parameters
    ----------
    store : ArchiveStore
    manifest : Manifest
    """

    def __init__(self, store: ArchiveStore, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.name = store.name

    def entry(self, key: str) -> Entry:
        """What the manifest says about a key; FormatError when it is not listed."""
        if key not in self.manifest.entries:
            raise FormatError(
                f"{self.name}: {key} is not in the manifest",
                kind="unlisted-key",
                hint="the archive does not contain what its metadata promises; run "
                "`psc-archive verify`",
            )
        return self.manifest.entries[key]

    def read(self, key: str) -> bytes:
        """A whole object, size and SHA-256 checked."""
        entry = self.entry(key)
        data = self.store.get(key)
        if data is None:
            raise missing(self.name, key)
        check_bytes(self.name, key, entry, data)
        return data

    def read_json(self, key: str) -> dict[str, Any]:
        """A whole JSON document, checked."""
        document = json.loads(self.read(key))
        if not isinstance(document, dict):
            raise FormatError(f"{self.name}: {key} is not a JSON object", kind="bad-metadata")
        return document

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Part of an object, cut at its listed size; the bytes themselves are not checked here."""
        entry = self.entry(key)
        stop = min(start + length, entry.size)
        if stop <= start:
            return b""
        data = self.store.get(key, start, stop - start)
        if data is None:
            raise missing(self.name, key)
        if len(data) != stop - start:
            raise wrong_size(self.name, key, entry.size, start + len(data))
        return data

    def check_size(self, key: str) -> int:
        """Listed size of an object, compared with the store where that is cheap."""
        entry = self.entry(key)
        if self.store.cheap_sizes:
            size = self.store.size(key)
            if size is None:
                raise missing(self.name, key)
            if size != entry.size:
                raise wrong_size(self.name, key, entry.size, size)
        return entry.size

    def array(self, path: str) -> NDArray[Any]:
        """A plain array, every byte checked on the way."""
        array = self.open_array(path)
        return np.asarray(array[...])

    def open_array(self, path: str) -> zarr.Array[Any]:
        """A plain array whose chunks are checked when they are read."""
        self.entry(f"{path}/{METADATA_KEY}")
        return zarr.open_array(
            _CheckedStore(self.store.store, self), path=path, mode="r", zarr_format=3
        )


class _CheckedStore(WrapperStore[Store]):
    """A Zarr store that raises for lost or changed objects, where Zarr would read fill values."""

    def __init__(self, store: Store, sealed: SealedStore) -> None:
        super().__init__(store)
        self._sealed = sealed

    def _with_store(self, store: Store) -> _CheckedStore:
        return type(self)(store, self._sealed)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Whole objects are compared with the manifest; plain arrays are only read whole."""
        entry = self._sealed.manifest.entries.get(key)
        if entry is None:
            return None
        found = await self._store.get(key, prototype, byte_range)
        if found is None:
            raise missing(self._sealed.name, key)
        if byte_range is None:
            data = found.to_bytes()
            await asyncio.to_thread(check_bytes, self._sealed.name, key, entry, data)
        return found
