"""The command ``psc-archive status``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.failures import EXIT_DAMAGE, EXIT_INCOMPLETE
from pipelines.commands.options import (
    Debug,
    EventLogFile,
    Json,
    LogJson,
    Metrics,
    PseudonymKey,
    Quiet,
)
from pipelines.commands.session import Session
from pipelines.log_lines import JsonLines

if TYPE_CHECKING:
    from pipelines.archiving.refused import Refused
    from pipelines.checking.status import Status

__all__ = ["status", "status_lines"]

_SHOWN = 20
_METRICS = {
    "sealed_archives": "Sealed archives in the folder.",
    "unfinished_archives": "Archives that a run began and did not seal.",
    "damaged_archives": "Archives whose last thorough check found damage.",
    "unchecked_archives": "Sealed archives that were never checked.",
    "missing_sources": "Sources that no archive holds, and that were not refused.",
    "late_sources": "Those of them that were there when the last run began.",
    "refused_sources": "Sources that cannot be archived as they are.",
    "run_at_work": "Whether a run works on the folder.",
}


def status(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or bucket of archives.")],
    source: Annotated[
        Path | None,
        typer.Option(help="Look here for what is not archived; default: where the last run did."),
    ] = None,
    event_log: EventLogFile = None,
    pseudonyms: PseudonymKey = None,
    metrics: Metrics = None,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tell of a folder: last run, last checks, damage (exit code 7), what is missing (8)."""
    lines = JsonLines() if log_json else None
    with Session(as_json=as_json, quiet=quiet, debug=debug, log_lines=lines) as session:
        from pipelines.checking.runs import write_metrics
        from pipelines.checking.status import status_of

        log = None if event_log is None else str(event_log)
        found = status_of(folder, source=source, event_log=log, keyfile=pseudonyms)
        if metrics is not None:
            write_metrics(metrics, "status", _numbers(found), {}, _METRICS)
        session.result(found.to_dict(), lambda: status_lines(found))
        if found.damaged:
            raise typer.Exit(EXIT_DAMAGE)
        if not found.is_complete:
            raise typer.Exit(EXIT_INCOMPLETE)


def _numbers(found: Status) -> dict[str, float]:
    counts = (
        found.archives,
        len(found.unfinished),
        len(found.damaged),
        found.unchecked,
        len(found.missing),
        sum(one.late for one in found.missing),
        len(found.refused),
        found.at_work is not None,
    )
    return dict(zip(_METRICS, counts, strict=True))


def status_lines(found: Status) -> list[str]:
    """The status for people."""
    unfinished = f", {len(found.unfinished)} unfinished" if found.unfinished else ""
    lines = [f"archives     {found.archives} sealed{unfinished}"]
    if found.at_work is not None:
        lines.append(f"at work      {found.at_work}")
    if found.killed is not None:
        lines.append(f"killed       the run of {found.killed}; the next one continues")
    lines += [_run_line(found.last_run), *_check_lines(found)]
    lines += _listed(
        "damaged",
        [
            f"{one.archive}: {one.problems} problem(s) since {one.since}, the first "
            f"[{one.kind}]: {one.message}"
            for one in found.damaged
        ],
    )
    lines += _listed("refused", [_refused_line(row) for row in found.refused])
    if found.source is not None and not found.missing:
        lines.append(f"not archived nothing in {found.source}")
    return lines + _listed("not archived", [_missing_line(vars(one)) for one in found.missing])


def _run_line(run: Any) -> str:
    if run is None:
        return "last run     none in the event log"
    words = ("archived", "already", "failed", "aside", "waiting")
    counts = ", ".join(f"{run[word]} {word}" for word in words if word in run)
    error = f" ({run['error']})" if run.get("error") else ""
    return f"last run     {run['time']} {run['outcome']}{error}: {counts or 'nothing'}"


def _check_lines(found: Status) -> list[str]:
    scrub = "none in the event log" if found.last_scrub is None else found.last_scrub["time"]
    lines = [f"last scrub   {scrub}"]
    if found.oldest_check is None:
        return lines
    if found.unchecked:
        lines.append(f"             {found.unchecked} archive(s) were never checked")
    who = "the others" if found.unchecked else "all"
    lines.append(f"             {who} were checked since {found.oldest_check}")
    return lines


def _refused_line(row: Refused) -> str:
    told = (
        row.message if Path(row.paths[0]).name in row.message else f"{row.paths[0]}: {row.message}"
    )
    more = f" (with {len(row.paths) - 1} more)" if len(row.paths) > 1 else ""
    return f"[{row.kind}] {told}{more}"


def _missing_line(one: Any) -> str:
    more = f" and {one['files'] - 1} more" if one["files"] > 1 else ""
    why = f": [{one['error']}]" if one["error"] else ": passed over by the last run"
    return f"{one['path']}{more}{why if one['error'] or one['late'] else ': new'}"


def _listed(word: str, entries: Sequence[str]) -> list[str]:
    """Entries, the first ones, each with the word in front."""
    lines = [f"{word:<12} {entry}" for entry in entries[:_SHOWN]]
    more = len(entries) - _SHOWN
    return [*lines, f"{word:<12} and {more} more"] if more > 0 else lines
