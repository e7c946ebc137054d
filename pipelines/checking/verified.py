"""When somebody's own ``verify`` last found an archive whole, for the catalogue.

Archives are written once, and folders may be read-only, so it is kept in the user's cache, beside
the indexes of folders: a digest of where the archive is, the digest of its manifest, and the time.
Another archive at the same place, or a copy elsewhere, is not known by it. It holds neither names
nor paths, and is a cache: without it, nobody remembers.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.archiving.known_sources import index_path
from pipelines.checking.event_log import utc_now
from psc_volumetric.archive.checking import Sample
from psc_volumetric.archive.stores import is_url

if TYPE_CHECKING:
    from pipelines.checking.verify import VerifyReport

__all__ = ["note_verified", "seen_before", "verified_when"]

NAME = "verified.sqlite"
MAKE = (
    "CREATE TABLE IF NOT EXISTS whole "
    "(place TEXT PRIMARY KEY, manifest TEXT NOT NULL, time TEXT NOT NULL)"
)
WAIT_S = 2.0  # for another process that writes


def note_verified(reports: Iterable[VerifyReport]) -> None:
    """Remember archives of which every byte was read and found whole; the others as they were.

    A cache that cannot be written remembers nothing.
    """
    now = utc_now()
    found = [
        (_place(report.archive), report.manifest, now)
        for report in reports
        if report.manifest and not report.findings and Sample.of(report.sample) == Sample()
    ]
    if not found:
        return
    path = _path()
    with suppress(OSError, sqlite3.Error):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=WAIT_S)) as cache, cache:
            cache.execute(MAKE)
            cache.executemany("INSERT OR REPLACE INTO whole VALUES (?, ?, ?)", found)


def verified_when(archives: Sequence[tuple[str, str | None]]) -> list[str | None]:
    """When each was last found whole; None where that is not known.

    Parameters
    ----------
    archives : sequence of (str, str or None)
        Path or URL, and the digest of the manifest.
    """
    known = _known()
    found = [known.get(_place(archive)) if known else None for archive, _ in archives]
    return [
        one[1] if one is not None and one[0] == manifest else None
        for one, (_, manifest) in zip(found, archives, strict=True)
    ]


def seen_before(archives: Iterable[str]) -> list[str]:
    """Those that are where one was found whole; whether it is the same, its manifest says."""
    known = _known()
    return [archive for archive in archives if _place(archive) in known] if known else []


def _known() -> dict[str, tuple[str, str]]:
    """Manifest and time by place; nothing where the cache cannot be read."""
    path = _path()
    if not path.is_file():
        return {}
    with suppress(OSError, sqlite3.Error):
        where = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(where, uri=True, timeout=WAIT_S)) as cache:
            rows = cache.execute("SELECT place, manifest, time FROM whole").fetchall()
        return {str(place): (str(manifest), str(time)) for place, manifest, time in rows}
    return {}


def _path() -> Path:
    return index_path(Path()).with_name(NAME)


def _place(archive: str) -> str:
    place = archive.removeprefix("file://")
    if not is_url(place):
        place = os.path.realpath(place)
    return hashlib.sha256(os.fsencode(place.rstrip("/"))).hexdigest()
