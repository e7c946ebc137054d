"""What a plain array of an archive may look like, checked before Zarr believes its metadata.

An array has a regular grid of numbers, Zstandard over little-endian items, in Zarr's own codecs or
inside ``psc_archive.checked``, or of text, always inside that, or of differences (SPEC section
11.5), likewise. Its size has to be justified by what is stored of it, and each chunk says its
decoded size before it is decoded.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.documents import (
    Named,
    PlainNode,
    chunk_shape,
    convert,
    grid_shape,
)
from psc_volumetric.bitstream.frames import frame_size, unpack_frame
from psc_volumetric.coders.differences import decode_differences, suits_differences
from psc_volumetric.errors import FormatError, LimitExceededError, PscError

__all__ = [
    "CHECKED_NAME",
    "DIFFERENCES",
    "PLAIN_BYTES",
    "PlainLimits",
    "inner_codecs",
    "plain_limits",
    "readable",
]

CHECKED_NAME = "psc_archive.checked"
DIFFERENCES = {"name": "psc_archive.differences", "configuration": {}}
PLAIN_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}  # what those decode to
FREE_BYTES = 512 << 20  # decoded bytes an array may have whatever is stored
RATIO = 256  # decoded bytes per stored byte beyond that
TEXT_CHUNK = 256 << 20  # decoded bytes of a chunk of text
TEXT_ITEM = 4  # bytes of an empty text
ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "string": TEXT_ITEM,
}


@dataclass(frozen=True)
class PlainLimits:
    """What a chunk decodes to: bytes, exactly, or at most and then so many texts.

    ``chunk`` is that of an array of differences, else None; ``dtype`` is None for text.
    """

    chunk_bytes: int
    texts: int | None
    dtype: str | None = None
    chunk: tuple[int, ...] | None = None

    def numbers(self, data: bytes, where: str) -> NDArray[np.generic]:
        """All numbers of a chunk, C order; errors as `opened`."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if self.chunk is not None:
            return decode_differences(data, self.chunk, dtype, what=where)
        return np.frombuffer(unpack_frame(data, self.chunk_bytes, where), dtype)

    def opened(self, data: bytes, where: str) -> bytes:
        """A chunk as Zarr's own codecs take it: `PLAIN_BYTES` in the place of differences.

        Raises
        ------
        FormatError : it would decode to something else.
        """
        if self.chunk is not None:
            dtype = np.dtype(self.dtype)
            return decode_differences(data, self.chunk, dtype, what=where).tobytes()
        self._check_chunk(data, where)
        return data

    def _check_chunk(self, data: bytes, where: str) -> None:
        promised = frame_size(data)
        if promised is None or (
            promised > self.chunk_bytes if self.texts is not None else promised != self.chunk_bytes
        ):
            raise FormatError(
                f"{where}: expected one Zstandard frame of "
                f"{'at most ' if self.texts is not None else ''}{self.chunk_bytes} bytes, found "
                f"one of {promised}",
                kind="bad-payload",
                hint="the chunk is damaged, run `psc-archive verify`",
            )
        if self.texts is not None:
            self._check_texts(data, where)

    def _check_texts(self, data: bytes, where: str) -> None:
        """The number of texts, before as many objects are made."""
        try:
            count = int.from_bytes(unpack_frame(data, frame_size(data) or 0, where)[:4], "little")
        except FormatError as error:
            raise FormatError(f"{where}: no text ({error})", kind="bad-payload") from error
        if count != self.texts:
            raise FormatError(
                f"{where}: expected {self.texts} texts, found {count}", kind="bad-payload"
            )


def plain_limits(node: PlainNode, chunks: Sequence[int], *, where: str) -> PlainLimits:
    """Check the metadata of a plain array.

    Parameters
    ----------
    node : PlainNode
    chunks : sequence of int
        Bytes of each of its chunks; all are stored, also those of nothing but the fill value.
    where : str
        Archive and key, for messages.

    Raises
    ------
    FormatError : something else than the plain arrays that an archive holds; LimitExceededError
        when it claims more than is stored of it justifies.
    """
    dtype = node.data_type if isinstance(node.data_type, str) else node.data_type.name
    keys = node.chunk_key_encoding
    checked = [codec.name for codec in node.codecs] == [CHECKED_NAME]
    known = dtype in ITEM_BYTES and (checked or dtype != "string")
    inner = inner_codecs(node.codecs, where=where)
    differences = known and checked and _is_differences(inner, dtype)
    if not known or not (differences or _is_zstd(inner, dtype)):
        raise _unknown(where, f"data type {dtype!r} with codecs {[c.name for c in node.codecs]!r}")
    if keys.name != "default" or keys.configuration.get("separator", "/") != "/":
        raise _unknown(where, f"chunk keys {keys.name!r}")
    if len(node.dimension_names) != len(node.shape):
        raise _unknown(where, f"{len(node.dimension_names)} axis names for {len(node.shape)} axes")
    chunk, stored = chunk_shape(node), sum(chunks)
    grid = math.prod(grid_shape(node))
    if grid != len(chunks):
        raise LimitExceededError(
            f"{where}: {grid} chunks by its shape, {len(chunks)} are stored",
            kind="limit",
            hint="the archive is damaged or was made to do harm",
        )
    item, text = ITEM_BYTES[dtype], dtype == "string"
    total = math.prod(node.shape) * item
    if total > max(FREE_BYTES, RATIO * stored) or math.prod(chunk) * item > FREE_BYTES:
        raise LimitExceededError(
            f"{where}: {total} bytes in chunks of {math.prod(chunk) * item}, where {stored} bytes "
            "are stored",
            kind="limit",
            hint="the archive is damaged or was made to do harm",
        )
    if text:
        return PlainLimits(TEXT_CHUNK, math.prod(chunk))
    if differences:
        return PlainLimits(math.prod(chunk) * item, None, dtype, chunk)
    return PlainLimits(math.prod(chunk) * item, None, dtype)


def inner_codecs(codecs: Sequence[Named], *, where: str) -> list[Named]:
    """Codecs of the chunks' bytes, those inside ``psc_archive.checked`` where that is used."""
    if len(codecs) == 1 and codecs[0].name == CHECKED_NAME:
        inner = codecs[0].configuration.get("codecs")
        return convert(inner, list[Named], where=f"{where}: codecs of {CHECKED_NAME}")
    return list(codecs)


def _is_differences(codecs: Sequence[Named], dtype: str) -> bool:
    named = [{"name": codec.name, "configuration": codec.configuration} for codec in codecs]
    return named == [DIFFERENCES] and dtype != "string" and suits_differences(np.dtype(dtype))


def _is_zstd(codecs: Sequence[Named], dtype: str) -> bool:
    if len(codecs) != 2:
        return False
    first, second = codecs
    if dtype == "string":
        plain = first.name == "vlen-utf8"
    else:
        plain = first.name == "bytes" and first.configuration.get("endian") in ("little", None)
    return plain and second.name == "zstd"


def _unknown(where: str, what: str) -> FormatError:
    return FormatError(
        f"{where}: {what} is no plain array of an archive",
        kind="bad-metadata",
        hint="the archive is damaged or of another format, run `psc-archive verify`",
    )


@contextlib.contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn what Zarr and its codecs raise about bad arrays into a FormatError."""
    try:
        yield
    except PscError:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise FormatError(
            f"{where}: the array cannot be read ({type(error).__name__}: {str(error)[:200]})",
            kind="bad-metadata",
            hint="the archive is damaged or of another format, run `psc-archive verify`",
        ) from error
