"""What is left of an archive that was removed on purpose: who, when, why, and what it was.

A tombstone is a small JSON file beside the place of the archive (``scan.psc.zarr.retired.json``),
on disk before anything is removed. An archive that has one and is still there was being removed
when the run was stopped; the same command finishes it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import psc_volumetric
from pipelines.checking.event_log import utc_now, who
from pipelines.collection import names_in
from psc_volumetric.archive.companions import RETIRED_SUFFIX, read_companion, write_companion
from psc_volumetric.archive.documents import decode
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import FormatError, ParameterError, StorageError

__all__ = ["Tombstone", "bury", "read_tombstone", "tombstones_in"]

LONGEST = 1000  # characters of a reason
MOST = 100  # archives of one name that were retired one after the other
_NAME = re.compile(r"(?P<archive>.+\.(?:psc\.zarr|psc\.zarr\.zip|psc\.zip))\.retired(-\d+)?\.json")


@dataclass(frozen=True)
class Tombstone:
    """An archive that is no more.

    Attributes
    ----------
    archive : str
        Its name, without folders.
    manifest : str or None
        Digest of its manifest; None where that could not be read any more.
    source : str or None
        SHA-256 over the digests of its source files, as the archive recorded it.
    created : str or None
    bytes : int
    retired : str
        When, UTC.
    by : str
        Account and machine.
    reason : str
    successor : str or None
        Digest of the manifest of the archive that takes its place.
    program : str
    """

    archive: str
    manifest: str | None
    source: str | None
    created: str | None
    bytes: int
    retired: str
    by: str
    reason: str
    successor: str | None
    program: str

    @classmethod
    def of(cls, archive: str, reason: str, successor: str | None = None) -> Tombstone:
        """Describe an archive that is still there.

        Raises
        ------
        ParameterError : no reason, or a very long one (kind ``"bad-reason"``).
        StorageError : nothing is there.
        """
        text = " ".join(reason.split())
        if not 0 < len(text) <= LONGEST:
            raise ParameterError(
                f"expected a reason of 1 to {LONGEST} characters, found {len(text)}",
                kind="bad-reason",
                hint="say in a few words why the archive may go; name no person",
            )
        digest, source, created, nbytes = None, None, None, 0
        try:
            with ArchiveReader.open(archive) as reader:
                digest, nbytes = reader.manifest.digest, reader.manifest.size
                source, created = reader.document.source.sha256, reader.created
        except FormatError:
            pass  # too damaged to say what it was
        return cls(
            archive=archive.rstrip("/").rpartition("/")[2],
            manifest=digest,
            source=source,
            created=created,
            bytes=nbytes,
            retired=utc_now(),
            by=who(),
            reason=text,
            successor=successor,
            program=f"psc-archive {psc_volumetric.__version__}",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return asdict(self)


def tombstones_in(folder: str) -> dict[str, str]:
    """Tombstones in a folder or bucket: their names below it, and those of their archives."""
    found = {name: _NAME.fullmatch(name) for name in names_in(folder)}
    return {name: match["archive"] for name, match in sorted(found.items()) if match}


def bury(archive: str, stone: Tombstone) -> str:
    """Write a tombstone; what another run wrote for the same archive stays. Gives its suffix.

    Raises
    ------
    StorageError : it cannot be written.
    """
    data = json.dumps(stone.to_dict(), indent=1).encode() + b"\n"
    for number in count(1):
        suffix = RETIRED_SUFFIX if number == 1 else f".retired-{number}.json"
        if write_companion(archive, suffix, data):
            return suffix
        there = read_companion(archive, suffix)
        if there is not None and read_tombstone(there, archive).manifest == stone.manifest:
            return suffix
        if number == MOST:
            break
    raise StorageError(f"{archive}: {MOST} tombstones of other archives are there", kind="taken")


def read_tombstone(data: bytes, where: str) -> Tombstone:
    """A tombstone from its file.

    Raises
    ------
    FormatError : it is none (kind ``"bad-tombstone"``), or too large or deep (``"limit"``).
    """
    return decode(data, Tombstone, where=where, kind="bad-tombstone")
