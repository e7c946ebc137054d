"""Opening an archive for restoring: its encrypted headers, where there is a key, and its source."""

from __future__ import annotations

from pathlib import Path

from adapters.registry import KINDS
from pipelines.key_files import read_key_file
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.source import SourceRecord
from psc_volumetric.bitstream.versions import NEWER
from psc_volumetric.errors import UnsupportedVersionError

__all__ = ["open_with_key", "readable_source"]

DOCUMENT_VERSION = 0  # of the record of the source, SPEC 11.6


def open_with_key(archive: str, identity: Path | None, *, device: str = "auto") -> ArchiveReader:
    """Open an archive, or with a key the one that a copy without headers was made from.

    Parameters
    ----------
    archive : str
        Path or URL.
    identity : Path or None
        Key file of ``age-keygen`` or `psc-archive identity`, that nobody else may read.
    device : str
        Where networks run.

    Raises
    ------
    FormatError, StorageError : as `ArchiveReader.open`; the encrypted headers are damaged.
    ParameterError : kind ``"nothing-hidden"``, ``"wrong-identity"``, ``"bad-key"``, ``"no-key"``.
    ExtraMissingError : a key takes the extra ``sign``.
    """
    reader = ArchiveReader.open(archive, device=device)
    if identity is None:
        return reader
    from psc_volumetric.archive.age import identities_in
    from psc_volumetric.archive.hidden import reveal

    text = read_key_file(identity, secret=True).decode("utf-8", "replace")
    return ArchiveReader(reveal(reader.sealed, identities_in(text)), device=device)


def readable_source(reader: ArchiveReader) -> SourceRecord:
    """The record of the source, of which files can be made here.

    Raises
    ------
    FormatError : it is damaged.
    UnsupportedVersionError : it is of another release (kind ``"unknown-source"``); values can be
        read nevertheless.
    """
    source = reader.source()
    version = source.document.get("document_version", DOCUMENT_VERSION)
    is_known = source.kind in KINDS or "original_names" in source.document
    if is_known and version == DOCUMENT_VERSION:
        return source
    wanted = f"{DOCUMENT_VERSION} of a kind among {', '.join(sorted(KINDS))}"
    raise UnsupportedVersionError(
        f"{reader.name}: expected a record of the source, version {wanted}, found version "
        f"{repr(version)[:40]} of {source.kind[:40]!r}",
        kind="unknown-source",
        hint=f"{NEWER}; xarray and Zarr read the values",
    )
