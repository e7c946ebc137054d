"""Which archives have been kept as long as they have to be, and removing them when that is asked.

The age of an archive is that of its recorded time of creation. Listing is the rule; removing needs
a word of its own, is done archive by archive, and is written into the event log.
"""

from __future__ import annotations

import datetime
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.checking.event_log import EventLog
from pipelines.checking.tombstones import Tombstone, bury
from pipelines.collection import archives_in, folder_of
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import is_url, is_zip_name, open_store, target_text
from psc_volumetric.errors import ParameterError, PscError, StorageError

__all__ = ["Aged", "aged_archives", "erase", "remove_archive"]

_REMOVED = ".removed"


@dataclass(frozen=True)
class Aged:
    """An archive and how long it has to be kept.

    Attributes
    ----------
    archive : str
    created : str or None
        As the archive records it; None when it does not, or cannot be read: kept then.
    due : str or None
        The day from which it may go, UTC.
    past : bool
        Whether that day has come.
    nbytes : int
        Bytes of all its objects; 0 when it cannot be read.
    problem : str or None
        Kind of the error why nothing is known of it.
    """

    archive: str
    created: str | None
    due: str | None
    past: bool
    nbytes: int
    problem: str | None = None


def aged_archives(
    target: str, keep_days: float, now: datetime.datetime | None = None
) -> list[Aged]:
    """Tell of every archive in a folder, and the folders in it, whether its time is over.

    Parameters
    ----------
    target : str
        Folder on this machine.
    keep_days : float
        How long archives are kept, in days since their creation.
    now : datetime, optional
        With a time zone; None is now.

    Returns
    -------
    list of Aged
        Oldest first; those of which nothing is known come last and are never past.

    Raises
    ------
    ParameterError : kind ``"bad-days"``, ``"not-a-folder"``.
    """
    if not keep_days > 0:
        raise ParameterError(
            f"archives must be kept for a number of days above 0, found {keep_days!r}",
            kind="bad-days",
        )
    folder = folder_of(target)
    if folder is None:
        raise ParameterError(
            f"expected a folder of archives on this machine, found {target_text(target)!r}",
            kind="not-a-folder",
            hint="in object stores let a lifecycle rule of the bucket do this",
        )
    moment = now or datetime.datetime.now(datetime.UTC)
    found = [_aged(path, keep_days, moment) for path in archives_in(folder) if not _is_left(path)]
    return sorted(found, key=lambda aged: (aged.due is None, aged.due or "", aged.archive))


def _aged(path: Path, keep_days: float, now: datetime.datetime) -> Aged:
    try:
        with ArchiveReader.open(str(path)) as reader:
            created, nbytes = reader.created, reader.manifest.size
    except PscError as error:
        return Aged(str(path), None, None, past=False, nbytes=0, problem=error.kind)
    try:
        since = datetime.datetime.fromisoformat(created or "")
    except ValueError:
        return Aged(str(path), created, None, past=False, nbytes=nbytes, problem="no-date")
    zoned = since if since.tzinfo is not None else since.replace(tzinfo=datetime.UTC)
    due = zoned + datetime.timedelta(days=keep_days)
    text = due.astimezone(datetime.UTC).isoformat(timespec="seconds")
    return Aged(str(path), created, text, past=due <= now, nbytes=nbytes)


def remove_archive(aged: Aged, log: EventLog) -> None:
    """Remove an archive whose time is over, and write that down before and after.

    A tombstone beside its place says who removed it, when and why.

    Raises
    ------
    ParameterError : kind ``"not-past"``: its time is not over.
    StorageError : kind ``"storage-failed"``.
    """
    if not aged.past:
        raise ParameterError(
            f"{aged.archive}: has to be kept until {aged.due or 'further notice'}", kind="not-past"
        )
    log.add("remove", aged.archive, "begun", created=aged.created, due=aged.due)
    bury(aged.archive, Tombstone.of(aged.archive, f"had to be kept until {aged.due}"))
    erase(aged.archive)
    log.add("remove", aged.archive, "removed", created=aged.created, due=aged.due)


def erase(archive: str) -> None:
    """Remove an archive on this machine or in a bucket.

    It loses its name first and its manifest next (in a bucket the manifest first), so that a kill
    leaves nothing that looks whole.

    Raises
    ------
    StorageError : kind ``"storage-failed"``.
    """
    if is_url(archive):
        _erase_objects(archive.rstrip("/"))
        return
    path = Path(archive.removeprefix("file://"))
    try:
        path.rename(path.with_name(f".{path.name}{_REMOVED}"))
        for left in path.parent.glob(f".*{_REMOVED}"):  # this one, and what a kill left before
            _erase(left)
    except OSError as error:
        raise StorageError(
            f"{archive}: cannot be removed ({error.strerror})",
            kind="storage-failed",
            hint="check the rights",
        ) from error


def _erase_objects(url: str) -> None:
    if is_zip_name(url):
        folder, _, key = url.rpartition("/")
        store = open_store(folder, write=True)
        store.delete(key)
        store.close()
        return
    store = open_store(url, write=True)
    store.delete(MANIFEST_KEY)
    for key in store.listing():
        store.delete(key)
    store.close()


def _is_left(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_REMOVED)


def _erase(path: Path) -> None:
    if path.is_dir():
        with suppress(FileNotFoundError):
            (path / MANIFEST_KEY).unlink()
        shutil.rmtree(path)
    else:
        path.unlink()
