"""The command ``psc-archive scrub``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.failures import checked_code
from pipelines.commands.options import (
    ArchivesPath,
    Debug,
    Deep,
    Device,
    EventLogFile,
    Jobs,
    Json,
    LogJson,
    Metrics,
    Part,
    Quiet,
    Sample,
)
from pipelines.commands.session import Session
from pipelines.commands.taken import taking
from pipelines.log_lines import JsonLines

if TYPE_CHECKING:
    from pipelines.checking.scrub import ScrubOptions

__all__ = ["scrub", "scrub_options"]


def scrub_options(
    sample: Sample = "100%",
    deep: Deep = False,
    part: Part = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="Each must be signed by one of these keys; may be repeated."),
    ] = None,
    device: Device = "auto",
) -> ScrubOptions:
    """Make the record of what was chosen; the parameters are the options of command and flow.

    Raises
    ------
    ParameterError : a sample or part that there is not.
    """
    from pipelines.checking.scrub import ScrubOptions

    keys = tuple(str(path.absolute()) for path in public_key or ())
    return ScrubOptions(deep, sample, part, device=device, public_keys=keys)


@taking(scrub_options, ScrubOptions=object)
def scrub(
    source: ArchivesPath,
    chosen: Callable[[], ScrubOptions],
    event_log: EventLogFile = None,
    metrics: Metrics = None,
    jobs: Jobs = None,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check the archives of a folder or bucket, all or a part each night, and keep a log of it."""
    lines = JsonLines() if log_json else None
    with Session(as_json=as_json, quiet=quiet, debug=debug, log_lines=lines) as session:
        from pipelines.checking.event_log import EventLog
        from pipelines.checking.scrub import scrub as check_all
        from pipelines.checking.verify import reports_document, verify_lines
        from pipelines.commands.run_record import Recorded
        from pipelines.progress import progress_bars
        from psc_volumetric.archive.stores import is_url
        from psc_volumetric.threads import at_most

        options = chosen()
        log = EventLog.of(source, None if event_log is None else str(event_log))
        # each check of an archive has its line in the event log
        with at_most(jobs), Recorded("scrub", source, event_log=None, metrics=metrics) as run:
            with progress_bars(enabled=session.shows_progress) as progress:
                reports = check_all(source, options, log, progress)
            if is_url(source):
                session.note(f"event log {log.place}")
            found = Counter(report.outcome for report in reports)
            run.counts = {name: found[name] for name in ("ok", "damaged", "not-checked")}
            session.result(
                reports_document(reports),
                lambda: [line for r in reports for line in verify_lines(r)],
            )
            code = checked_code(reports)
            if code:
                raise typer.Exit(code)
