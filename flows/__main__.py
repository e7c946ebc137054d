"""The flows from a shell: ``python -m flows archive SOURCE TARGET``, and ``serve`` for schedules.

Options mean what they mean in ``psc-archive``, which does the same on one machine without Prefect
and Dask. Prefect, Dask and the formats are imported inside the commands, so that ``--help`` and
wrong usage answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.archive_options import Chosen, takes_archive_options
from pipelines.commands.failures import EXIT_DAMAGE, EXIT_INCOMPLETE
from pipelines.commands.options import (
    Debug,
    Deidentify,
    EventLogFile,
    LogJson,
    Metrics,
    Part,
    PseudonymKey,
    RetryRefused,
)
from pipelines.commands.places import PlacesCommand
from pipelines.commands.restore_options import restore_options
from pipelines.commands.scrub import scrub_options
from pipelines.commands.session import Session, open_closed
from pipelines.commands.taken import taking
from pipelines.log_lines import NamelessJsonLines
from psc_volumetric.errors import StorageError
from psc_volumetric.extras import require

if TYPE_CHECKING:
    from flows.records import ArchiveOutcome, FolderReport, Intake
    from pipelines.checking.scrub import ScrubOptions
    from pipelines.restoring.options import RestoreOptions

STARTUP_S = 120  # for Prefect's server of one run, on a busy machine
_ANALYTICS = "PREFECT_SERVER_ANALYTICS_ENABLED"  # a server of ours tells nobody that it runs
_STARTUP = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Archive, scrub, restore and retention as Prefect flows on Dask.",
)

Source = Annotated[Path, typer.Argument(help="Folder that all workers reach by this path.")]
Target = Annotated[str, typer.Argument(help="Folder or URL for one archive per item.")]
Archives = Annotated[str, typer.Argument(help="Folder of archives that all workers reach.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Dask scheduler; without it, a worker in this process.")
]
Notify = Annotated[
    str | None, typer.Option(metavar="BLOCK", help="Prefect block that hears of failures.")
]
Quiet = Annotated[
    float, typer.Option("--quiet-for", metavar="SECONDS", help="Leave files changed since then.")
]
Check = Annotated[
    str, typer.Option(metavar="none|shallow|deep", help="How sealed archives are read again.")
]
MoveTo = Annotated[
    Path | None, typer.Option(help="Folder that archived and checked sources move to.")
]
Pages = Annotated[Path | None, typer.Option(help="Folder that gets a page about each new archive.")]
Cron = Annotated[str, typer.Option(metavar="CRON", help="When: minute hour day month weekday.")]


@app.command(cls=PlacesCommand)
@takes_archive_options
def archive(
    source: Source,
    target: Target,
    chosen: Chosen,
    pseudonyms: PseudonymKey = None,
    deidentify: Deidentify = None,
    quiet_for: Quiet = 0.0,
    check: Check = "shallow",
    move_to: MoveTo = None,
    retry_refused: RetryRefused = False,
    pages: Pages = None,
    scheduler: Scheduler = None,
    notify: Notify = None,
    event_log: EventLogFile = None,
    metrics: Metrics = None,
    log_json: LogJson = False,
    debug: Debug = False,
) -> None:
    """Archive what is new in a folder, with bricks as Dask tasks."""
    with _session(debug, log_json) as session:
        from flows.archive import archive_folder
        from flows.cluster import Workers
        from flows.records import ItemsFailedError

        intake = _intake(quiet_for, check, move_to, pseudonyms, retry_refused, pages, deidentify)
        try:
            report = archive_folder(
                str(source.absolute()),
                _absolute(target),
                chosen(),
                intake,
                Workers(scheduler),
                notify,
                _text(event_log),
                _text(metrics),
            )
        except ItemsFailedError as error:
            _show_items(error.report, session)
            raise typer.Exit(EXIT_INCOMPLETE) from None
        _show_items(report, session)


@app.command(cls=PlacesCommand)
@taking(scrub_options, ScrubOptions=object)
def scrub(
    archives: Archives,
    chosen: Callable[[], ScrubOptions],
    event_log: EventLogFile = None,
    scheduler: Scheduler = None,
    notify: Notify = None,
    metrics: Metrics = None,
    log_json: LogJson = False,
    debug: Debug = False,
) -> None:
    """Check the archives of a folder, and write down what was found."""
    with _session(debug, log_json) as session:
        from flows.cluster import Workers
        from flows.scrub import scrub_archives

        given = (_absolute(archives), chosen(), _text(event_log), Workers(scheduler), notify)
        _show(lambda: scrub_archives(*given, _text(metrics)), session)


@app.command(cls=PlacesCommand)
@taking(restore_options, RestoreOptions=object)
def restore(
    archives: Archives,
    target: Annotated[Path, typer.Argument(help="Folder that gets one folder per archive.")],
    chosen: Callable[[], RestoreOptions],
    wanted: Annotated[
        Path | None, typer.Option(help="Text file that lists archives; default: all.")
    ] = None,
    scheduler: Scheduler = None,
    notify: Notify = None,
    log_json: LogJson = False,
    debug: Debug = False,
) -> None:
    """Write the source files of many archives again."""
    with _session(debug, log_json) as session:
        from flows.cluster import Workers
        from flows.restore import restore_archives

        options = chosen()
        workers, listed = Workers(scheduler), _text(wanted)
        found, to = _absolute(archives), str(target.absolute())
        _show(lambda: restore_archives(found, to, options, listed, workers, notify), session)


@app.command(cls=PlacesCommand)
def retention(
    archives: Archives,
    keep_days: Annotated[float, typer.Option(help="Days that archives are kept.")],
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what is past its date; else only list it.")
    ] = False,
    event_log: EventLogFile = None,
    notify: Notify = None,
    log_json: LogJson = False,
    debug: Debug = False,
) -> None:
    """List the archives that are past their date."""
    with _session(debug, log_json) as session:
        from flows.retention import retain_archives

        log = _text(event_log)
        archives = _absolute(archives)
        _show(lambda: retain_archives(archives, keep_days, delete, log, notify), session)


@app.command(cls=PlacesCommand)
@takes_archive_options
def serve(
    source: Source,
    target: Target,
    chosen: Chosen,
    pseudonyms: PseudonymKey = None,
    deidentify: Deidentify = None,
    quiet_for: Quiet = 60.0,
    check: Check = "shallow",
    move_to: MoveTo = None,
    pages: Pages = None,
    archive_at: Cron = "*/10 * * * *",
    scrub_at: Cron = "0 2 * * *",
    scrub_part: Part = "today/7",
    retention_at: Cron = "0 6 1 * *",
    keep_days: Annotated[
        float | None, typer.Option(help="List archives older than this; default: never.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Worker processes, without --scheduler.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Use this Dask scheduler.")] = None,
    port: Annotated[int, typer.Option(help="Of Prefect's server, where none is set.")] = 4200,
    notify: Notify = None,
    event_log: EventLogFile = None,
    metrics: Metrics = None,
    log_json: LogJson = False,
    debug: Debug = False,
) -> None:
    """Start all that is not there (Prefect server, Dask workers) and run the flows on schedule."""
    with _session(debug, log_json):
        from flows.serving import Service, serve_until_stopped

        service = Service(
            source=str(source.absolute()),
            target=_absolute(target),
            options=chosen(),
            intake=_intake(
                quiet_for, check, move_to, pseudonyms, pages=pages, deidentify=deidentify
            ),
            archive_at=archive_at,
            scrub_at=scrub_at,
            scrub_part=scrub_part,
            retention_at=retention_at,
            keep_days=keep_days,
            notify=notify,
            event_log=_text(event_log),
            metrics=_text(metrics),
        )
        serve_until_stopped(service, scheduler=scheduler, n_workers=workers, port=port)


@contextmanager
def _session(debug: bool, log_json: bool) -> Iterator[Session]:
    lines = NamelessJsonLines() if log_json else None
    with Session(as_json=False, quiet=False, debug=debug, log_lines=lines) as session:
        require("flows", "python -m flows")
        if log_json:
            from flows.json_logs import for_children

            os.environ.update(for_children())
        os.environ.setdefault(_STARTUP, str(STARTUP_S))
        os.environ.setdefault(_ANALYTICS, "false")
        with server_failures():
            yield session


@contextmanager
def server_failures() -> Iterator[None]:
    """Say what is wrong when Prefect has no server, which it tells by a RuntimeError.

    Raises
    ------
    StorageError : kind ``"no-server"``.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "Failed to reach API" in text:
            what, hint = "at PREFECT_API_URL does not answer", "check the address and the server"
        elif "connect to ephemeral Prefect API server" in text:
            what = f"was started for this run and did not answer within {os.environ[_STARTUP]} s"
            hint = f"start one with `prefect server start`, or set {_STARTUP}"
        else:
            raise
        raise StorageError(f"Prefect's server {what}", kind="no-server", hint=hint) from error


def _intake(
    quiet_for: float,
    check: str,
    move_to: Path | None,
    pseudonyms: Path | None,
    retry_refused: bool = False,
    pages: Path | None = None,
    deidentify: str | None = None,
) -> Intake:
    from flows.records import Intake

    return Intake(
        quiet_for,
        check,
        _text(move_to),
        _text(pseudonyms),
        retry_refused,
        _text(pages),
        deidentify,
    )


def _absolute(target: str) -> str:
    """A path that workers understand, who run in other folders; URLs stay."""
    return target if "://" in target else str(Path(target).absolute())


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _show_items(report: FolderReport, session: Session) -> None:
    for item in report.items:
        where = item.target if item.error is None else item.error
        line = f"{item.number} {item.kind} {item.status} {where or ''}".rstrip()
        _say(line, session, wrong=item.status == "failed")
    if report.waiting:
        _say(f"{report.waiting} waiting until they are quiet", session, wrong=True)


def _show(flow: Callable[[], tuple[ArchiveOutcome, ...]], session: Session) -> None:
    """Run a flow over archives and print a line for each."""
    from flows.records import ArchivesFailedError

    try:
        outcomes, code = flow(), 0
    except ArchivesFailedError as error:
        outcomes = error.outcomes
        code = EXIT_DAMAGE if error.kind == "damage-found" else EXIT_INCOMPLETE
    for one in outcomes:
        line = f"{one.number} {one.status} {one.archive} {one.error or ''}".rstrip()
        _say(line, session, wrong=one.error is not None)
    if code:
        raise typer.Exit(code)


def _say(line: str, session: Session, *, wrong: bool) -> None:
    """Print a line of the result; log lines have stderr for themselves."""
    typer.echo(line, err=wrong and session.log_lines is None)


if __name__ == "__main__":
    open_closed()
    app()
