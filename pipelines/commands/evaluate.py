"""The command ``psc-archive evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.archiving.choices import MODES
from pipelines.commands.options import (
    BASES,
    Debug,
    Device,
    Effort,
    Json,
    PriorName,
    Quiet,
    Setting,
    Speed,
    choice,
)
from pipelines.commands.session import Session
from pipelines.evaluation.sets import SET_NAMES

__all__ = ["evaluate"]


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def evaluate(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders; whole volumes.")
    ] = None,
    sets: Annotated[
        str | None,
        choice(SET_NAMES, "--set", other="FILE.json", help="Held-out volumes, of several sets."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that the sets are read from.")] = None,
    mode: Annotated[str, choice(MODES, help="Rate and distortion (lossy), or sizes.")] = "lossy",
    bpv: Annotated[str, typer.Option(help="Lossy: rates to bring peers to.")] = "0.05,0.1,0.25,0.5",
    step: Annotated[str, typer.Option(help="Quantiser steps of our points.")] = "0.25,0.5,1",
    max_error: Annotated[
        str | None,
        typer.Option(
            help="Bounded: stored units for integers (1,2,5,10), shares of the range for floats "
            "(1e-4,1e-3,1e-2)."
        ),
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            help="jpeg2000, htj2k, jpegxl, av1, sperr, sz3, zfp, zfp-rate, x265 (needs PyAV), vvc; "
            "bounded: sperr, sz3, jpegls, zfp; lossless: jpegxl, jpegxl-e9, jpeg2000, jpegls, "
            "htj2k, pcodec, zfp, zstd. Default: all but zfp-rate, x265 and vvc."
        ),
    ] = None,
    ours: Annotated[
        str | None,
        choice(
            (*BASES, "none", "none:fast", "archive/none"),
            help="Variants of ours, base or base:coders; archive/ before one: whole archives. "
            "Default: auto; bounded and lossless: none,archive/none,none:fast.",
        ),
    ] = None,
    psnr_only: Annotated[
        bool, typer.Option("--psnr-only", help="Lossy: no SSIM, HaarPSI and spectra; faster.")
    ] = False,
    perception: Annotated[
        bool,
        typer.Option(
            "--perception", help="Lossy: whether it looks like a real scan (SWD, kernel distance)."
        ),
    ] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="Lossy: decode ours from its bytes too, for times.")
    ] = False,
    middle: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Only the middle of every volume, at most this large."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    speed: Speed = 1,
    effort: Effort = 5,
    setting: Setting = "fast",
    prior: PriorName = None,
    device: Device = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw into this .png or .svg.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the tables into this Markdown file.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare sizes and errors with other codecs on the same volumes, every byte counted."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.options import ArchiveOptions
        from pipelines.evaluation.evaluate import evaluate as measure
        from pipelines.evaluation.markdown import markdown as tables
        from pipelines.evaluation.options import EvaluateOptions, parse_numbers
        from pipelines.evaluation.plot import check_picture, draw_results
        from pipelines.evaluation.report import document, result_lines, summary_lines
        from pipelines.evaluation.sets import load_sets, plain_sources
        from pipelines.progress import progress_bars
        from psc_volumetric.errors import ParameterError

        coded = ArchiveOptions(
            mode="lossy", effort=effort, setting=setting, prior=prior, device=device, speed=speed
        )
        options = EvaluateOptions(
            mode=mode,
            bpv=parse_numbers(bpv, "--bpv"),
            steps=parse_numbers(step, "--step"),
            bounds=parse_numbers(max_error or "", "--max-error"),
            peers=_words(peers),
            ours=_words(ours),
            wants_quality=not psnr_only,
            wants_perception=perception,
            decodes=decode,
            jobs=jobs,
            middle=tuple(map(int, parse_numbers(middle or "", "--middle"))),
            archive=coded,
        )
        chosen = [*plain_sources(sources or []), *load_sets(_words(sets) or (), data)]
        if not chosen:
            raise ParameterError(
                "expected files or folders to evaluate, found none",
                kind="no-source",
                hint="name some, or a set: --set mr --data FOLDER",
            )
        if plot is not None:
            check_picture(plot)
        results = []
        with progress_bars(enabled=session.shows_progress) as progress:
            for result in measure(chosen, options, progress):
                session.note(f"{result.group} {result.name}: {len(result.points)} points".strip())
                results.append(result)
                if markdown is not None:  # after each volume, so that nothing is lost
                    markdown.write_text(tables(results, options), "utf-8")
        if plot is not None:
            draw_results(results, options.mode, plot)
        lines = [line for result in results for line in result_lines(result)]
        session.result(
            document(results, options), lambda: [*lines, *summary_lines(results, options.mode)]
        )
