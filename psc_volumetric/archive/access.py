"""Reading keys of a sealed archive: nothing comes back that the manifest does not vouch for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.documents import (
    MAX_DOCUMENT,
    MAX_MANIFEST,
    Node,
    PlainNode,
    chunk_shape,
    decode,
    grid_shape,
)
from psc_volumetric.archive.fetched import NOTHING_FETCHED, Fetched
from psc_volumetric.archive.layout import (
    ATTRIBUTE,
    FORMAT,
    MANIFEST_KEY,
    METADATA_KEY,
    PARTIAL_KEY,
)
from psc_volumetric.archive.manifest import DAMAGED, Entry, Manifest, sha256_hex
from psc_volumetric.archive.plain_arrays import PlainLimits, plain_limits, readable
from psc_volumetric.archive.stores import ArchiveStore
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.errors import (
    ChecksumError,
    FormatError,
    LimitExceededError,
    StorageError,
    UnsupportedVersionError,
)
from psc_volumetric.methods.registry import read_index

if TYPE_CHECKING:
    import zarr

__all__ = ["SealedStore", "load_manifest", "read_manifest"]

MAX_OBJECT = 1 << 30  # bytes of an object that is read as one piece
PIECE = 16 << 20  # bytes, when an object is read only to be compared

T = TypeVar("T")


def load_manifest(store: ArchiveStore) -> Manifest:
    """The manifest of a sealed archive; errors as `read_manifest`."""
    return read_manifest(store)[1]


def read_manifest(store: ArchiveStore) -> tuple[bytes, Manifest]:
    """The manifest of a sealed archive: as it is stored, and as it reads.

    Raises
    ------
    FormatError
        Kind ``"not-sealed"`` for an archive that was never finished, ``"not-an-archive"`` for
        anything else without a manifest; see also :meth:`Manifest.from_bytes`.
    StorageError
        Kind ``"not-found"``: nothing at all at this URL.
    """
    data = store.get(MANIFEST_KEY, 0, MAX_MANIFEST + 1)
    if data is not None:
        return data, _parsed(data, store)
    if store.exists(PARTIAL_KEY) or _own_attributes(store) is not None:
        raise FormatError(
            f"{store.name}: {MANIFEST_KEY} is missing, so this archive was never finished (or was "
            "copied incompletely)",
            kind="not-sealed",
            hint="run the same archive command again; it continues where it stopped",
        )
    if store.is_remote and not (store.lists and store.listing()):
        raise StorageError(
            f"{store.name}: there is nothing",
            kind="not-found",
            hint="check bucket and path"
            if store.lists
            else "name one archive: web servers do not say what is in a folder",
        )
    raise FormatError(
        f"{store.name}: expected {MANIFEST_KEY}, found none; this is not a psc-archive",
        kind="not-an-archive",
        hint="give the folder, zip file or URL that `psc-archive archive` made",
    )


def _parsed(data: bytes, store: ArchiveStore) -> Manifest:
    """The manifest; a format number that the root's metadata do not have is damage."""
    try:
        return Manifest.from_bytes(data, where=store.name)
    except UnsupportedVersionError as error:
        own = _own_attributes(store)
        if isinstance(own, dict) and own.get("format") == FORMAT:
            raise FormatError(
                f"{error.message}, and {METADATA_KEY} has {FORMAT}",
                kind=DAMAGED,
                hint="the manifest was changed; get it from another copy of the archive",
            ) from error
        raise


def _own_attributes(store: ArchiveStore) -> Any:
    """What the root's metadata say of the archive, not yet believed; None where they do not."""
    data = store.get(METADATA_KEY, 0, MAX_DOCUMENT + 1) or b""
    try:
        return decode(data, Node, where=METADATA_KEY).attributes.get(ATTRIBUTE)
    except FormatError:
        return None


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
    check_digest(f"{name}: {key}", entry, sha256_hex(data))


def check_digest(where: str, entry: Entry, found: str) -> None:
    """Refuse an object of another SHA-256."""
    if found != entry.sha256:
        raise ChecksumError(
            f"{where}: expected SHA-256 {entry.sha256}, found {found}",
            kind="sha256",
            hint="the object is damaged; `psc-archive verify` lists all that is wrong",
        )


def header_digest(header: bytes) -> str:
    """What the manifest keeps of a brick's header."""
    return sha256_hex(header)[:32]


def read_listed_index(
    read: ReadRange, size: int, entry: Entry, where: str, check: Callable[[BrickIndex], None]
) -> BrickIndex:
    """Parse the header of a brick and compare it with its manifest entry.

    A header names size and CRC-32C of every section and segment, so what is read later by ranges
    is held to this header, and with it to the archive.

    Raises
    ------
    FormatError : damage; ChecksumError, kind ``"foreign-brick"``, for a brick that is not listed.
    UnsupportedVersionError : the very brick that is listed is of another release, or package.
    """
    seen = bytearray()

    def remembered(start: int, length: int) -> bytes:
        data = read(start, length)
        if start == len(seen):
            seen.extend(data)
        return data

    try:
        index = read_index(remembered, size)
    except UnsupportedVersionError:
        if size <= MAX_OBJECT:
            check_digest(where, entry, sha256_hex(read(0, size)))
        raise
    check(index)
    if entry.head is None:
        whole = read(0, size)
        same = sha256_hex(whole) == entry.sha256
    else:
        same = header_digest(bytes(seen[: index.header_size])) == entry.head
    if not same:
        raise ChecksumError(
            f"{where}: a whole brick, but not the one that was archived here",
            kind="foreign-brick",
            hint="it comes from another archive; get this object from another copy",
        )
    return index


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

    def read(self, key: str, *, limit: int = MAX_OBJECT) -> bytes:
        """A whole object, size and SHA-256 checked; LimitExceededError past ``limit`` bytes."""
        entry = self.entry(key)
        if entry.size > limit:
            raise LimitExceededError(
                f"{self.name}: {key}: {entry.size} bytes, at most {limit} are read at once",
                kind="limit",
            )
        data = self.store.get(key, 0, entry.size + 1)
        if data is None:
            raise missing(self.name, key)
        check_bytes(self.name, key, entry, data)
        return data

    def read_document(self, key: str, kind_of: type[T]) -> T:
        """A whole JSON document, checked, of this structure."""
        data = self.read(key, limit=MAX_DOCUMENT)
        return decode(data, kind_of, where=f"{self.name}: {key}")

    def read_json(self, key: str) -> dict[str, Any]:
        """A whole JSON document, checked."""
        return self.read_document(key, dict[str, Any])

    def compare(self, key: str) -> None:
        """Read an object piece by piece and compare it with the manifest.

        Raises
        ------
        FormatError : it is missing, has another size, or other bytes (ChecksumError).
        """
        entry, digest, offset = self.entry(key), hashlib.sha256(), 0
        while offset <= entry.size:
            wanted = min(PIECE, entry.size + 1 - offset)
            data = self.store.get(key, offset, wanted)
            if data is None:
                raise missing(self.name, key)
            digest.update(data)
            offset += len(data)
            if len(data) < wanted:
                break
        if offset != entry.size:
            raise wrong_size(self.name, key, entry.size, offset)
        check_digest(f"{self.name}: {key}", entry, digest.hexdigest())

    def read_index(
        self, key: str, check: Callable[[BrickIndex], None], fetched: Fetched = NOTHING_FETCHED
    ) -> BrickIndex:
        """Header of a brick, which must be the very one that was archived.

        Parameters
        ----------
        key : str
        check : callable
            Raises when the brick belongs somewhere else; asked first, it knows better why.
        fetched : Fetched
            Bytes of the object that are here already.

        Raises
        ------
        FormatError
            Lost, cut, damaged, or of another archive (ChecksumError, kind ``"foreign-brick"``).
        """
        return read_listed_index(
            lambda start, length: self.read_range(key, start, length, fetched),
            self.check_size(key, fetched),
            self.entry(key),
            f"{self.name}: {key}",
            check,
        )

    def read_range(
        self, key: str, start: int, length: int, fetched: Fetched = NOTHING_FETCHED
    ) -> bytes:
        """Part of an object, cut at its listed size; the bytes themselves are not checked here."""
        entry = self.entry(key)
        stop = min(start + length, entry.size)
        if stop <= start:
            return b""
        data = fetched.find(start, stop - start)
        if data is None:
            data = self.store.get(key, start, stop - start)
        if data is None:
            raise missing(self.name, key)
        if len(data) != stop - start:
            raise wrong_size(self.name, key, entry.size, start + len(data))
        return data

    def check_size(self, key: str, fetched: Fetched = NOTHING_FETCHED) -> int:
        """Listed size of an object, compared with the store."""
        entry = self.entry(key)
        size = self.store.size(key) if fetched.size is None else fetched.size
        if size is None:
            raise missing(self.name, key)
        if size != entry.size:
            raise wrong_size(self.name, key, entry.size, size)
        return entry.size

    def array(self, path: str) -> NDArray[Any]:
        """A plain array, every byte checked on the way; errors as `open_array`."""
        _, node, limits = self.plain_node(path)
        if limits.texts is not None:
            stored = self.open_array(path)
            with readable(f"{self.name}: {path}"):
                return np.asarray(stored[...])
        whole = np.empty(node.shape, limits.dtype)
        chunk = chunk_shape(node)
        for position in product(*map(range, grid_shape(node))):
            key = "/".join([path, "c", *map(str, position)])
            part = limits.numbers(self.read(key), f"{self.name}: {key}").reshape(chunk)
            corner = [n * size for n, size in zip(position, chunk, strict=True)]
            box = tuple(slice(at, at + size) for at, size in zip(corner, chunk, strict=True))
            target = whole[box]
            target[...] = part[tuple(slice(0, size) for size in target.shape)]
        return whole

    def plain_node(self, path: str) -> tuple[bytes, PlainNode, PlainLimits]:
        """Metadata of a plain array as they are stored and read, and what they promise.

        Raises
        ------
        FormatError : they are not those of a plain array, or it is larger than what is stored of
            it justifies.
        """
        key = f"{path}/{METADATA_KEY}"
        data, where = self.read(key, limit=MAX_DOCUMENT), f"{self.name}: {key}"
        node = decode(data, PlainNode, where=where)
        return data, node, plain_limits(node, self.manifest.chunks(path), where=where)

    def open_array(self, path: str) -> zarr.Array[Any]:
        """A plain array whose chunks are checked when they are read; errors as `plain_node`."""
        from psc_volumetric.archive.checked_store import open_checked

        data, node, limits = self.plain_node(path)
        return open_checked(self.store.store, self.read, path, data, node, limits, name=self.name)
