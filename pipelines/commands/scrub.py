"""The command ``psc-archive scrub``."""

from __future__ import annotations

import typer

from pipelines.commands.failures import EXIT_DAMAGE
from pipelines.commands.options import (
    ArchivesPath,
    Debug,
    Deep,
    Device,
    EventLogFile,
    Json,
    Part,
    Quiet,
    Sample,
)
from pipelines.commands.session import Session

__all__ = ["scrub"]


def scrub(
    source: ArchivesPath,
    sample: Sample = "100%",
    deep: Deep = False,
    part: Part = None,
    event_log: EventLogFile = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check the archives of a folder or bucket, all or a part each night, and keep a log of it."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.checking.event_log import EventLog
        from pipelines.checking.scrub import ScrubOptions
        from pipelines.checking.scrub import scrub as check_all
        from pipelines.checking.verify import reports_document, verify_lines
        from pipelines.progress import progress_bars

        options = ScrubOptions(deep, sample, part, device=device)
        log = EventLog.of(source, None if event_log is None else str(event_log))
        with progress_bars(enabled=session.shows_progress) as progress:
            reports = check_all(source, options, log, progress)
        session.result(
            reports_document(reports), lambda: [line for r in reports for line in verify_lines(r)]
        )
        if any(report.findings for report in reports):
            raise typer.Exit(EXIT_DAMAGE)
