"""Removing an archive on purpose: a tombstone beside its place says who, when and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.archiving.locking import hold
from pipelines.archiving.succession import predecessor_of
from pipelines.checking.event_log import EventLog
from pipelines.checking.retention import erase
from pipelines.checking.tombstones import Tombstone, bury
from pipelines.collection import folder_around, refuse_folder
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import ParameterError

__all__ = ["Retired", "retire", "retire_lines"]


@dataclass(frozen=True)
class Retired:
    """An archive that was removed, or would be.

    Attributes
    ----------
    archive : str
    stone : Tombstone
    place : str or None
        Where the tombstone is; None when nothing was done.
    """

    archive: str
    stone: Tombstone
    place: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {"archive": self.archive, "tombstone": self.place, **self.stone.to_dict()}


def retire(
    archive: str,
    reason: str,
    *,
    successor: str | None = None,
    delete: bool = False,
    log: EventLog | None = None,
) -> Retired:
    """Remove an archive and leave a tombstone in its place.

    Parameters
    ----------
    archive : str
        Path or URL.
    reason : str
        Why, in a few words; it stands in the tombstone for good.
    successor : str, optional
        The archive that takes its place; it must record that it supersedes this one.
    delete : bool
        Do it. Without it nothing is written or removed.
    log : EventLog, optional
        None takes the one beside the archive's folder.

    Raises
    ------
    ParameterError : kind ``"bad-reason"``; ``"not-successor"``; a folder of archives.
    StorageError : nothing is there, another run works on it, or it cannot be removed.
    """
    refuse_folder(archive)
    digest = None if successor is None else _digest_of_successor(archive, successor)
    stone = Tombstone.of(archive, reason, digest)
    if not delete:
        return Retired(archive, stone, None)
    events = log or EventLog.of(folder_around(archive))
    with hold(archive):
        told = {"manifest": stone.manifest, "reason": stone.reason, "successor": digest}
        events.add("retire", archive, "begun", **told)
        suffix = bury(archive, stone)
        erase(archive)
        events.add("retire", archive, "removed", **told)
    return Retired(archive, stone, archive.rstrip("/") + suffix)


def _digest_of_successor(archive: str, successor: str) -> str:
    """Digest of the successor's manifest, if it is one of this archive."""
    with ArchiveReader.open(archive) as old, ArchiveReader.open(successor) as new:
        recorded = predecessor_of(new)
        if recorded is None or recorded.manifest != old.manifest.digest:
            raise ParameterError(
                f"{successor}: does not record that it supersedes {archive}",
                kind="not-successor",
                hint="make it with `psc-archive archive --supersedes`, or leave the option out",
            )
        return new.manifest.digest


def retire_lines(retired: Retired) -> list[str]:
    """The outcome for people."""
    stone = retired.stone
    lines = [f"manifest  {stone.manifest}, {stone.bytes} bytes, created {stone.created}"]
    if retired.place is None:
        return [f"would be removed: {retired.archive}; --delete does it", *lines]
    return [f"removed   {retired.archive}", *lines, f"tombstone {retired.place}"]
