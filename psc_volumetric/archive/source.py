"""The source format's own words inside an archive: document, blobs, file table.

    source/document   uint8, JSON: kind, document, files, table of blobs
    source/blobs      uint8, all blobs joined in the order of the table

Both are arrays, not attributes: they may hold identifiers (names, dates, file names) and have to
be one thing that can be kept apart, encrypted or withheld.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from psc_volumetric.archive.documents import MAX_MANIFEST, SourceDocument, decode
from psc_volumetric.archive.layout import encode_json
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.stage import Stage
from psc_volumetric.errors import ChecksumError

__all__ = ["FileLike", "SourceFile", "SourceRecord", "parse_source", "stage_source"]

DOCUMENT_KEY = "source/document"
BLOBS_KEY = "source/blobs"


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
    blobs : dict of str to bytes
        Verbatim pieces; may hold identifiers.
    files : tuple of SourceFile
    """

    kind: str
    document: dict[str, Any]
    blobs: dict[str, bytes]
    files: tuple[SourceFile, ...]


def stage_source(
    stage: Stage,
    kind: str,
    document: Mapping[str, Any],
    blobs: Mapping[str, bytes],
    files: Iterable[FileLike],
) -> None:
    """Make ``source/``; the same input gives the same bytes."""
    table, offset = [], 0
    for name in sorted(blobs):
        size = len(blobs[name])
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
    joined = b"".join(blobs[name] for name in sorted(blobs))
    stage.group("source", {"may_hold_identifiers": True})
    for key, data in ((DOCUMENT_KEY, text), (BLOBS_KEY, joined)):
        stage.fill(key, np.frombuffer(data, np.uint8), dims=["byte"])


def parse_source(document: bytes, blobs: bytes, *, where: str) -> SourceRecord:
    """Inverse of :func:`stage_source`.

    Raises
    ------
    FormatError
        Not a source document; ChecksumError when a blob has another digest.
    """
    place = f"{where}: {DOCUMENT_KEY}"
    found = decode(document, SourceDocument, where=place, kind="source-damaged", limit=MAX_MANIFEST)
    pieces = {}
    for blob in found.blobs:
        piece = blobs[blob.offset : blob.offset + blob.size]
        if len(piece) != blob.size or sha256_hex(piece) != blob.sha256:
            raise ChecksumError(
                f"{where}: {BLOBS_KEY}: the blob at offset {blob.offset} has another SHA-256",
                kind="blob-checksum",
                hint="run `psc-archive verify`",
            )
        pieces[blob.name] = piece
    files = tuple(SourceFile(f.name, f.size, f.sha256) for f in found.files)
    return SourceRecord(found.kind, found.document, pieces, files)
