"""What a run did, told when it ends: to the event log of its archives, and to Prometheus.

A metrics file is for node exporter's textfile collector. It has the last run of each command, so
that one file may serve the nightly archiving and the nightly scrub; it is replaced in one step.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.checking.event_log import EventLog
from psc_volumetric.errors import StorageError

__all__ = ["OUTCOMES", "Run", "write_metrics"]

OK, INCOMPLETE, DAMAGED, FAILED = OUTCOMES = ("ok", "incomplete", "damaged", "failed")
PREFIX = "psc_archive"
LAST_SUCCESS = "last_success_timestamp_seconds"
_HELP = {
    "run_end_timestamp_seconds": "When the last run ended.",
    "run_duration_seconds": "How long the last run took.",
    "run_success": "Whether the last run left nothing out and found no damage.",
    "run_exit_code": "Exit code of the last run.",
    LAST_SUCCESS: "When the last run with success ended.",
    "items": "Items of the last run by how they ended.",
    "source_bytes": "Bytes of the voxels that the last run archived.",
    "archive_bytes": "Bytes of the archives that the last run sealed.",
    "archives": "Archives of the last run by what was found.",
}
_SAMPLE = re.compile(rf'{PREFIX}_(\w+)\{{(command="[a-z-]+"(?:,state="[a-z-]+")?)\}} (\S+)')


@dataclass
class Run:
    """A run of a command on a folder of archives.

    Attributes
    ----------
    command : str
        ``"archive"`` or ``"scrub"``.
    target : str
        The folder.
    counts : dict
        How many items or archives ended how: word -> number.
    amounts : dict
        ``"source_bytes"``, ``"archive_bytes"``.
    details : dict
        What else the event log gets: where the sources are, the options.
    exit_code : int
        How the run ends although an error leaves it that a flow needs; 0 leaves it to the error.
    error_kind : str or None
        Stable word for that.
    began : float
        Seconds since 1970.
    """

    command: str
    target: str
    counts: dict[str, int] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    error_kind: str | None = None
    began: float = field(default_factory=time.time)

    def record(
        self,
        log: EventLog | None,
        metrics: Path | None,
        *,
        exit_code: int,
        outcome: str,
        error_kind: str | None = None,
    ) -> None:
        """Add a line to the event log and replace the metrics file, where there are such.

        A mistyped command leaves no log behind: a run that failed is logged only where there is
        a target or a log already.

        Raises
        ------
        StorageError : kind ``"storage-failed"``: one of them cannot be written.
        """
        seconds = round(time.time() - self.began, 3)
        if log is not None and (outcome != FAILED or self._is_known(log)):
            error = {} if error_kind is None else {"error": error_kind}
            details: dict[str, Any] = {
                "began": round(self.began, 3),
                "seconds": seconds,
                "exit_code": exit_code,
                **error,
                **self.counts,
            }
            details |= {**self.amounts, **self.details}
            log.add(self.command, self.target, outcome, **details)
        if metrics is not None:
            now = time.time()
            values: dict[str, float] = {
                "run_end_timestamp_seconds": now,
                "run_duration_seconds": seconds,
                "run_success": outcome == OK,
                "run_exit_code": exit_code,
                **self.amounts,
            }
            if outcome == OK:
                values[LAST_SUCCESS] = now
            counted = "archives" if self.command == "scrub" else "items"
            write_metrics(metrics, self.command, values, {counted: self.counts})

    def _is_known(self, log: EventLog) -> bool:
        return Path(self.target.removeprefix("file://")).exists() or log.exists()


def write_metrics(
    path: Path,
    command: str,
    values: Mapping[str, float],
    by_state: Mapping[str, Mapping[str, int]],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Replace the samples of one command in a metrics file; those of other commands stay.

    So does the time of its last success, where `values` has none.

    Parameters
    ----------
    path : Path
        Made when it is not there; its name ends in ``.prom`` where node exporter reads it.
    command : str
    values : mapping
        Name of a metric without prefix -> number.
    by_state : mapping
        Name of a metric -> state -> number.
    texts : mapping, optional
        Name of a metric -> what it is, for metrics of the command alone.

    Raises
    ------
    StorageError : kind ``"storage-failed"``.
    """
    own = f'command="{command}"'
    made = {(name, own): value for name, value in values.items()}
    for name, states in by_state.items():
        made |= {(name, f'{own},state="{state}"'): n for state, n in states.items()}
    try:
        with _alone(path.absolute().parent):
            others = {
                (name, labels): value
                for (name, labels), value in _samples(path).items()
                if name == LAST_SUCCESS or not labels.startswith(own)
            }
            _replace(path, _text({**others, **made}, {**_HELP, **(texts or {})}))
    except OSError as error:
        raise StorageError(
            f"the metrics file {str(path)!r} cannot be written ({error.strerror})",
            kind="storage-failed",
            hint="check that its folder is there, the rights and the free space",
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two commands that end at once write one after the other."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _samples(path: Path) -> dict[tuple[str, str], float]:
    """What a file of ours holds; lines that are not ours are not kept."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    found = (_SAMPLE.fullmatch(line) for line in lines)
    return {(m[1], m[2]): float(m[3]) for m in found if m is not None}


def _text(samples: Mapping[tuple[str, str], float], texts: Mapping[str, str]) -> str:
    """The exposition format of Prometheus, text version 0.0.4."""
    lines = []
    for metric in sorted({name for name, _ in samples}):
        lines.append(f"# HELP {PREFIX}_{metric} {texts.get(metric, '')}".rstrip())
        lines.append(f"# TYPE {PREFIX}_{metric} gauge")
        rows = sorted(
            (labels, value) for (name, labels), value in samples.items() if name == metric
        )
        lines += [f"{PREFIX}_{metric}{{{labels}}} {float(value)!r}" for labels, value in rows]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename, so that a reader sees the old or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(handle, 0o644)
            stream.write(text)
            stream.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
