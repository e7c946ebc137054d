"""The archive around a chunk that Zarr asks for: its manifest, and what that vouches for.

Zarr tells a codec the store and the key of a chunk, nothing else. The archive is the nearest folder
above the array that has a manifest. Before the first chunk of an array is decoded, its metadata and
those of the groups above it are compared with the manifest, and with what Zarr made of them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zarr.abc.store import RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore

from psc_volumetric.archive.access import check_bytes, missing, wrong_size
from psc_volumetric.archive.decoded import new_owner
from psc_volumetric.archive.documents import (
    MAX_DOCUMENT,
    MAX_MANIFEST,
    PlainNode,
    chunk_shape,
    decode,
)
from psc_volumetric.archive.fetched import Fetched
from psc_volumetric.archive.folder import check_plain_file
from psc_volumetric.archive.layout import MANIFEST_KEY, METADATA_KEY, VariableSpec
from psc_volumetric.archive.manifest import Entry, Manifest
from psc_volumetric.archive.plain_arrays import PlainLimits, plain_limits
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ByteRange
from psc_volumetric.errors import FormatError, LimitExceededError, StorageError

__all__ = ["Archive", "ListedArray", "executor", "find_array", "read_only"]

INDICES_KEPT = 256
HIGHEST = 16  # folders above an array that are looked at for a manifest
_CHUNK = re.compile(r"(?:(.*)/)?c(?:/\d+)*")

_executors: dict[int, ThreadPoolExecutor] = {}


def executor() -> ThreadPoolExecutor:
    """Threads for decoding: not the event loop's own, which its stores need for reading."""
    pid = os.getpid()
    if pid not in _executors:
        _executors.clear()
        _executors[pid] = ThreadPoolExecutor(os.cpu_count() or 1, "psc_decode")
    return _executors[pid]


@dataclass(frozen=True)
class Archive:
    """An archive in a store: the path of its root there, and its manifest."""

    store: Store
    root: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """How to call it in messages."""
        return f"{self.store}/{self.root}" if self.root else str(self.store)

    def entry(self, key: str) -> Entry:
        """What the manifest says about a key; FormatError when it is not listed."""
        entry = self.manifest.entries.get(key)
        if entry is None:
            raise FormatError(
                f"{self.name}: {key} is not in the manifest",
                kind="unlisted-key",
                hint="the metadata of the array were changed; get them from another copy",
            )
        return entry

    async def read(self, key: str, start: int, length: int) -> bytes:
        """A range of an object."""
        place = f"{self.root}/{key}" if self.root else key
        if isinstance(self.store, LocalStore):
            check_plain_file(self.store.root, place)
        wanted = RangeByteRequest(start, start + length)
        found = await self.store.get(place, default_buffer_prototype(), wanted)
        if found is None:
            raise missing(self.name, key)
        data = found.to_bytes()
        if len(data) > length:
            raise StorageError(
                f"{self.name}: {key}: asked for {length} bytes, the store sends {len(data)}",
                kind="no-ranges",
                hint="the server ignores Range; open the archive with "
                'xr.open_dataset(..., engine="psc"), which can do without',
            )
        return data

    async def fetch(self, key: str, ranges: Sequence[ByteRange], fetched: Fetched) -> None:
        """Read ranges of an object at once."""
        found = await asyncio.gather(*(self.read(key, *part) for part in ranges))
        for (start, _), data in zip(ranges, found, strict=True):
            fetched.add(start, data)

    async def check_size(self, key: str) -> int:
        """Size of an object, which must be the listed one."""
        entry = self.entry(key)
        try:
            size = await self.store.getsize(f"{self.root}/{key}" if self.root else key)
        except FileNotFoundError as error:
            raise missing(self.name, key) from error
        if size != entry.size:
            raise wrong_size(self.name, key, entry.size, size)
        return size

    async def read_whole(self, key: str, limit: int) -> bytes:
        """An object, compared with the manifest."""
        entry = self.entry(key)
        if entry.size > limit:
            raise LimitExceededError(f"{self.name}: {key}: {entry.size} bytes", kind="limit")
        data = await self.read(key, 0, entry.size + 1)
        check_bytes(self.name, key, entry, data)
        return data


@dataclass(frozen=True)
class ListedArray:
    """An array whose metadata are the listed ones.

    Attributes
    ----------
    archive : Archive
    outside, path : str
        The array's path in Zarr's store, and in the archive.
    node : PlainNode
    document : dict
        The same metadata, whole.
    owner : int
        By which decoded regions of it are kept.
    indices : dict
        Headers of its bricks that were read and checked, the latest `INDICES_KEPT`.
    """

    archive: Archive
    outside: str
    path: str
    node: PlainNode
    document: dict[str, Any]
    owner: int = field(default_factory=new_owner, compare=False)
    indices: dict[str, BrickIndex] = field(default_factory=dict, repr=False, compare=False)

    def key(self, outside: str) -> str:
        """Key in the archive of a chunk's key in Zarr's store."""
        chunk = outside.removeprefix(self.outside).lstrip("/")
        return f"{self.path}/{chunk}"

    def keep_index(self, key: str, index: BrickIndex) -> None:
        """Remember the header of a brick."""
        while len(self.indices) >= INDICES_KEPT:
            self.indices.pop(next(iter(self.indices)), None)
        self.indices[key] = index

    @cached_property
    def spec(self) -> VariableSpec:
        """The array as a variable of the archive."""
        return VariableSpec.from_metadata(self.path, self.document)

    @cached_property
    def limits(self) -> PlainLimits:
        """Size of the chunks of a plain array."""
        chunks = self.archive.manifest.chunks(self.path)
        return plain_limits(self.node, chunks, where=f"{self.archive.name}: {self.path}")

    def check_view(self, chunk_spec: Any) -> None:
        """Refuse chunks that Zarr thinks of another shape or dtype (FormatError)."""
        expected = (chunk_shape(self.node), self.document.get("data_type"))
        found = (tuple(chunk_spec.shape), chunk_spec.dtype.to_json(zarr_format=3))
        if expected != found:
            raise FormatError(
                f"{self.archive.name}: {self.path}: the archive has chunks {expected!r}, Zarr was "
                f"told {found!r}",
                kind="metadata-changed",
                hint="consolidated metadata above the archive are not its own; open the archive "
                "itself",
            )


async def find_array(store: Store, key: str, known: dict[str, ListedArray]) -> ListedArray:
    """The array of a chunk.

    Parameters
    ----------
    store : Store
    key : str
        Of the chunk.
    known : dict
        What was found before, by the array's path in the store; completed here.

    Raises
    ------
    FormatError
        Kind ``"not-sealed"`` (no manifest above); the array is not listed, or its metadata or
        those of a group above it are not the listed ones.
    """
    found = _CHUNK.fullmatch(key)
    outside = (found[1] or "") if found else key.rpartition("/")[0]
    if outside not in known:
        known[outside] = await _listed_array(store, outside)
    return known[outside]


async def _listed_array(store: Store, outside: str) -> ListedArray:
    for place, root, path in _places_above(store, outside):
        where = f"{root}/{MANIFEST_KEY}" if root else MANIFEST_KEY
        wanted = RangeByteRequest(0, MAX_MANIFEST + 1)
        data = await place.get(where, default_buffer_prototype(), wanted)
        if data is None:
            continue
        manifest = await asyncio.to_thread(
            Manifest.from_bytes, data.to_bytes(), where=root or str(place)
        )
        archive = Archive(place, root, manifest)
        for group in _groups_above(path):
            if not group or f"{group}/{METADATA_KEY}" in manifest.entries:
                key = f"{group}/{METADATA_KEY}" if group else METADATA_KEY
                await archive.read_whole(key, MAX_DOCUMENT)
        own = await archive.read_whole(f"{path}/{METADATA_KEY}", MAX_DOCUMENT)
        named = f"{archive.name}: {path}/{METADATA_KEY}"
        node = decode(own, PlainNode, where=named)
        return ListedArray(archive, outside, path, node, decode(own, dict, where=named))
    raise FormatError(
        f"{outside or store}: no {MANIFEST_KEY} above this array, so the archive was never "
        "finished (or was copied incompletely)",
        kind="not-sealed",
        hint="open the archive, not an array in it; if that fails too, finish it with "
        "`psc-archive archive`, or copy it whole",
    )


def _groups_above(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:length]) for length in range(len(parts) + 1)]


def _places_above(store: Store, array: str) -> Iterator[tuple[Store, str, str]]:
    """Where the archive of an array can be: store, path of the archive, path of the array in it."""
    parts = array.split("/") if array else []
    for length in range(len(parts) - 1, -1, -1):
        yield store, "/".join(parts[:length]), "/".join(parts[length:])
    inside = array
    for _ in range(HIGHEST):
        above = _store_above(store)
        if above is None:
            return
        store, name = above
        inside = f"{name}/{inside}" if inside else name
        yield store, "", inside


def _store_above(store: Store) -> tuple[Store, str] | None:
    """The folder above a store's root, and the root's name in it."""
    if isinstance(store, LocalStore):
        folder = store.root.absolute()
        return (LocalStore(folder.parent, read_only=True), folder.name) if folder.name else None
    if isinstance(store, FsspecStore):
        parent, _, name = store.path.rstrip("/").rpartition("/")
        return (FsspecStore(store.fs, read_only=True, path=parent), name) if parent else None
    return None


def read_only(name: str) -> StorageError:
    """The error for writing into an archive through Zarr."""
    return StorageError(
        f"codec {name} only reads: an archive is written once, as a whole",
        kind="read-only-codec",
        hint="use `psc-archive archive` or psc_volumetric.archive.ArchiveWriter; to write "
        "decoded values elsewhere, clear the encoding first (`ds.drop_encoding()`)",
    )
