"""Plain Zarr arrays made in memory, then copied key by key into an archive.

The copy writes a key only when its bytes differ, so repeating it after a crash changes nothing,
and nothing is ever deleted on the way. Chunks equal to the fill value are written too: every key
an array can have is in the manifest, so a lost one is noticed. Arrays of the root and of groups of
the source get their codecs wrapped in ``psc_archive.checked``, which says so to users of Zarr too;
their chunks may be coded as differences.
"""

from __future__ import annotations

import json
import re
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
from psc_volumetric.archive.plain_arrays import CHECKED_NAME, DIFFERENCES
from psc_volumetric.archive.stores import ArchiveStore
from psc_volumetric.bitstream.frames import pack_frame
from psc_volumetric.coders.differences import encode_differences, suits_differences

__all__ = ["Stage", "chunks_for", "pays_as_differences"]

SIDECARS = ("tiles/", "preview/", "source/")  # these any Zarr reader reads
CHUNK_VALUES = 1 << 20
ZSTD_LEVEL = 19
LEAST_SAVED = 128  # bytes of a chunk, and
SHARE_SAVED = 0.1  # of it, for which other Zarr readers are left behind
_CHUNK = re.compile(r"(.*)/c(?:/\d+)*")


def chunks_for(shape: Sequence[int], limit: int = CHUNK_VALUES) -> tuple[int, ...]:
    """Chunk of at most ``limit`` values (if an inner row allows), whole along the last axes."""
    chunk: list[int] = []
    left = limit
    for size in reversed(shape):
        extent = max(1, min(size, left))
        chunk.append(extent)
        left = max(1, left // extent)
    return tuple(reversed(chunk))


def pays_as_differences(chunk: NDArray[Any]) -> bool:
    """Whether a chunk of a plain array is much smaller as differences."""
    if chunk.size < 2 or not suits_differences(chunk.dtype):
        return False
    plain = len(pack_frame(np.ascontiguousarray(chunk).tobytes(), ZSTD_LEVEL))
    saved = plain - len(encode_differences(chunk))
    return saved >= max(LEAST_SAVED, SHARE_SAVED * plain)


class Stage:
    """Arrays and groups on their way into ``store``; ``written`` are the keys copied so far."""

    def __init__(self, store: ArchiveStore) -> None:
        self._target = store
        self._keys: dict[str, Buffer] = {}
        self._asked: set[str] = set()  # Zarr also makes parent groups, which are not ours to write
        self._differences: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
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
        differences: bool = False,
    ) -> zarr.Array[Any]:
        """Make an empty array (zstd, little-endian); assign to regions of what comes back.

        With ``differences`` its chunks are coded as such when they are copied.
        """
        self._asked.add(f"{path}/zarr.json")
        chunk = tuple(chunks) if chunks else chunks_for([max(1, n) for n in shape])
        if differences:
            self._differences[path] = chunk, np.dtype(dtype).newbyteorder("<")
        return zarr.create_array(
            store=self._memory,
            name=path,
            shape=tuple(shape),
            dtype=dtype,
            chunks=chunk,
            compressors=None if differences else ZstdCodec(level=ZSTD_LEVEL, checksum=True),
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
                as_differences = key.removesuffix("/zarr.json") in self._differences
                data = _document(data, not key.startswith(SIDECARS), as_differences)
            elif (found := _CHUNK.fullmatch(key)) and found[1] in self._differences:
                shape, dtype = self._differences[found[1]]
                data = encode_differences(np.frombuffer(data, dtype).reshape(shape))
            self._target.put(key, data)
            self.written.append(key)
        self._keys.clear()


def _document(data: bytes, checked: bool, as_differences: bool) -> bytes:
    """A node's metadata as an archive has them, short; codecs inside ``psc_archive.checked``."""
    document = json.loads(data)
    if as_differences:
        document["codecs"] = [DIFFERENCES]
    document.pop("storage_transformers", None)
    if document.get("chunk_key_encoding", {}).get("configuration") == {"separator": "/"}:
        del document["chunk_key_encoding"]["configuration"]  # the default, as the format has it
    if checked and document["node_type"] == "array":
        inner = {"format": FORMAT, "codecs": document["codecs"]}
        document["codecs"] = [{"name": CHECKED_NAME, "configuration": inner}]
    return encode_json(document)
