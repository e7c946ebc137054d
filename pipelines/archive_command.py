"""The command ``psc-archive archive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import Debug, Device, Effort, Json, PriorName, Quiet, Setting
from pipelines.session import Session

__all__ = ["DryRun", "archive"]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]


def archive(  # long: one parameter for each option, with its help
    source: Annotated[Path, typer.Argument(help="File or folder, any mixture of formats.")],
    target: Annotated[
        str, typer.Argument(help="NAME.psc.zarr, NAME.psc.zarr.zip, or a folder for many.")
    ],
    mode: Annotated[
        str, typer.Option(help="lossless (every bit), bounded (--max-error), or lossy.")
    ] = "lossless",
    max_error: Annotated[
        float | None,
        typer.Option(help="Largest error of any value; with lossless, of a level below."),
    ] = None,
    max_error_unit: Annotated[
        str, typer.Option(help="stored, physical (HU, K ...), or relative (share of the range).")
    ] = "stored",
    bpv: Annotated[float | None, typer.Option(help="Lossy: bits per voxel, within 2 %.")] = None,
    psnr: Annotated[float | None, typer.Option(help="Lossy: PSNR in dB, within 0.1.")] = None,
    step: Annotated[
        float | None, typer.Option(help="Lossy: quantiser step instead, 0.5 is the default.")
    ] = None,
    preview: Annotated[
        str | None,
        typer.Option(help="Lossy levels below lossless and bounded ones: none (default) or psc."),
    ] = None,
    base: Annotated[str, typer.Option(help="Lossy method: auto, psc or av1.")] = "auto",
    roi_lossless: Annotated[
        str | None, typer.Option(help='Keep this region exactly: "z=10:42,y=0:64,x=32:96".')
    ] = None,
    roi_lossless_mm: Annotated[
        str | None, typer.Option(help="The same in mm, RAS+, see restore --roi-mm.")
    ] = None,
    coders: Annotated[
        str, typer.Option(help="Coders of exact levels: smallest, fast, or names: jpegls,zstd.")
    ] = "smallest",
    keep_original: Annotated[
        bool,
        typer.Option(
            "--keep-original", help="Also keep files verbatim that cannot be made again bit by bit."
        ),
    ] = False,
    effort: Effort = 5,
    setting: Setting = "fast",
    prior: PriorName = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Archive volumes. Continues an unfinished archive; never replaces a sealed one."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archive import ArchiveOptions, outstanding, plan
        from pipelines.archive import archive as make_archives
        from pipelines.archive_report import plan_lines, report_lines
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
            effort=effort,
            setting=setting,
            prior=prior,
            device=device,
        )
        chosen = plan(source, target, options)
        if dry_run:
            outstanding(chosen)
            session.result(chosen.to_dict(), lambda: plan_lines(chosen))
            return
        with progress_bars(enabled=session.shows_progress) as progress:
            reports = make_archives(chosen, progress)
        document = {**chosen.to_dict(), "archives": [report.to_dict() for report in reports]}
        session.result(document, lambda: report_lines(chosen, reports))
