"""The Zarr v3 codecs of archives: what lets ``zarr.open`` and ``xr.open_zarr`` read them.

``psc_archive.psc`` decodes bricks, ``psc_archive.checked`` is what plain arrays beside them have.
Both only read (archives are written by :class:`psc_volumetric.archive.ArchiveWriter`), both hold
metadata and bytes to the manifest of the archive: a chunk that is lost, changed, swapped or of
another archive is an error, not fill values. Zarr does not tell a codec the quality wanted; it is
always everything there is (use :class:`~psc_volumetric.archive.ArchiveReader` or ``engine="psc"``
for less).

The names and configuration keys of the codecs are part of the format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer, NDBuffer
from zarr.abc.codec import (
    ArrayBytesCodec,
    ArrayBytesCodecPartialDecodeMixin,
    ArrayBytesCodecPartialEncodeMixin,
)
from zarr.abc.store import Store

from psc_volumetric.archive.access import MAX_OBJECT, read_listed_index
from psc_volumetric.archive.brick_checks import check_index
from psc_volumetric.archive.decoded import DecodedRegion, decoded_regions
from psc_volumetric.archive.fetched import Fetched
from psc_volumetric.archive.layout import CODEC_NAME, told
from psc_volumetric.archive.priors import EmbeddedPriors
from psc_volumetric.archive.selection import Bounds, bounds_of, relative_to
from psc_volumetric.archive.unfinished import unfinished_segments
from psc_volumetric.bitstream.constants import DTYPES, FORMAT_VERSION, HEADER_READ_AHEAD
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.bitstream.versions import NEWER, check_version
from psc_volumetric.errors import (
    FormatError,
    ParameterError,
    PscError,
    UnsupportedVersionError,
)
from psc_volumetric.zarr_archive import ListedArray, executor, find_array, read_only

__all__ = ["PscCodec"]

T = TypeVar("T")
Box = tuple[slice, slice, slice]

SUPPORTED = frozenset(dtype.name for dtype in DTYPES.values())


class Call(Protocol):
    """Runs a request on the loop that Zarr reads with, from another thread, and waits for it."""

    def __call__(self, request: Coroutine[Any, Any, T]) -> T:
        """What the request gives, or raises."""
        ...


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

    format: int = FORMAT_VERSION
    prior: str | None = None
    _known: dict[str, ListedArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_version(self.format, f"codec {CODEC_NAME}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the entry in ``zarr.json``."""
        configuration = data.get("configuration", {})
        unknown = set(configuration) - {"format", "prior"}
        if unknown:
            raise UnsupportedVersionError(
                f"codec {CODEC_NAME}: unknown configuration {sorted(unknown)!r}",
                kind="unknown-configuration",
                hint=NEWER,
            )
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """The entry in ``zarr.json``."""
        return {
            "name": CODEC_NAME,
            "configuration": told({"format": self.format, "prior": self.prior}),
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
        raise read_only(CODEC_NAME)

    async def _encode_partial_single(
        self, byte_setter: Any, chunk_array: NDBuffer, selection: Any, chunk_spec: Any
    ) -> None:
        """Refused here too: without it Zarr deletes chunks that get the fill value, unasked."""
        raise read_only(CODEC_NAME)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: Any) -> NDBuffer:
        """Refused: Zarr calls this beside other codecs only, and tells neither key nor archive."""
        raise not_alone(CODEC_NAME)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: Any
    ) -> NDBuffer | None:
        """Part of a chunk, reading only the ranges it needs."""
        loop = asyncio.get_running_loop()
        store, outside = place_of(byte_getter, CODEC_NAME)
        bounds = bounds_of(selection, chunk_spec.shape)
        try:
            array = await find_array(store, outside, self._known)
            array.check_view(chunk_spec)
            key = array.key(outside)

            def call(request: Coroutine[Any, Any, T]) -> T:
                return asyncio.run_coroutine_threadsafe(request, loop).result()

            values = await loop.run_in_executor(
                executor(), lambda: _decode_listed(array, key, bounds, call)
            )
        except PscError as error:
            raise _placed(error, outside) from error
        return wrap(chunk_spec, values[relative_to(selection, bounds)])


def place_of(byte_getter: Any, name: str) -> tuple[Store, str]:
    """Store and key behind what Zarr gives a codec to read with (FormatError for anything else)."""
    store, key = getattr(byte_getter, "store", None), getattr(byte_getter, "path", None)
    if not isinstance(store, Store) or not isinstance(key, str):
        raise not_alone(name)
    return store, key


def not_alone(name: str) -> FormatError:
    """The error for a codec that is used with others around it."""
    return FormatError(
        f"codec {name} has to be the only one of an array, so that it knows which chunk it reads",
        kind="codec-not-alone",
        hint="the metadata of the array were changed; get them from another copy of the archive",
    )


def _decode_listed(
    array: ListedArray, key: str, bounds: tuple[Bounds, ...], call: Call
) -> NDArray[Any]:
    """Values of a box of a brick that the manifest lists; zeros past the array's edge."""
    from psc_volumetric.codec import decode_with
    from psc_volumetric.layers.planning import decodes_slicewise
    from psc_volumetric.methods.protocol import Resources
    from psc_volumetric.needed import byte_ranges, whole_units

    archive, fetched = array.archive, Fetched()

    def read(start: int, length: int) -> bytes:
        found = fetched.find(start, length)
        if found is not None or length <= 0:
            return found or b""
        return call(archive.read(key, start, length))

    def file(name: str) -> bytes:
        return call(archive.read_whole(name, MAX_OBJECT))

    index = array.indices.get(key) or call(_first_read(array, key, fetched))(read)
    last, place = index.levels - 1, (array.owner, key)
    kept = unfinished_segments().of(place)

    def decode(box: Box) -> DecodedRegion:
        lacking = byte_ranges(index, box, None, lambda level, part: kept.has(index, level, part))
        call(archive.fetch(key, fetched.lacking(lacking), fetched))
        priors = EmbeddedPriors(archive.manifest.entries, file)
        found = decode_with(read, Resources(priors), selection=box, index=index, kept=kept)
        return DecodedRegion(found.values, None)

    wanted = [*[Bounds(0, 1)] * (3 - len(bounds)), *bounds[-3:]]
    z, y, x = (
        slice(min(b.start, v), min(b.stop, v)) for b, v in zip(wanted, index.valid, strict=True)
    )
    shape = [b.stop - b.start for b in bounds]
    values = np.zeros(shape, index.dtype.newbyteorder("="))
    if 0 in shape:
        return values
    if decodes_slicewise(index, last):
        found = decode((z, y, x)).values
    else:
        regions, units = decoded_regions(), partial(whole_units, index)
        found = regions.get(place, (z, y, x), units=units, decode=decode).values
    inside = found.reshape(found.shape[3 - min(3, len(bounds)) :])
    values[(0,) * max(0, len(bounds) - 3)][tuple(map(slice, inside.shape))] = inside
    return values


async def _first_read(
    array: ListedArray, key: str, fetched: Fetched
) -> Callable[[ReadRange], BrickIndex]:
    """Size and first bytes of a brick, at once; what is left to do without waiting."""
    archive, spec = array.archive, array.spec
    size, head = await asyncio.gather(
        archive.check_size(key), archive.read(key, 0, HEADER_READ_AHEAD)
    )
    fetched.add(0, head)

    def parsed(read: ReadRange) -> BrickIndex:
        position = tuple(int(part) for part in key.split("/")[-spec.ndim :])
        index = read_listed_index(
            lambda start, length: read(start, min(length, size - start)),
            size,
            archive.entry(key),
            f"{archive.name}: {key}",
            lambda found: check_index(found, spec, position, key),
        )
        array.keep_index(key, index)
        return index

    return parsed


def _placed(error: PscError, key: str) -> PscError:
    if key in str(error):
        return error
    return type(error)(f"{key}: {error.message}", kind=error.kind, hint=error.hint)


def wrap(chunk_spec: Any, values: NDArray[Any]) -> NDBuffer:
    """Values as Zarr wants them."""
    buffer: NDBuffer = chunk_spec.prototype.nd_buffer.from_ndarray_like(values)
    return buffer
