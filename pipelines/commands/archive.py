"""The command ``psc-archive archive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.archive_options import Chosen, takes_archive_options
from pipelines.commands.options import Debug, DryRun, Json, PseudonymKey, Quiet
from pipelines.commands.session import Session

__all__ = ["archive"]


@takes_archive_options
def archive(
    source: Annotated[Path, typer.Argument(help="File or folder, any mixture of formats.")],
    target: Annotated[
        str, typer.Argument(help="NAME.psc.zarr, NAME.psc.zarr.zip, or a folder for many.")
    ],
    chosen: Chosen,
    pseudonyms: PseudonymKey = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Archive volumes. Continues an unfinished archive; never replaces a sealed one."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.archive import archive as make_archives
        from pipelines.archiving.archive import plan
        from pipelines.archiving.pseudonyms import Pseudonyms
        from pipelines.commands.archive_report import (
            failure_lines,
            plan_lines,
            report_document,
            report_lines,
        )
        from pipelines.progress import progress_bars

        options = chosen()
        key = None if pseudonyms is None else Pseudonyms.load(pseudonyms)
        namer = None if key is None else (key.name if dry_run else key.assign)
        planned = plan(source, target, options, namer=namer)
        if dry_run:
            session.result(planned.to_dict(), lambda: plan_lines(planned))
            session.failures(failure_lines(planned, []))
            return
        with progress_bars(enabled=session.shows_progress) as progress:
            reports = make_archives(planned, progress)
        document = report_document(planned, reports)
        session.result(document, lambda: report_lines(planned, reports))
        session.failures(failure_lines(planned, reports))
