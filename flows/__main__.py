"""Run the archive flow from a shell: ``python -m flows SOURCE TARGET``.

Options mean what they mean in ``psc-archive archive``, which does the same on one machine without
Prefect and Dask.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.records import FolderReport, ItemsFailedError
from pipelines.archiving.archive import ArchiveOptions
from pipelines.commands.failures import EXIT_INCOMPLETE, describe_failure
from pipelines.commands.options import (
    Bpv,
    Coders,
    Effort,
    KeepOriginal,
    MaxError,
    MaxErrorUnit,
    Mode,
    NoProof,
    Preview,
    PriorName,
    PseudonymKey,
    Psnr,
    Step,
)
from psc_volumetric.errors import ExtraMissingError, PscError
from psc_volumetric.extras import require

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    source: Annotated[str, typer.Argument(help="Folder that all workers reach by this path.")],
    target: Annotated[str, typer.Argument(help="Folder or URL for one archive per item.")],
    mode: Mode = "lossless",
    max_error: MaxError = None,
    max_error_unit: MaxErrorUnit = "stored",
    bpv: Bpv = None,
    psnr: Psnr = None,
    step: Step = None,
    preview: Preview = None,
    coders: Coders = "smallest",
    keep_original: KeepOriginal = False,
    no_proof: NoProof = False,
    effort: Effort = 5,
    prior: PriorName = None,
    pseudonyms: PseudonymKey = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler; without it, a worker in this process.")
    ] = None,
) -> None:
    """Archive every item of a folder, with bricks as Dask tasks."""
    try:
        require("flows", "python -m flows")
        from prefect_dask.task_runners import DaskTaskRunner

        from flows.archive import archive_folder

        flow = archive_folder
        if scheduler is not None:
            flow = flow.with_options(
                task_runner=DaskTaskRunner(address=scheduler)  # type: ignore[arg-type]
            )
        options = ArchiveOptions(
            mode=mode,
            max_error=max_error,
            max_error_unit=max_error_unit,
            bpv=bpv,
            psnr=psnr,
            step=step,
            preview=preview,
            coders=coders,
            keep_original=keep_original,
            no_proof=no_proof,
            effort=effort,
            prior=prior,
        )
        key = None if pseudonyms is None else str(pseudonyms)
        report = flow(source, target, options, pseudonyms=key)
    except ItemsFailedError as error:
        _show(error.report)
        sys.exit(EXIT_INCOMPLETE)
    except (PscError, ExtraMissingError) as error:
        failure = describe_failure(error)
        typer.echo("\n".join(failure.lines()), err=True)
        sys.exit(failure.code)
    _show(report)


def _show(report: FolderReport) -> None:
    for item in report.items:
        where = item.report.target if item.report is not None else item.error or ""
        line = f"{item.number} {item.kind} {item.status} {where}".rstrip()
        typer.echo(line, err=item.status == "failed")


if __name__ == "__main__":
    app()
