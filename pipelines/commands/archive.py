"""The command ``psc-archive archive``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.archive_options import Chosen, takes_archive_options
from pipelines.commands.options import (
    Debug,
    Deidentify,
    DryRun,
    EventLogFile,
    Inbox,
    Jobs,
    Json,
    LogJson,
    Metrics,
    PseudonymKey,
    Quiet,
    RetryRefused,
)
from pipelines.commands.session import Session
from pipelines.log_lines import JsonLines

if TYPE_CHECKING:
    from pipelines.archiving.deidentified import Deidentifier
    from pipelines.archiving.options import ArchiveOptions
    from pipelines.archiving.planned import ArchivePlan
    from pipelines.archiving.refused import RefusedSources
    from pipelines.archiving.targets import Namer
    from pipelines.checking.event_log import EventLog
    from pipelines.checking.runs import Run

__all__ = ["archive"]


@takes_archive_options
def archive(
    source: Annotated[Path, typer.Argument(help="File or folder, any mixture of formats.")],
    target: Annotated[
        str, typer.Argument(help="NAME.psc.zarr, NAME.psc.zarr.zip, or a folder for many.")
    ],
    chosen: Chosen,
    pseudonyms: PseudonymKey = None,
    supersedes: Annotated[
        str | None, typer.Option(metavar="OLD", help="The archive that the new one points back to.")
    ] = None,
    deidentify: Deidentify = None,
    inbox: Inbox = False,
    retry_refused: RetryRefused = False,
    event_log: EventLogFile = None,
    metrics: Metrics = None,
    jobs: Jobs = None,
    dry_run: DryRun = False,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Archive volumes. Continues an unfinished archive; never replaces a sealed one."""
    lines = JsonLines() if log_json else None
    with Session(as_json=as_json, quiet=quiet, debug=debug, log_lines=lines) as session:
        from adapters.isolation import reading_process

        reading_process().start()  # which takes another core
        import pipelines.archiving.archive  # noqa: F401 - meanwhile, since it takes long
        from pipelines.archiving.deidentified import deidentifying
        from pipelines.archiving.pseudonyms import Pseudonyms
        from pipelines.archiving.refused import RefusedSources
        from pipelines.commands.archive_report import failure_lines, plan_lines
        from pipelines.commands.run_record import Recorded
        from psc_volumetric.threads import at_most

        options = chosen()
        key = None if pseudonyms is None else Pseudonyms.load(pseudonyms)
        refused = None
        if inbox or retry_refused:
            refused = RefusedSources.load(target, pseudonyms, retry=retry_refused)
        with deidentifying(deidentify, key, options, target) as cleaner:
            find = partial(_plan, source, target, options, refused, cleaner, supersedes)
            if dry_run:
                planned = find(None if key is None else key.name)
                session.result(planned.to_dict(), lambda: plan_lines(planned))
                session.failures(failure_lines(planned, []))
                return
            log = _event_log(target, event_log)
            with at_most(jobs), Recorded("archive", target, event_log=log, metrics=metrics) as run:
                run.details = options.logged()
                if cleaner is not None:
                    run.details["deidentified"] = cleaner.stamp
                if key is None:
                    run.details["source"] = str(source.absolute())
                planned = find(None if key is None else key.assign)
                try:
                    _make(session, planned, run, refused, cleaner)
                finally:
                    if refused is not None:
                        refused.save(source)


def _plan(
    source: Path,
    target: str,
    options: ArchiveOptions,
    refused: RefusedSources | None,
    cleaner: Deidentifier | None,
    supersedes: str | None,
    namer: Namer | None,
) -> ArchivePlan:
    from pipelines.archiving.plan import plan
    from pipelines.archiving.succession import superseding

    found = plan(source, target, options, namer=namer, refused=refused, deidentifier=cleaner)
    return superseding(found, supersedes)


def _event_log(target: str, path: Path | None) -> EventLog | None:
    """The log of a folder of archives, or the one that is named; none for one archive."""
    from pipelines.archiving.targets import is_archive_name
    from pipelines.checking.event_log import EventLog

    if path is None and is_archive_name(target):
        return None
    return EventLog.of(target, None if path is None else str(path))


def _make(
    session: Session,
    planned: ArchivePlan,
    run: Run,
    refused: RefusedSources | None,
    cleaner: Deidentifier | None,
) -> None:
    """Make the archives of a plan, count them and say so."""
    from pipelines.archiving.archive import archive as make_archives
    from pipelines.commands.archive_report import (
        count_items,
        failure_lines,
        report_document,
        report_lines,
        tell_plan,
    )
    from pipelines.progress import progress_bars

    tell_plan(planned)
    count_items(run, planned, None)
    with progress_bars(enabled=session.shows_progress) as progress:
        reports = make_archives(planned, progress, refused, cleaner)
    count_items(run, planned, reports)
    document = report_document(planned, reports)
    session.result(document, lambda: report_lines(planned, reports))
    session.failures(failure_lines(planned, reports))
