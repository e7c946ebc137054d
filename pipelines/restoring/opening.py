"""Opening an archive for restoring, its encrypted headers too where there is a key for them."""

from __future__ import annotations

from pathlib import Path

from pipelines.key_files import read_key_file
from psc_volumetric.archive.reader import ArchiveReader

__all__ = ["open_with_key"]


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
