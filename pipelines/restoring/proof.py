"""What a restored file is, compared with its source, and the proof by digest.

The digests of the source were taken when the archive was made. A file that was promised to be the
source and is not is an error, and the files of that restore are removed again.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from adapters import isolation
from adapters.base import (
    EQUAL_DATA,
    IDENTICAL,
    IDENTICAL_UNPACKED,
    Promise,
    SourceItem,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.source_files import source_paths
from psc_volumetric.archive.documents import convert
from psc_volumetric.errors import FormatError, PscError

__all__ = [
    "PROMISES",
    "FileProof",
    "ProofError",
    "outcome_counts",
    "promises_of",
    "prove",
    "remove_written",
]

PROMISES = "promises"  # key in the source document
_BLOCK = 1 << 20


class ProofError(PscError):
    """A restored file is not what the archive promised; kind ``"not-the-source"``."""


@dataclass(frozen=True)
class FileProof:
    """One restored file.

    Attributes
    ----------
    path : str
    outcome : str
        ``"identical"``, ``"identical after decompression"``, ``"equal data"``,
        ``"derived (lossy)"`` or ``"derived (part of the source)"``.
    proven : bool
        Whether a digest of the restored file was compared with that of the source and is equal.
    differs : str or None
        What differs from the source file though its data are equal, in words.
    """

    path: str
    outcome: str
    proven: bool
    differs: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return asdict(self)


def promises_of(item: SourceItem, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Promise per source file, digests included, for the archive's source document.

    Parameters
    ----------
    item : SourceItem
    paths : sequence of Path
        The item's source files. Where the promise is equal data, the file is read once more.

    Raises
    ------
    SourceError : a file cannot be read.
    """
    rows = []
    for record, path in zip(item.files, source_paths(item.files, paths), strict=True):
        promise = record.promise
        if promise.kind == EQUAL_DATA:
            digest = isolation.content_sha256(item.kind, path)
            promise = Promise(EQUAL_DATA, promise.differs, digest)
        rows.append(promise.to_dict())
    return rows


def prove(
    kind: str,
    written: Sequence[WrittenFile],
    files: Sequence[Any],
    promises: Any,
) -> tuple[FileProof, ...]:
    """Compare restored files with the digests of their sources.

    Parameters
    ----------
    kind : str
        Source format.
    written : sequence of WrittenFile
    files : sequence with ``sha256``
        Records of the source files.
    promises : list of dict
        As from `promises_of`, but not yet believed; empty for an archive that has none, whose
        files stay unproven.

    Returns
    -------
    tuple of FileProof

    Raises
    ------
    ProofError : a file is not the source; all files of this restore have been removed.
    FormatError : the promises are none, or not of these files; likewise.
    """
    proofs = []
    try:
        promised = _checked_promises(promises, written, files)
    except FormatError:
        remove_written(written)
        raise
    for file in written:
        promise = promised[file.source] if promised else None
        wanted = _wanted(file, files[file.source].sha256, promise)
        found = None if wanted is None else _found(kind, file)
        if wanted != found:
            remove_written(written)
            raise ProofError(
                f"{file.path.name!r} was promised to be {file.outcome!r} with its source; expected "
                f"SHA-256 {wanted}, found {found}; the restored files were removed",
                kind="not-the-source",
                hint="run `psc-archive verify --deep`; --unproven writes the files anyway",
            )
        proofs.append(describe(file, promise, proven=wanted is not None))
    return tuple(proofs)


def _checked_promises(
    promises: Any, written: Sequence[WrittenFile], files: Sequence[Any]
) -> list[Promise]:
    where = "source document: promises"
    found = convert(promises, list[Promise], where=where)
    if len(found) not in (0, len(files)) or any(file.source >= len(files) for file in written):
        raise FormatError(
            f"{where}: {len(found)} for {len(files)} source files and {len(written)} restored ones",
            kind="bad-metadata",
            hint="the archive is damaged; --unproven writes the files anyway",
        )
    return found


def describe(file: WrittenFile, promise: Promise | None, *, proven: bool) -> FileProof:
    """What a written file is, in words."""
    exact = file.outcome in (IDENTICAL_UNPACKED, EQUAL_DATA)
    differs = promise.differs if promise is not None and exact else None
    return FileProof(str(file.path), file.outcome, proven, differs)


def _wanted(file: WrittenFile, sha256: str, promise: Promise | None) -> str | None:
    if file.outcome == IDENTICAL:
        return sha256
    if promise is None or file.outcome not in (IDENTICAL_UNPACKED, EQUAL_DATA):
        return None
    if file.outcome == IDENTICAL_UNPACKED and promise.kind == IDENTICAL:
        return sha256  # the source is not compressed, the restored file is
    return promise.sha256


def _found(kind: str, file: WrittenFile) -> str:
    try:
        if file.outcome == EQUAL_DATA:
            return isolation.content_sha256(kind, file.path)
        with file.path.open("rb") as stream:
            if file.outcome == IDENTICAL or stream.read(2) != b"\x1f\x8b":
                stream.seek(0)
                return _sha256(stream)
        with gzip.open(file.path, "rb") as unpacked:
            return _sha256(unpacked)
    except (SourceError, EOFError, zlib.error) as error:
        return f"none ({error})"


def _sha256(stream: IO[bytes] | gzip.GzipFile) -> str:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def remove_written(written: Sequence[WrittenFile]) -> None:
    """Remove the files of a restore that failed after all, and folders that are empty then."""
    for file in written:
        file.path.unlink(missing_ok=True)
    for folder in sorted({file.path.parent for file in written}, reverse=True):
        with suppress(OSError):  # other files are in it
            folder.rmdir()


def outcome_counts(proofs: Sequence[FileProof]) -> dict[str, int]:
    """How many files have each outcome."""
    counts: dict[str, int] = {}
    for proof in proofs:
        counts[proof.outcome] = counts.get(proof.outcome, 0) + 1
    return counts
