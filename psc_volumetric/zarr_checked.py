"""The codec ``psc_archive.checked``: plain chunks that know the archive they belong to.

Chunks are coded as its configuration says (``codecs``): by Zarr's own codecs, so that whoever has
no such codec reads the array by putting those in its place, or as differences. What it adds is to
reading: metadata and chunks are compared with the manifest, so that a chunk that is lost, changed,
swapped or of another archive is an error, where Zarr alone gives fill values or other values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from msgspec import Struct
from zarr.abc.buffer import Buffer, NDBuffer
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BytesCodec, VLenUTF8Codec, ZstdCodec

from psc_volumetric.archive.access import MAX_OBJECT
from psc_volumetric.archive.documents import convert
from psc_volumetric.archive.plain_arrays import CHECKED_NAME, DIFFERENCES, readable
from psc_volumetric.bitstream.versions import NEWER, check_version
from psc_volumetric.errors import UnsupportedVersionError
from psc_volumetric.zarr_archive import ListedArray, find_array, read_only
from psc_volumetric.zarr_codec import not_alone, place_of

__all__ = ["CheckedCodec"]


class _Configuration(Struct, forbid_unknown_fields=True):
    format: int
    codecs: list[dict[str, Any]]


@dataclass(frozen=True)
class CheckedCodec(ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Read plain arrays of an archive, chunk by chunk.

    Parameters
    ----------
    format : int
        Archive format number.
    codecs : tuple of mapping
        What the chunks are coded with: ``bytes`` or ``vlen-utf8``, then ``zstd``; or
        ``psc_archive.differences``.
    """

    is_fixed_size = False

    format: int
    codecs: tuple[Mapping[str, Any], ...]
    _known: dict[str, ListedArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_version(self.format, f"codec {CHECKED_NAME}")
        names = [codec.get("name") for codec in self.codecs]
        if names not in (["bytes", "zstd"], ["vlen-utf8", "zstd"], [DIFFERENCES["name"]]):
            raise UnsupportedVersionError(
                f"codec {CHECKED_NAME}: unknown codecs {names!r}",
                kind="unknown-configuration",
                hint=NEWER,
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from the entry in ``zarr.json`` (FormatError for anything else)."""
        where = f"codec {CHECKED_NAME}"
        found = convert(data.get("configuration"), _Configuration, where=where)
        text = bool(found.codecs) and found.codecs[0].get("name") == "vlen-utf8"
        kind = _CheckedText if text and cls is CheckedCodec else cls
        return cast(Self, kind(found.format, tuple(found.codecs)))

    def to_dict(self) -> dict[str, Any]:
        """The entry in ``zarr.json``."""
        inner = [dict(codec) for codec in self.codecs]
        return {"name": CHECKED_NAME, "configuration": {"format": self.format, "codecs": inner}}

    @property
    def _items(self) -> BytesCodec | VLenUTF8Codec:
        text = self.codecs[0]["name"] == "vlen-utf8"
        return VLenUTF8Codec() if text else BytesCodec(endian="little")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_dict, (self.to_dict(),))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known in advance (NotImplementedError, as Zarr asks for)."""
        raise NotImplementedError

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: Any) -> Buffer | None:
        raise read_only(CHECKED_NAME)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: Any) -> NDBuffer:
        """Refused: Zarr calls this beside other codecs only, and tells neither key nor archive."""
        raise not_alone(CHECKED_NAME)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: Any
    ) -> NDBuffer | None:
        """Part of a chunk, which is read and compared as a whole."""
        store, outside = place_of(byte_getter, CHECKED_NAME)
        array = await find_array(store, outside, self._known)
        array.check_view(chunk_spec)
        key = array.key(outside)
        where = f"{array.archive.name}: {key}"
        data = await array.archive.read_whole(key, MAX_OBJECT)
        data = await asyncio.to_thread(array.limits.opened, data, where)
        with readable(where):
            plain: Buffer = default_buffer_prototype().buffer.from_bytes(data)
            if array.limits.chunk is None:
                plain = await ZstdCodec()._decode_single(plain, chunk_spec)
            values = await self._items._decode_single(plain, chunk_spec)
            return values[selection]


class _CheckedText(CheckedCodec):
    """The same for text. Zarr takes for text only codecs whose class has this name."""


_CheckedText.__name__ = "VLenUTF8Codec"
