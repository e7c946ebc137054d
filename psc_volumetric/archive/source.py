"""The source format's own words inside an archive: document, blobs, file table.

    source/document   uint8, JSON: kind, document, files, table of blobs
    source/blobs      uint8, all blobs joined in the order of the table

Both are arrays, not attributes: they may hold identifiers (names, dates, file names) and have to
be one thing that can be kept apart, encrypted or withheld.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from psc_volumetric.archive.access import SealedStore, readable
from psc_volumetric.archive.documents import MAX_MANIFEST, Blob, SourceDocument, decode
from psc_volumetric.archive.layout import encode_json
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.stage import CHUNK_VALUES, Stage
from psc_volumetric.errors import ChecksumError

__all__ = [
    "FileLike",
    "SourceFile",
    "SourceRecord",
    "StoredBlobs",
    "joined_blobs",
    "parse_source",
    "stage_source",
]

DOCUMENT_KEY = "source/document"
BLOBS_KEY = "source/blobs"
KEPT_BYTES = 64 << 20  # blobs together up to this size are read once
PIECE = 16 * CHUNK_VALUES  # bytes that are written at once


class FileLike(Protocol):
    """A source file as adapters describe it."""

    @property
    def name(self) -> str:
        """Relative posix name."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """64 hex digits."""


@dataclass(frozen=True)
class SourceFile:
    """One source file: relative posix name, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class SourceRecord:
    """What an adapter needs to write the source format again.

    Attributes
    ----------
    kind : str
        ``"dicom"``, ``"nifti"``, ``"netcdf"``.
    document : dict
        JSON-able.
    blobs : mapping of str to bytes
        Verbatim pieces; may hold identifiers. Of a sealed archive they are read, and compared
        with their digests, one by one when they are asked for.
    files : tuple of SourceFile
    """

    kind: str
    document: dict[str, Any]
    blobs: Mapping[str, bytes]
    files: tuple[SourceFile, ...]


class StoredBlobs(Mapping[str, bytes]):
    """The blobs of an archive, in memory one at a time. In another process a plain dict.

    Parameters
    ----------
    table : sequence of Blob
    read : callable
        ``read(start, stop)`` gives these bytes of all blobs joined.
    where : str
        For messages.
    """

    def __init__(
        self, table: Sequence[Blob], read: Callable[[int, int], bytes], *, where: str
    ) -> None:
        self._table = {blob.name: blob for blob in table}
        self._read = read
        self._where = where

    def __getitem__(self, name: str) -> bytes:
        blob = self._table[name]
        piece = self._read(blob.offset, blob.offset + blob.size)
        if len(piece) != blob.size or sha256_hex(piece) != blob.sha256:
            raise ChecksumError(
                f"{self._where}: {BLOBS_KEY}: the blob at offset {blob.offset} has another SHA-256",
                kind="blob-checksum",
                hint="run `psc-archive verify`",
            )
        return piece

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._table)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))


def stage_source(
    stage: Stage,
    kind: str,
    document: Mapping[str, Any],
    blobs: Mapping[str, bytes],
    files: Iterable[FileLike],
) -> None:
    """Write ``source/``; the same input gives the same bytes.

    Blobs may be anything with the buffer protocol, such as ``mmap``: they are gone through piece
    by piece.
    """
    table, offset = [], 0
    for name in sorted(blobs):
        size = memoryview(blobs[name]).nbytes
        table.append([name, offset, size, sha256_hex(blobs[name])])
        offset += size
    text = encode_json(
        {
            "kind": kind,
            "document": dict(document),
            "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in files],
            "blobs": table,
        }
    )
    stage.group("source", {"may_hold_identifiers": True})
    stage.fill(DOCUMENT_KEY, np.frombuffer(text, np.uint8), dims=["byte"])
    joined = stage.array(BLOBS_KEY, shape=(offset,), dtype=np.dtype(np.uint8), dims=["byte"])
    stage.flush()
    start = 0
    for piece in _pieces(blobs[name] for name in sorted(blobs)):
        joined[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        start += len(piece)
        stage.flush()


def _pieces(blobs: Iterable[bytes]) -> Iterator[bytes]:
    """All blobs joined, in pieces of whole chunks."""
    pending = bytearray()
    for blob in blobs:
        view = memoryview(blob).cast("B")
        while len(view):
            taken = view[: PIECE - len(pending)]
            pending += taken
            view = view[len(taken) :]
            if len(pending) == PIECE:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)


def joined_blobs(sealed: SealedStore) -> Callable[[int, int], bytes]:
    """What reads a range of an archive's blobs; few bytes are read at once and kept."""
    array = sealed.open_array(BLOBS_KEY)
    kept: list[bytes] = []

    def read(start: int, stop: int) -> bytes:
        with readable(f"{sealed.name}: {BLOBS_KEY}"):
            if array.size > KEPT_BYTES:
                return np.asarray(array[start:stop]).tobytes()
            if not kept:
                kept.append(np.asarray(array[...]).tobytes())
            return kept[0][start:stop]

    return read


def parse_source(document: bytes, read: Callable[[int, int], bytes], *, where: str) -> SourceRecord:
    """Inverse of :func:`stage_source`.

    Parameters
    ----------
    document : bytes
    read : callable
        ``read(start, stop)`` gives these bytes of all blobs joined.
    where : str
        For messages.

    Raises
    ------
    FormatError
        Not a source document.
    """
    place = f"{where}: {DOCUMENT_KEY}"
    found = decode(document, SourceDocument, where=place, kind="source-damaged", limit=MAX_MANIFEST)
    files = tuple(SourceFile(f.name, f.size, f.sha256) for f in found.files)
    blobs = StoredBlobs(found.blobs, read, where=where)
    return SourceRecord(found.kind, found.document, blobs, files)
