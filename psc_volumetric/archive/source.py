"""The source format's own words inside an archive: document, blobs (SPEC 11.4, 11.6).

    source/document       compressed: length of the JSON (u32), the JSON, small blobs
    source/blobs/<n>      only where blobs are large: 16 MiB each of all blobs joined, a frame

The JSON has kind, document, files and the table of blobs: name, offset among all blobs joined in
the order of the table, size. These objects may hold identifiers (names, dates, file
names); they are objects of their own so that they can be kept apart, encrypted or withheld.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

from psc_volumetric.archive.access import SealedStore
from psc_volumetric.archive.documents import MAX_MANIFEST, Blob, SourceDocument, decode
from psc_volumetric.archive.layout import encode_json
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.source_frames import pack_document, unpack_document
from psc_volumetric.bitstream.frames import pack_frame, unpack_frame
from psc_volumetric.errors import ChecksumError, FormatError

__all__ = [
    "Blocks",
    "FileLike",
    "SourceFile",
    "SourceRecord",
    "StoredBlobs",
    "blob_blocks",
    "read_source",
    "source_digest",
    "write_source",
]

DOCUMENT_KEY = "source/document"
BLOBS_PREFIX = "source/blobs/"
WITHIN = 1 << 20  # bytes of all blobs that stand in the document
PIECE = 16 << 20  # bytes of the other ones in one object
DAMAGED = "source-damaged"


@runtime_checkable
class Blocks(Protocol):
    """A blob that is not in memory: its size, and its bytes block by block."""

    @property
    def nbytes(self) -> int:
        """Bytes."""

    def blocks(self) -> Iterator[bytes]:
        """All bytes, in order."""


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
        Verbatim pieces; may hold identifiers. Of a sealed archive they are read, from objects that
        are compared with the manifest, one by one when they are asked for.
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
        self._check_size(piece, blob.size, blob.offset)
        return piece

    def _check_size(self, piece: bytes, size: int, offset: int) -> None:
        if len(piece) != size:
            raise ChecksumError(
                f"{self._where}: source: expected {size} bytes at offset {offset} of all "
                f"blobs, found {len(piece)}",
                kind="blob-checksum",
                hint="run `psc-archive verify`",
            )

    def blocks(self, name: str) -> Iterator[bytes]:
        """A blob in blocks of at most `PIECE` bytes."""
        blob = self._table[name]
        for start in range(blob.offset, blob.offset + blob.size, PIECE):
            stop = min(start + PIECE, blob.offset + blob.size)
            block = self._read(start, stop)
            self._check_size(block, stop - start, start)
            yield block

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._table)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))


def blob_blocks(blobs: Mapping[str, bytes], name: str) -> Iterator[bytes]:
    """A blob of a record, block by block where it is stored that way."""
    return blobs.blocks(name) if isinstance(blobs, StoredBlobs) else iter((blobs[name],))


def source_digest(files: Iterable[FileLike]) -> dict[str, Any]:
    """How many source files there are, their bytes, and one SHA-256 over ``sha256 size`` lines."""
    listed = list(files)
    lines = "".join(f"{file.sha256} {file.size}\n" for file in listed)
    return {
        "files": len(listed),
        "bytes": sum(file.size for file in listed),
        "sha256": sha256_hex(lines.encode()),
    }


def write_source(
    put: Callable[[str, bytes], None],
    kind: str,
    document: Mapping[str, Any],
    blobs: Mapping[str, bytes | Blocks],
    files: Iterable[FileLike],
) -> list[str]:
    """Write ``source/``; the same input gives the same bytes. Returns the keys.

    Blobs are gone through piece by piece; those that are not in memory are read that way.
    """
    table, offset = [], 0
    for name in sorted(blobs):
        size = _views(blobs[name])[0]
        table.append([name, offset, size])
        offset += size
    text = encode_json(
        {
            "kind": kind,
            "document": dict(document),
            "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in files],
            "blobs": table,
        }
    )
    joined = _pieces(blobs[name] for name in sorted(blobs))
    within = b"".join(joined) if offset <= WITHIN else b""
    head = len(text).to_bytes(4, "little") + text + within
    put(DOCUMENT_KEY, pack_document(head))
    written = [DOCUMENT_KEY]
    for number, piece in enumerate(joined):
        written.append(f"{BLOBS_PREFIX}{number}")
        put(written[-1], pack_frame(piece))
    return written


def _views(blob: bytes | Blocks) -> tuple[int, Iterable[bytes]]:
    """Size of a blob, and its bytes in blocks."""
    if isinstance(blob, Blocks):
        return blob.nbytes, blob.blocks()
    return len(blob), (blob,)


def _pieces(blobs: Iterable[bytes | Blocks]) -> Iterator[bytes]:
    """All blobs joined, in pieces of `PIECE` bytes."""
    pending = bytearray()
    for block in chain.from_iterable(_views(blob)[1] for blob in blobs):
        view = memoryview(block)
        while len(view):
            taken = view[: PIECE - len(pending)]
            pending += taken
            view = view[len(taken) :]
            if len(pending) == PIECE:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)


def read_source(sealed: SealedStore) -> SourceRecord:
    """The record of a sealed archive; large blobs are read when they are asked for.

    Raises
    ------
    FormatError : it is damaged, or no record.
    """
    where = f"{sealed.name}: {DOCUMENT_KEY}"
    data = sealed.read(DOCUMENT_KEY)
    content = unpack_document(data, MAX_MANIFEST + WITHIN, where)
    end = 4 + int.from_bytes(content[:4], "little")
    if not 4 < end <= len(content):
        raise FormatError(f"{where}: the document is cut", kind=DAMAGED)
    text, within = content[4:end], content[end:]
    found = decode(text, SourceDocument, where=where, kind=DAMAGED, limit=MAX_MANIFEST)
    files = tuple(SourceFile(f.name, f.size, f.sha256) for f in found.files)
    total = max((blob.offset + blob.size for blob in found.blobs), default=0)
    read = _reader_within(within) if total <= WITHIN else _reader_of_pieces(sealed, total)
    blobs = StoredBlobs(found.blobs, read, where=sealed.name)
    return SourceRecord(found.kind, found.document, blobs, files)


def _reader_within(within: bytes) -> Callable[[int, int], bytes]:
    return lambda start, stop: within[start:stop]


def _reader_of_pieces(sealed: SealedStore, total: int) -> Callable[[int, int], bytes]:
    """What reads a range of the joined blobs; the latest piece is kept."""
    kept: dict[int, bytes] = {}

    def piece(number: int) -> bytes:
        if number not in kept:
            key = f"{BLOBS_PREFIX}{number}"
            size = min(PIECE, total - number * PIECE)
            data = unpack_frame(sealed.read(key), size, f"{sealed.name}: {key}")
            kept.clear()
            kept[number] = data
        return kept[number]

    def read(start: int, stop: int) -> bytes:
        found = bytearray()
        while start < stop:
            number, offset = divmod(start, PIECE)
            taken = piece(number)[offset : offset + stop - start]
            found += taken
            start += len(taken)
        return bytes(found)

    return read
