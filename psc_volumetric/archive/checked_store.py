"""Plain arrays of a sealed archive through Zarr, whose chunks are checked when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

from psc_volumetric.archive.documents import PlainNode
from psc_volumetric.archive.layout import METADATA_KEY
from psc_volumetric.archive.plain_arrays import (
    DIFFERENCES,
    PLAIN_BYTES,
    PlainLimits,
    inner_codecs,
    readable,
)
from psc_volumetric.errors import FormatError

__all__ = ["open_checked"]

Read = Callable[[str], bytes]


def open_checked(
    store: Store,
    read: Read,
    path: str,
    metadata: bytes,
    node: PlainNode,
    limits: PlainLimits,
    *,
    name: str,
) -> zarr.Array[Any]:
    """Open an array of an archive.

    Parameters
    ----------
    store : Store
        Where the archive is.
    read : callable
        Reads and checks an object by its key.
    path : str
    metadata, node
        Those of the array, as stored and as read.
    limits : PlainLimits
        What they promise.
    name : str
        Of the archive, for messages.

    Raises
    ------
    FormatError : Zarr cannot open it.
    """
    key = f"{path}/{METADATA_KEY}"
    opened = _without_checks(metadata, node, where=f"{name}: {key}")
    checked = CheckedStore(store, read, limits, {key: opened}, name)
    with readable(f"{name}: {key}"):
        return zarr.open_array(checked, path=path, mode="r", zarr_format=3)


class CheckedStore(WrapperStore[Store]):
    """A Zarr store that raises for lost or changed objects, where Zarr would read fill values."""

    def __init__(
        self,
        store: Store,
        read: Read,
        limits: PlainLimits,
        metadata: Mapping[str, bytes],
        name: str,
    ) -> None:
        super().__init__(store)
        self._read = read
        self._limits = limits
        self._metadata = metadata
        self._name = name

    def _with_store(self, store: Store) -> CheckedStore:
        return type(self)(store, self._read, self._limits, self._metadata, self._name)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Whole objects, compared with the manifest; FormatError for chunks it does not list."""
        name = f"{self._name}: {key}"
        if key in self._metadata:
            return prototype.buffer.from_bytes(self._metadata[key])
        if "/c/" not in key and not key.endswith("/c"):
            return None  # Zarr looks for other formats' metadata
        data = await asyncio.to_thread(self._read, key)
        data = await asyncio.to_thread(self._limits.opened, data, name)
        if byte_range is not None:
            raise FormatError(f"{name}: plain arrays are read whole", kind="bad-metadata")
        return prototype.buffer.from_bytes(data)


def _without_checks(data: bytes, node: PlainNode, *, where: str) -> bytes:
    """Metadata of a plain array with the codecs that its chunks have once they are opened."""
    document = msgspec.json.decode(data)
    codecs: list[Any] = inner_codecs(node.codecs, where=where)
    if [codec.name for codec in codecs] == [DIFFERENCES["name"]]:
        codecs = [PLAIN_BYTES]
    return msgspec.json.encode({**document, "codecs": codecs})
