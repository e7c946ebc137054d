"""The Zarr v3 codec ``psc_archive.psc``: what lets ``zarr.open`` and ``xr.open_zarr`` read bricks.

Read only: bricks are written by :class:`psc_volumetric.archive.ArchiveWriter`. Zarr tells a codec
neither the chunk's position nor the quality wanted. The position is taken from the key of the
chunk and compared with the brick's header; the quality is always everything there is (use
:class:`~psc_volumetric.archive.ArchiveReader` or ``engine="psc"`` for less). A chunk that the
manifest of the archive does not list, or that is missing, is an error, not fill values.

The name and the configuration keys ``format`` and ``prior`` are part of the format.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer, NDBuffer
from zarr.abc.codec import (
    ArrayBytesCodec,
    ArrayBytesCodecPartialDecodeMixin,
    ArrayBytesCodecPartialEncodeMixin,
)
from zarr.abc.store import RangeByteRequest, Store
from zarr.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from psc_volumetric.archive.layout import CODEC_NAME, MANIFEST_KEY
from psc_volumetric.archive.manifest import Manifest, check_format
from psc_volumetric.archive.priors import EmbeddedPriors
from psc_volumetric.archive.selection import Bounds, bounds_of, relative_to
from psc_volumetric.bitstream.brick import BrickIndex, ReadRange, read_index
from psc_volumetric.bitstream.constants import DTYPES
from psc_volumetric.errors import FormatError, ParameterError, PscError, StorageError

if TYPE_CHECKING:
    from psc_volumetric.prior import PriorSource

__all__ = ["PscCodec"]

SUPPORTED = frozenset(dtype.name for dtype in DTYPES.values())

_executors: dict[int, ThreadPoolExecutor] = {}


def _executor() -> ThreadPoolExecutor:
    """Threads for decoding: not the event loop's own, which its stores need for reading."""
    pid = os.getpid()
    if pid not in _executors:
        _executors.clear()
        _executors[pid] = ThreadPoolExecutor(os.cpu_count() or 1, "psc_decode")
    return _executors[pid]


@dataclass(frozen=True)
class _Archive:
    """The archive an array belongs to: where it is, its manifest, the array's path inside."""

    store: Store
    root: str
    manifest: Manifest
    inside: str


@dataclass(frozen=True)
class PscCodec(
    ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin, ArrayBytesCodecPartialEncodeMixin
):
    """Decode bricks for Zarr.

    Parameters
    ----------
    format : int
        Archive format number.
    prior : str, optional
        SHA-256 of the prior the array was coded with.
    """

    is_fixed_size = False

    format: int = 0
    prior: str | None = None
    _archives: dict[str, _Archive] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_format(self.format, f"codec {CODEC_NAME}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the entry in ``zarr.json``."""
        configuration = data.get("configuration", {})
        unknown = set(configuration) - {"format", "prior"}
        if unknown:
            raise FormatError(
                f"codec {CODEC_NAME}: unknown configuration {sorted(unknown)!r}",
                kind="unknown-configuration",
                hint="the archive was written by a newer version",
            )
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """The entry in ``zarr.json``."""
        return {
            "name": CODEC_NAME,
            "configuration": {"format": self.format, "prior": self.prior},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_dict, (self.to_dict(),))

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse dtypes bricks cannot hold."""
        name = dtype.to_native_dtype().name
        if name not in SUPPORTED:
            raise ParameterError(
                f"codec {CODEC_NAME}: dtype {name!r} is not supported", kind="unsupported-dtype"
            )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known in advance (NotImplementedError, as Zarr asks for)."""
        raise NotImplementedError

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: Any) -> Buffer | None:
        raise _read_only()

    async def _encode_partial_single(
        self, byte_setter: Any, chunk_array: NDBuffer, selection: Any, chunk_spec: Any
    ) -> None:
        """Refused here too: without it Zarr deletes chunks that get the fill value, unasked."""
        raise _read_only()

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: Any) -> NDBuffer:
        """Whole chunk from its bytes; the key is not known here, so neither is the archive."""
        data = chunk_data.to_bytes()
        whole = tuple(Bounds(0, n) for n in chunk_spec.shape)

        def decode() -> NDArray[Any]:
            def read(start: int, length: int) -> bytes:
                return data[start : start + length]

            index = read_index(read, len(data))
            return _decode(read, index, whole, EmbeddedPriors({}, _no_files))

        values = await asyncio.get_running_loop().run_in_executor(_executor(), decode)
        return _wrap(chunk_spec, values)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: Any
    ) -> NDBuffer | None:
        """Part of a chunk, reading only the ranges it needs."""
        bounds = bounds_of(selection, chunk_spec.shape)
        loop = asyncio.get_running_loop()
        key = getattr(byte_getter, "path", None)
        store = getattr(byte_getter, "store", None)
        archive = None
        if isinstance(key, str) and isinstance(store, Store):
            archive = await self._archive(store, _array_of(key))

        def call(request: Coroutine[Any, Any, Buffer | None]) -> Buffer | None:
            return asyncio.run_coroutine_threadsafe(request, loop).result()

        def read(start: int, length: int) -> bytes:
            if length <= 0:
                return b""
            wanted = RangeByteRequest(start, start + length)
            found = call(byte_getter.get(default_buffer_prototype(), wanted))
            if found is None:
                raise _missing(key)
            return found.to_bytes()

        def decode() -> NDArray[Any]:
            size, priors = self._vouched(archive, key, call)
            index = read_index(read, size)
            _check_position(index, key, len(chunk_spec.shape))
            return _decode(read, index, bounds, priors)

        try:
            values = await loop.run_in_executor(_executor(), decode)
        except PscError as error:
            raise _placed(error, key) from error
        return _wrap(chunk_spec, values[relative_to(selection, bounds)])

    async def _archive(self, store: Store, array: str) -> _Archive | None:
        """Archive around an array, found by its manifest; remembered as long as this codec."""
        if array not in self._archives:
            for place, root, inside in _places_above(store, array):
                where = f"{root}/{MANIFEST_KEY}" if root else MANIFEST_KEY
                data = await place.get(where, default_buffer_prototype())
                if data is not None:
                    manifest = Manifest.from_bytes(data.to_bytes(), where=root or str(place))
                    self._archives[array] = _Archive(place, root, manifest, inside)
                    break
        return self._archives.get(array)

    def _vouched(
        self,
        archive: _Archive | None,
        key: str | None,
        call: Callable[[Coroutine[Any, Any, Buffer | None]], Buffer | None],
    ) -> tuple[int | None, PriorSource]:
        """Listed size of a chunk, and where its prior is found."""
        if key is None:
            return None, EmbeddedPriors({}, _no_files)
        if archive is None:
            raise FormatError(
                f"{key}: no {MANIFEST_KEY} above this array, so the archive was never finished (or "
                "was copied incompletely)",
                kind="not-sealed",
                hint="open the archive, not an array in it; if that fails too, finish it with "
                "`psc-archive archive`, or copy it whole",
            )
        prefix = f"{archive.root}/" if archive.root else ""
        chunk = key.removeprefix(_array_of(key)).lstrip("/")
        entry = archive.manifest.entries.get(f"{archive.inside}/{chunk}")
        if entry is None:
            raise FormatError(f"{key} is not in the manifest", kind="unlisted-key")

        def file(name: str) -> bytes:
            found = call(_get(archive.store, prefix + name))
            if found is None:
                raise _missing(prefix + name)
            return found.to_bytes()

        return entry.size, EmbeddedPriors(archive.manifest.entries, file)


def _array_of(key: str) -> str:
    """Path of the array a chunk key belongs to; ``""`` at the root of the store."""
    return "" if key.startswith("c/") else key.rsplit("/c/", 1)[0]


def _places_above(store: Store, array: str) -> Iterator[tuple[Store, str, str]]:
    """Where the archive of an array can be: store, path of the archive, path of the array in it."""
    parts = array.split("/") if array else []
    for length in range(len(parts) - 1, -1, -1):
        yield store, "/".join(parts[:length]), "/".join(parts[length:])
    if not parts and isinstance(store, LocalStore):
        folder = store.root.absolute()
        yield LocalStore(folder.parent, read_only=True), "", folder.name


def _read_only() -> StorageError:
    return StorageError(
        f"codec {CODEC_NAME} only reads: an archive is written once, as a whole",
        kind="read-only-codec",
        hint="use `psc-archive archive` or psc_volumetric.archive.ArchiveWriter; to write "
        "decoded values elsewhere, clear the encoding first (`ds.drop_encoding()`)",
    )


async def _get(store: Store, key: str) -> Buffer | None:
    return await store.get(key, default_buffer_prototype())


def _no_files(key: str) -> bytes:
    raise FormatError(f"there is no archive to read {key} from", kind="missing-key")


def _missing(key: str | None) -> FormatError:
    return FormatError(
        f"{key}: this object is in the manifest but not in the store",
        kind="missing-key",
        hint="get it from another copy; `psc-archive verify` lists all that is wrong",
    )


def _check_position(index: BrickIndex, key: str | None, ndim: int) -> None:
    if key is None:
        return
    expected = tuple(int(part) for part in key.split("/")[-ndim:])
    if index.position != expected:
        raise FormatError(
            f"{key}: expected the brick of position {expected!r}, found the one of "
            f"{index.position!r}",
            kind="wrong-position",
            hint="it was swapped with another brick; get it from another copy",
        )


def _placed(error: PscError, key: str | None) -> PscError:
    if key is None or key in str(error):
        return error
    placed = type(error)(f"{key}: {error}", kind=error.kind)
    placed.hint = error.hint
    return placed


def _decode(
    read: ReadRange, index: BrickIndex, bounds: tuple[Bounds, ...], priors: PriorSource
) -> NDArray[Any]:
    """Values of a box of the chunk; zeros past the array's edge, which nobody sees."""
    from psc_volumetric.codec import decode_brick

    wanted = [*[Bounds(0, 1)] * (3 - len(bounds)), *bounds[-3:]]
    z, y, x = (
        slice(min(b.start, v), min(b.stop, v)) for b, v in zip(wanted, index.valid, strict=True)
    )
    shape = [b.stop - b.start for b in bounds]
    if 0 in shape:
        return np.zeros(shape, index.dtype.newbyteorder("="))
    values = np.zeros(shape, index.dtype.newbyteorder("="))
    found = decode_brick(read, selection=(z, y, x), prior=priors, index=index).values
    inside = found.reshape(found.shape[3 - min(3, len(bounds)) :])
    values[(0,) * max(0, len(bounds) - 3)][tuple(map(slice, inside.shape))] = inside
    return values


def _wrap(chunk_spec: Any, values: NDArray[Any]) -> NDBuffer:
    buffer: NDBuffer = chunk_spec.prototype.nd_buffer.from_ndarray_like(values)
    return buffer
