"""The command ``psc-archive archive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import (
    Base,
    Bpv,
    Coders,
    Debug,
    Device,
    DryRun,
    Effort,
    Json,
    KeepOriginal,
    MaxError,
    MaxErrorUnit,
    Mode,
    NoProof,
    Preview,
    PriorName,
    PseudonymKey,
    Psnr,
    Quiet,
    Setting,
    Step,
)
from pipelines.commands.session import Session

__all__ = ["archive"]


def archive(  # long: one parameter for each option, with its help
    source: Annotated[Path, typer.Argument(help="File or folder, any mixture of formats.")],
    target: Annotated[
        str, typer.Argument(help="NAME.psc.zarr, NAME.psc.zarr.zip, or a folder for many.")
    ],
    mode: Mode = "lossless",
    max_error: MaxError = None,
    max_error_unit: MaxErrorUnit = "stored",
    bpv: Bpv = None,
    psnr: Psnr = None,
    step: Step = None,
    preview: Preview = None,
    base: Base = "auto",
    roi_lossless: Annotated[
        str | None, typer.Option(help='Keep this region exactly: "z=10:42,y=0:64,x=32:96".')
    ] = None,
    roi_lossless_mm: Annotated[
        str | None, typer.Option(help="The same in mm, RAS+, see restore --roi-mm.")
    ] = None,
    coders: Coders = "smallest",
    keep_original: KeepOriginal = False,
    no_proof: NoProof = False,
    effort: Effort = 5,
    setting: Setting = "fast",
    prior: PriorName = None,
    pseudonyms: PseudonymKey = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Archive volumes. Continues an unfinished archive; never replaces a sealed one."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.archive import ArchiveOptions, plan
        from pipelines.archiving.archive import archive as make_archives
        from pipelines.archiving.pseudonyms import Pseudonyms
        from pipelines.commands.archive_report import (
            failure_lines,
            plan_lines,
            report_document,
            report_lines,
        )
        from pipelines.progress import progress_bars

        options = ArchiveOptions(
            mode=mode,
            max_error=max_error,
            max_error_unit=max_error_unit,
            bpv=bpv,
            psnr=psnr,
            step=step,
            preview=preview,
            base=base,
            coders=coders,
            exact_roi=roi_lossless,
            exact_roi_mm=roi_lossless_mm,
            keep_original=keep_original,
            no_proof=no_proof,
            effort=effort,
            setting=setting,
            prior=prior,
            device=device,
        )
        key = None if pseudonyms is None else Pseudonyms.load(pseudonyms)
        namer = None if key is None else (key.name if dry_run else key.assign)
        chosen = plan(source, target, options, namer=namer)
        if dry_run:
            session.result(chosen.to_dict(), lambda: plan_lines(chosen))
            session.failures(failure_lines(chosen, []))
            return
        with progress_bars(enabled=session.shows_progress) as progress:
            reports = make_archives(chosen, progress)
        document = report_document(chosen, reports)
        session.result(document, lambda: report_lines(chosen, reports))
        session.failures(failure_lines(chosen, reports))
