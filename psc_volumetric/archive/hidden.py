"""Headers that travel with a copy, for those who have a key.

A copy without headers may hold, as one encrypted object, what it lacks of the archive it was made
from: a zip file of the objects that differ, manifest included. With the key that archive is whole
again, byte for byte, and its own manifest vouches for it.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.storage import WrapperStore

from psc_volumetric.archive.access import MAX_OBJECT, SealedStore, read_manifest
from psc_volumetric.archive.age import Identity, Recipient, decrypt, encrypt
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Entry, Manifest
from psc_volumetric.archive.zarr_stores import ZarrStore
from psc_volumetric.errors import FormatError, LimitExceededError, ParameterError

__all__ = ["HIDDEN_KEY", "hide", "reveal"]

HIDDEN_KEY = "source/headers.age"
EPOCH = (1980, 1, 1, 0, 0, 0)


def hide(first: SealedStore, kept: Mapping[str, Entry], recipients: Sequence[Recipient]) -> bytes:
    """Encrypt what a copy does not have of the archive that it is made from.

    Parameters
    ----------
    first : SealedStore
        That archive.
    kept : mapping
        Objects of the copy.
    recipients : sequence of Recipient
        Each of them can open it alone.

    Raises
    ------
    LimitExceededError : more than a gibibyte, for example of kept originals.
    FormatError : the archive is damaged.
    """
    data, manifest = read_manifest(first.store)
    missing = {key: e for key, e in manifest.entries.items() if kept.get(key) != e}
    if sum(entry.size for entry in missing.values()) > MAX_OBJECT:
        raise LimitExceededError(
            f"{first.name}: the headers and kept originals are larger than {MAX_OBJECT} bytes",
            kind="limit",
            hint="archive the source without --keep-original, or share it as it is",
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in sorted(missing):
            archive.writestr(zipfile.ZipInfo(key, EPOCH), first.read(key), zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo(MANIFEST_KEY, EPOCH), data, zipfile.ZIP_DEFLATED)
    return encrypt(packed.getvalue(), recipients)


def reveal(copy: SealedStore, identities: Sequence[Identity]) -> SealedStore:
    """The archive that a copy was made from, its headers opened.

    Raises
    ------
    ParameterError : there are no encrypted headers in the copy (kind ``"nothing-hidden"``), or they
        are for another key (``"wrong-identity"``).
    FormatError : they are damaged, or not of this copy.
    """
    where = f"{copy.name}: {HIDDEN_KEY}"
    if HIDDEN_KEY not in copy.manifest.entries:
        raise ParameterError(
            f"{copy.name}: holds no encrypted headers",
            kind="nothing-hidden",
            hint="leave the key out",
        )
    objects = _unpacked(decrypt(copy.read(HIDDEN_KEY), identities, where=where), where)
    if MANIFEST_KEY not in objects:
        raise _foreign(where, "no manifest is among them")
    manifest = Manifest.from_bytes(objects[MANIFEST_KEY], where=where)
    for key, entry in manifest.entries.items():
        if key not in objects and copy.manifest.entries.get(key) != entry:
            raise _foreign(where, f"{key} is in neither")
    store = ZarrStore(_Overlay(copy.store.store, objects), copy.name)
    store.is_remote = copy.store.is_remote
    return SealedStore(store, manifest)


def _foreign(where: str, found: str) -> FormatError:
    return FormatError(
        f"{where}: the headers are not of this archive ({found})",
        kind="foreign-headers",
        hint="get the copy from another place",
    )


# RuntimeError: a member is encrypted, or packed in a way that is not known
UNREADABLE = (
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    UnicodeError,
    zlib.error,
    lzma.LZMAError,
    OSError,
)


def _unpacked(data: bytes, where: str) -> dict[str, bytes]:
    """Members of the zip file; bounded before they are unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_OBJECT:
                raise LimitExceededError(f"{where}: too much is packed in it", kind="limit")
            return {info.filename: archive.read(info) for info in archive.infolist()}
    except UNREADABLE as error:
        raise FormatError(
            f"{where}: expected a zip file in it, found none ({error})", kind="bad-encryption"
        ) from error


class _Overlay(WrapperStore[Store]):
    """A Zarr store some of whose objects are in memory; reads only."""

    def __init__(self, store: Store, objects: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._objects = objects

    def _with_store(self, store: Store) -> _Overlay:
        return type(self)(store, self._objects)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = self._objects.get(key)
        if data is None:
            return await self._store.get(key, prototype, byte_range)
        if isinstance(byte_range, RangeByteRequest):
            data = data[byte_range.start : byte_range.end]
        return prototype.buffer.from_bytes(data)

    async def getsize(self, key: str) -> int:
        data = self._objects.get(key)
        return await self._store.getsize(key) if data is None else len(data)

    async def exists(self, key: str) -> bool:
        return key in self._objects or await self._store.exists(key)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._store.list_prefix(prefix):
            if key not in self._objects:
                yield key
        for key in self._objects:
            if key.startswith(prefix):
                yield key
