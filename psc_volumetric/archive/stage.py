"""Plain Zarr arrays made in memory, then copied key by key into an archive.

The copy writes a key only when its bytes differ, so repeating it after a crash changes nothing,
and nothing is ever deleted on the way. Chunks equal to the fill value are written too: every key
an array can have is in the manifest, so a lost one is noticed. Arrays of the root and of groups of
the source get their codecs wrapped in ``psc_archive.checked``, which says so to users of Zarr too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from psc_volumetric.archive.attributes import json_safe
from psc_volumetric.archive.layout import FORMAT, encode_json
from psc_volumetric.archive.plain_arrays import CHECKED_NAME
from psc_volumetric.archive.stores import ArchiveStore

__all__ = ["Stage", "chunks_for"]

SIDECARS = ("tiles/", "preview/", "source/")  # these any Zarr reader reads
CHUNK_VALUES = 1 << 20
ZSTD_LEVEL = 19


def chunks_for(shape: Sequence[int], limit: int = CHUNK_VALUES) -> tuple[int, ...]:
    """Chunk of at most ``limit`` values (if an inner row allows), whole along the last axes."""
    chunk: list[int] = []
    left = limit
    for size in reversed(shape):
        extent = max(1, min(size, left))
        chunk.append(extent)
        left = max(1, left // extent)
    return tuple(reversed(chunk))


class Stage:
    """Arrays and groups on their way into ``store``; ``written`` are the keys copied so far."""

    def __init__(self, store: ArchiveStore) -> None:
        self._target = store
        self._keys: dict[str, Buffer] = {}
        self._asked: set[str] = set()  # Zarr also makes parent groups, which are not ours to write
        self._memory = MemoryStore(store_dict=self._keys)
        self.written: list[str] = []

    def group(self, path: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Make a group's metadata."""
        self._asked.add(f"{path}/zarr.json")
        zarr.create_group(
            store=self._memory,
            path=path,
            zarr_format=3,
            attributes=json_safe(dict(attributes or {})),
        )

    def array(
        self,
        path: str,
        *,
        shape: Sequence[int],
        dtype: np.dtype[Any] | type[str],
        dims: Sequence[str],
        chunks: Sequence[int] | None = None,
        attributes: Mapping[str, Any] | None = None,
        fill_value: Any = None,
    ) -> zarr.Array[Any]:
        """Make an empty array (zstd, little-endian); assign to regions of what comes back."""
        self._asked.add(f"{path}/zarr.json")
        return zarr.create_array(
            store=self._memory,
            name=path,
            shape=tuple(shape),
            dtype=dtype,
            chunks=tuple(chunks) if chunks else chunks_for([max(1, n) for n in shape]),
            compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True),
            dimension_names=list(dims),
            attributes=json_safe(dict(attributes or {})),
            fill_value=fill_value,
            zarr_format=3,
            config={"write_empty_chunks": True},
        )

    def fill(
        self,
        path: str,
        values: NDArray[Any],
        *,
        dims: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an array and give it all its values."""
        array = self.array(
            path, shape=values.shape, dtype=values.dtype, dims=dims, attributes=attributes
        )
        if values.size:
            array[...] = values

    def flush(self) -> None:
        """Copy what was made since the last flush, and forget it."""
        for key in sorted(self._keys):
            data = self._keys[key].to_bytes()
            if key.endswith("zarr.json"):
                if key not in self._asked:
                    continue
                data = _document(data, checked=not key.startswith(SIDECARS))
            self._target.put(key, data)
            self.written.append(key)
        self._keys.clear()


def _document(data: bytes, *, checked: bool) -> bytes:
    """A node's metadata as an archive has them, short; codecs inside ``psc_archive.checked``."""
    document = json.loads(data)
    document.pop("storage_transformers", None)
    if document.get("chunk_key_encoding", {}).get("configuration") == {"separator": "/"}:
        del document["chunk_key_encoding"]["configuration"]  # the default, as the format has it
    if checked and document["node_type"] == "array":
        inner = {"format": FORMAT, "codecs": document["codecs"]}
        document["codecs"] = [{"name": CHECKED_NAME, "configuration": inner}]
    return encode_json(document)
