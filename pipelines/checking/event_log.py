"""A log of what was done to archives: who, when, what, with which outcome; one JSON line each.

The log of a folder stands beside it (``<folder>.events.jsonl``), so that moving or copying the
archives leaves it behind and nothing is ever written among sealed archives. It names archives and
is for the people who keep them.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psc_volumetric
from psc_volumetric.archive.stores import is_url, target_text
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["EventLog", "utc_now", "who"]

SUFFIX = ".events.jsonl"


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
        """The log of a folder of archives, beside it unless a path is given.

        Raises
        ------
        ParameterError : kind ``"no-event-log"``: the folder is a URL and no path is given.
        """
        if path is not None:
            return cls(Path(path))
        text = folder.removeprefix("file://").rstrip("/")
        if is_url(text):
            raise ParameterError(
                f"the event log of {folder!r} cannot stand beside it",
                kind="no-event-log",
                hint="name a file of this machine for the log",
            )
        place = Path(text).absolute()
        return cls(place.with_name(place.name + SUFFIX))

    def events(self) -> Iterator[dict[str, Any]]:
        """All lines, oldest first; none where there is no log, torn and foreign lines left out.

        Raises
        ------
        StorageError : kind ``"storage-failed"``: it cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                for line in stream:
                    event = _parsed(line)
                    if event is not None:
                        yield event
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
        line = json.dumps(row).encode() + b"\n"
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


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    wanted = ("time", "event", "archive", "outcome")
    whole = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in wanted)
    return row if whole else None
