"""A log of what was done to archives: who, when, what, with which outcome; one JSON line each.

The log of a folder stands beside it (``<folder>.events.jsonl``), so that moving or copying the
archives leaves it behind and nothing is ever written among sealed archives. It names archives and
is for the people who keep them.

The log of a bucket is in it, one small object for each event, beside the archives:

    .psc-events/20261128T090000.123456Z-9f3a61c2.jsonl      one event
    .psc-events/20261128T090000.123456Z-5d21e07b.many.jsonl     many that were written before

Objects in a store are not appended to, and two runs may write at once: each event has an object
and an id of its own. Now and then those of the past are written again as one object, and go when
that is there; an event that is in both for a moment is one event. Where the store takes no new
objects (a web server, a key that only reads) the log is a file in the user's state folder
(``psc-archive`` in ``XDG_STATE_HOME`` or ``~/.local/state``). What is in either is read.
"""

from __future__ import annotations

import datetime
import getpass
import hashlib
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psc_volumetric
from pipelines.collection import folder_around
from psc_volumetric.archive.addresses import place_beside
from psc_volumetric.archive.layout import MANIFEST_KEY, SUFFIXES
from psc_volumetric.archive.stores import is_url, is_web, open_store, target_text
from psc_volumetric.errors import StorageError

__all__ = ["EVENTS", "BucketLog", "EventLog", "utc_now", "who"]

log = logging.getLogger(__name__)

SUFFIX = ".events.jsonl"
EVENTS = ".psc-events/"
ONE, MANY = ".jsonl", ".many.jsonl"
OWN = re.compile(re.escape(EVENTS) + r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.jsonl")
FOLDED = 256  # events in one object
LARGEST_EVENT = 1 << 20  # bytes of a line; longer ones are not ours
LARGEST = 16 << 20  # bytes of an object with many events
AT_ONCE = 64 << 20  # bytes that are asked for at once, at most
MOST = 64 << 20  # bytes of events in a bucket that are read: the latest of them
ATTEMPTS = 5
PARTS: dict[str, type] = {"how": dict, "findings": list, "options": dict, "source": str}
AMOUNTS = ("began", "seconds", "quiet_s")
LARGEST_AMOUNT = 1e15
NOT_WRITABLE = ("access-denied", "unsupported-target")


def utc_now() -> str:
    """The time as ``2026-11-28T09:00:00+00:00``."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def who() -> str:
    """Account and machine: ``name@host``; the number of an account without a name."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # no entry for this number: containers
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


@dataclass(frozen=True)
class EventLog:
    """A file that lines are added to; made when the first one is.

    Attributes
    ----------
    path : Path
    """

    path: Path

    @classmethod
    def of(cls, folder: str, path: str | None = None) -> EventLog:
        """The log of a folder of archives, beside it or in the bucket, unless a path is given.

        Parameters
        ----------
        folder : str
            Folder or URL; of an archive at a URL the log is that of what it is in.
        path : str, optional
            A file of this machine.
        """
        if path is not None:
            return EventLog(Path(path))
        if is_url(folder):
            return BucketLog.around(folder.rstrip("/"))
        return EventLog(place_beside(folder, SUFFIX))

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self.path)

    def exists(self) -> bool:
        """Whether anything was written down yet."""
        return self.path.exists()

    def events(self) -> Iterator[dict[str, Any]]:
        """All lines, oldest first; none where there is no log, torn and foreign lines left out.

        Raises
        ------
        StorageError : kind ``"storage-failed"``: it cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                yield from filter(None, map(_parsed, _lines(stream)))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"the event log {str(self.path)!r} cannot be read ({error.strerror})",
                kind="storage-failed",
                hint="check the rights",
            ) from error

    def add(self, event: str, archive: str, outcome: str, **details: Any) -> None:
        """Add one line; it is on disk when this returns.

        Parameters
        ----------
        event : str
            What was done: ``"scrub"``, ``"expired"``, ``"removed"``; ``"archive"``, a run.
        archive : str
            Which archive; of a run the folder.
        outcome : str
            How it ended: ``"ok"``, ``"damaged"`` ...
        **details
            JSON-able.

        Raises
        ------
        StorageError : kind ``"storage-failed"``.
        """
        row = {
            "time": utc_now(),
            "who": who(),
            "program": f"psc-archive {psc_volumetric.__version__}",
            "event": event,
            "archive": target_text(archive),
            "outcome": outcome,
            **details,
        }
        self._write(_fitting(row))

    def _write(self, row: dict[str, Any]) -> None:
        line = _line(row)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
            with os.fdopen(handle, "r+b", buffering=0) as stream:
                size = os.fstat(handle).st_size
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                stream.write(b"\n" + line if torn else line)
                os.fsync(handle)
        except OSError as error:
            raise StorageError(
                f"the event log {str(self.path)!r} cannot be written ({error.strerror})",
                kind="storage-failed",
                hint="check the rights and the free space, or name another file",
            ) from error


@dataclass(frozen=True)
class BucketLog(EventLog):
    """Events of the archives below a URL.

    Attributes
    ----------
    path : Path
        The file that takes what the store does not.
    url : str
        What the archives are in.
    """

    url: str

    @classmethod
    def around(cls, url: str) -> BucketLog:
        """The log of a bucket, or of that around an archive.

        Raises
        ------
        StorageError : the store cannot be read.
        """
        base = folder_around(url) if _is_archive(url) else url
        digest = hashlib.sha256(target_text(base).encode()).hexdigest()[:32]
        return cls(_state_folder() / f"{digest}{SUFFIX}", base)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        here = [] if is_web(self.url) else [f"{self.url}/{EVENTS}"]
        return " and ".join([*here, str(self.path)] if not here or self.path.exists() else here)

    def exists(self) -> bool:
        """Whether anything was written down yet."""
        return self.path.exists() or bool(self._stored())

    def events(self) -> Iterator[dict[str, Any]]:
        """Events, oldest first; torn and foreign lines left out, and what is past `MOST` bytes."""
        found: dict[str, tuple[str, bytes]] = {}
        for line in (*self._remote(), *map(_line, super().events())):
            event = _parsed(line)
            if event is not None:
                number = str(event.get("id") or hashlib.sha256(line).hexdigest())
                found.setdefault(number[:64], (event["time"][:64], line))
        for _, line in sorted(found.values(), key=lambda one: one[0]):
            event = _parsed(line)
            if event is not None:
                yield event

    def _write(self, row: dict[str, Any]) -> None:
        number = uuid.uuid4().hex
        line = _line({**row, "id": number})
        if not is_web(self.url):
            try:
                with closing(open_store(self.url, write=True)) as store:
                    store.set(_key(number, ONE), line)
            except StorageError as error:
                if error.kind not in NOT_WRITABLE:
                    raise
            else:
                if number.startswith("00"):  # one time in `FOLDED`
                    with suppress(StorageError):  # of a store that lets nothing be removed
                        self.fold()
                return
        super()._write({**row, "id": number})

    def fold(self) -> None:
        """Write events of the past, many of them, as one object, and remove their own.

        Objects that are not named as events are left alone.

        Raises
        ------
        StorageError : the store fails; no event is lost.
        """
        single = [key for key in self._stored() if OWN.fullmatch(key)][:-1]
        with closing(open_store(self.url, write=True)) as store:
            for start in range(0, len(single) - FOLDED + 1, FOLDED):
                keys = single[start : start + FOLDED]
                lines = [store.get(key, 0, LARGEST_EVENT + 1) or b"" for key in keys]
                if any(len(line) > LARGEST_EVENT for line in lines):
                    continue  # none of ours
                whole = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
                if len(whole) > LARGEST:
                    continue
                name = (
                    keys[0].rpartition("-")[0] + f"-{hashlib.sha256(whole).hexdigest()[:8]}{MANY}"
                )
                store.set(name, whole)
                if store.get(name) == whole:
                    for key in keys:
                        store.delete(key)

    def _remote(self) -> list[bytes]:
        """Lines in the store; read anew when another run folded some of them meanwhile."""
        for _ in range(ATTEMPTS):
            latest: list[bytes] = []
            room = MOST
            for data in self._objects(self._stored()[::-1]):
                if data is None:
                    break
                room -= len(data)
                if room < 0:
                    log.warning("%s: more than %d bytes; the latest are read", self.place, MOST)
                    return _in_turn(latest)
                latest.append(data)
            else:
                return _in_turn(latest)
        raise StorageError(
            f"the events in {self.url}/{EVENTS} change faster than they can be read",
            kind="storage-failed",
            hint="try again",
        )

    def _objects(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """Their bytes, some asked for at once; None for one that is gone."""
        if not keys:
            return
        with closing(open_store(self.url)) as store:
            for some in _shares(keys):
                asked = store.get_many([(key, 0, _room(key)) for key in some])
                for key, data in zip(some, asked, strict=True):
                    yield store.get(key, 0, _room(key)) if data is None else data  # which says why

    def _stored(self) -> list[str]:
        """Keys of the events in the store, oldest first; none where they cannot be listed."""
        if is_web(self.url):
            return []
        with closing(open_store(self.url)) as store:
            return [key for key in store.listing(EVENTS) if key.endswith(ONE)]


def _room(key: str) -> int:
    """Bytes of an object that are read."""
    return LARGEST if key.endswith(MANY) else LARGEST_EVENT


def _shares(keys: Sequence[str]) -> Iterator[list[str]]:
    """Keys that are asked for together."""
    some: list[str] = []
    for key in keys:
        if some and sum(map(_room, some)) + _room(key) > AT_ONCE:
            yield some
            some = []
        some.append(key)
    yield some


def _in_turn(latest: Sequence[bytes]) -> list[bytes]:
    """Lines of objects, the oldest first."""
    return [line for data in reversed(latest) for line in data.splitlines()]


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, but those that are too long to be ours."""
    while line := stream.readline(LARGEST_EVENT + 1):
        is_whole = len(line) <= LARGEST_EVENT
        while not line.endswith(b"\n") and (rest := stream.readline(LARGEST_EVENT)):
            is_whole, line = False, rest
        if is_whole:
            yield line


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _fitting(row: dict[str, Any]) -> dict[str, Any]:
    """A row that is not longer than a line may be: its lists are cut where it would be."""
    while len(_line(row)) > LARGEST_EVENT - 100:  # an id is added
        lists = {name: part for name, part in row.items() if isinstance(part, list) and part}
        if not lists:
            break
        name = max(lists, key=lambda name: len(json.dumps(lists[name])))
        row = {**row, name: lists[name][: len(lists[name]) // 2], "cut": True}
    return row


def _is_archive(url: str) -> bool:
    if is_web(url) or url.lower().endswith(SUFFIXES):
        return True
    with closing(open_store(url)) as store:
        return store.exists(MANIFEST_KEY)


def _key(number: str, suffix: str) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{EVENTS}{now}-{number[:8]}{suffix}"


def _state_folder() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path("~/.local/state").expanduser()) / "psc-archive"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An event from its line; None for a torn or foreign one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    wanted = ("time", "event", "archive", "outcome")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in wanted):
        return None
    whole = all(isinstance(row.get(name, kind()), kind) for name, kind in PARTS.items())
    if not whole or not all(isinstance(one, dict) for one in row.get("findings", [])):
        return None
    return row if all(_is_amount(row.get(name, 0)) for name in AMOUNTS) else None


def _is_amount(value: Any) -> bool:
    """Whether a number is one that times and counts have."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST_AMOUNT
