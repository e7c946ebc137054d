"""The source format's own words inside an archive: document, blobs, file table.

    source/document   uint8, JSON: kind, document, files, table of blobs
    source/blobs      uint8, all blobs joined in the order of the table

Both are arrays, not attributes: they may hold identifiers (names, dates, file names) and have to
be one thing that can be kept apart, encrypted or withheld.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from psc_volumetric.archive.layout import encode_json
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.stage import Stage
from psc_volumetric.errors import ChecksumError, FormatError

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
    try:
        record = json.loads(document)
        pieces = {}
        for name, offset, size, digest in record["blobs"]:
            piece = blobs[offset : offset + size]
            if sha256_hex(piece) != digest:
                raise ChecksumError(
                    f"{where}: {BLOBS_KEY}: blob at offset {offset}: SHA-256 is not the listed one",
                    kind="blob-checksum",
                    hint="run `psc-archive verify`",
                )
            pieces[str(name)] = piece
        files = tuple(SourceFile(f["name"], f["size"], f["sha256"]) for f in record["files"])
        return SourceRecord(record["kind"], record["document"], pieces, files)
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(
            f"{where}: {DOCUMENT_KEY} cannot be read ({error!r})",
            kind="source-damaged",
            hint="run `psc-archive verify`",
        ) from error
