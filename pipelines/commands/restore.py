"""The command ``psc-archive restore``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.failures import EXIT_DAMAGE
from pipelines.commands.options import ArchivePath, Debug, DryRun, Jobs, Json, LogJson, Quiet
from pipelines.commands.restore_options import restore_options
from pipelines.commands.session import Session
from pipelines.commands.taken import taking
from pipelines.log_lines import JsonLines

if TYPE_CHECKING:
    from pipelines.restoring.options import RestoreOptions

__all__ = ["restore"]


@taking(restore_options, RestoreOptions=object)
def restore(
    source: ArchivePath,
    target: Annotated[
        Path, typer.Argument(help="DICOM: new folder. Other formats: file name or folder.")
    ],
    chosen: Callable[[], RestoreOptions],
    jobs: Jobs = None,
    dry_run: DryRun = False,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the source format again: whole or a region, at any quality level."""
    lines = JsonLines() if log_json else None
    with Session(as_json=as_json, quiet=quiet, debug=debug, log_lines=lines) as session:
        from pipelines.commands.restore_report import restore_lines, restore_plan_lines
        from pipelines.commands.run_record import Recorded
        from pipelines.progress import progress_bars
        from pipelines.restoring.restore import dry_restore
        from pipelines.restoring.restore import restore as write_source
        from psc_volumetric.threads import at_most

        options = chosen()
        if dry_run:
            planned = dry_restore(source, target, options)
            session.result(planned.to_dict(), lambda: restore_plan_lines(planned))
            return
        with at_most(jobs), Recorded("restore", source, event_log=None, metrics=None) as run:
            with progress_bars(enabled=session.shows_progress) as progress:
                report = write_source(source, target, options, progress)
            run.counts = {"files": len(report.files), "filled_bricks": len(report.damage.findings)}
            session.result(report.to_dict(), lambda: restore_lines(report))
            if report.damage:
                raise typer.Exit(EXIT_DAMAGE)
