"""How a folder of archives is: its last run, its last checks, what is damaged, what is missing.

All of it comes from the event log beside the archives, what the user's own ``verify`` found whole,
the record of refused sources, the lock, and the archives themselves; nothing is written, and no
brick is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.archiving.locking import Owner, owner_of
from pipelines.archiving.refused import Refused, RefusedSources
from pipelines.checking.catalogue import archive_named, own_checks
from pipelines.checking.event_log import EventLog, who
from pipelines.checking.missing import Missing, missing_sources
from pipelines.checking.runs import OK
from pipelines.collection import archives_at, unfinished_in
from psc_volumetric.archive.checking import Sample
from psc_volumetric.archive.stores import is_url, target_text
from psc_volumetric.archive.targets import target_state
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["Damage", "Status", "status_of"]

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Damage:
    """An archive whose last thorough check found damage, and that is still there."""

    archive: str
    since: str
    problems: int
    kind: str
    message: str


@dataclass(frozen=True)
class Status:
    """What is known of a folder of archives.

    Attributes
    ----------
    target : str
    archives : int
        Sealed ones.
    unfinished : tuple of str
        Archives that a run began and did not seal.
    at_work, killed : Owner or None
        The run that holds the lock now; the one that left it behind.
    last_run, last_scrub : mapping or None
        Their lines of the event log; of a scrub that of the last archive.
    unchecked : int
        Sealed archives that neither the log nor a `verify` of one's own has a check of.
    oldest_check : str or None
        When the archive was checked whose check is the longest ago.
    damaged : tuple of Damage
    source : str or None
        The folder that was looked through for sources.
    missing : tuple of Missing
    refused : tuple of Refused
    """

    target: str
    archives: int
    unfinished: tuple[str, ...] = ()
    at_work: Owner | None = None
    killed: Owner | None = None
    last_run: Event | None = None
    last_scrub: Event | None = None
    unchecked: int = 0
    oldest_check: str | None = None
    damaged: tuple[Damage, ...] = ()
    source: str | None = None
    missing: tuple[Missing, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the last run did all it could have done."""
        ended_well = self.last_run is None or self.last_run["outcome"] == OK
        late = any(one.late for one in self.missing)
        return ended_well and not (late or self.refused or self.killed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        owners = {"at_work": self.at_work, "killed": self.killed}
        return {
            **vars(self),
            **{name: None if one is None else dict(vars(one)) for name, one in owners.items()},
            "unfinished": list(self.unfinished),
            "damaged": [dict(vars(one)) for one in self.damaged],
            "missing": [dict(vars(one)) for one in self.missing],
            "refused": [row.to_dict() for row in self.refused],
            "is_complete": self.is_complete,
        }


@dataclass
class _Log:
    """What the event log says, the last word on each archive; names are relative to the folder."""

    names: frozenset[str]
    last_run: Event | None = None
    last_scrub: Event | None = None
    checked: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, Event] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Go on to the next line."""
        if event["event"] == "archive":
            self.last_run = event
        elif event["event"] == "scrub":
            self.last_scrub = event
            name = archive_named(str(event["archive"]), self.names)
            if name is not None and event["outcome"] in ("ok", "damaged"):
                self._take_check(name, event)

    def _take_check(self, name: str, event: Event) -> None:
        self.checked[name] = event["time"]
        if event["outcome"] == "damaged":
            before = self.damaged.get(name)
            since = event["time"] if before is None else before["since"]
            self.damaged[name] = {**event, "since": since}
        elif name in self.damaged and _is_as_thorough(event, self.damaged[name]):
            del self.damaged[name]

    def take_own(self, checks: Mapping[str, str]) -> None:
        """Add what a ``verify`` found whole; damage stays until a scrub unsays it."""
        for name, time in checks.items():
            self.checked[name] = max(time, self.checked.get(name, ""))


def _is_as_thorough(check: Event, other: Event) -> bool:
    """Whether a check read every object, and decoded them where the other one did."""
    one, two = check.get("how", {}), other.get("how", {})
    return _reads_all(one.get("sample", 1)) and bool(one.get("deep")) >= bool(two.get("deep"))


def _reads_all(sample: Any) -> bool:
    try:
        read = Sample.of(sample)
    except ParameterError:  # of another release
        return False
    return read.part in (None, (1, 1)) and read.share == 1


def status_of(
    target: str,
    *,
    source: Path | None = None,
    event_log: str | None = None,
    keyfile: Path | None = None,
) -> Status:
    """Tell how a folder or bucket of archives is.

    Parameters
    ----------
    target : str
    source : Path, optional
        Folder whose files should be archived there; by default that of the last run, if it is here.
    event_log : str, optional
        The log, where it does not stand beside the folder.
    keyfile : Path, optional
        Key of the archives' pseudonyms, whose owner has the record of refused sources.

    Raises
    ------
    ParameterError : kind ``"not-a-folder"``: one archive.
    StorageError : the folder is not there (kind ``"not-found"``), or cannot be read.
    SourceError : kind ``"not-found"``: the source is not there.
    """
    found = archives_at(target)
    if found is None:
        if target_state(target) == "absent":
            raise StorageError(
                f"{target_text(target)}: no such folder", kind="not-found", hint="check the path"
            )
        raise ParameterError(
            f"expected a folder of archives, found {target_text(target)!r}",
            kind="not-a-folder",
            hint="`psc-archive info` and `verify` tell of one archive",
        )
    base = target.rstrip("/") + "/"
    log = _Log(frozenset(path.removeprefix(base) for path in found))
    for event in EventLog.of(target, event_log).events():
        log.take(event)
    log.take_own(own_checks(target, log.names))
    owner, alive = owner_of(target)
    refused = RefusedSources.load(target, keyfile).rows
    given = source or _recorded_source(log.last_run, target)
    missing = () if given is None else missing_sources(given, target, found, log.last_run, refused)
    return Status(
        target=target,
        archives=len(found),
        unfinished=tuple(unfinished_in(target)),
        at_work=owner if alive else None,
        killed=None if alive else owner,
        last_run=log.last_run,
        last_scrub=log.last_scrub,
        unchecked=len(log.names - log.checked.keys()),
        oldest_check=min(log.checked.values(), default=None),
        damaged=tuple(_damage(name, event) for name, event in sorted(log.damaged.items())),
        source=None if given is None else str(given),
        missing=tuple(missing),
        refused=tuple(refused.values()),
    )


def _damage(name: str, event: Event) -> Damage:
    first = (event.get("findings") or [{}])[0]
    said = (str(first.get("kind", "unknown")), str(first.get("message", "")))
    count = event.get("count")
    return Damage(name, event["since"], count if isinstance(count, int) else 1, *said)


def _recorded_source(run: Event | None, target: str) -> Path | None:
    """The source of the last run, where it is on this machine.

    What stands in a bucket may be from anybody who writes there: only a line of this account is
    followed.
    """
    if run is None or "source" not in run or (is_url(target) and run.get("who") != who()):
        return None
    path = Path(run["source"])
    try:
        return path if path.exists() else None
    except (OSError, ValueError):  # a name that no file has
        return None
