"""The command ``psc-archive verify``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.failures import checked_code
from pipelines.commands.options import (
    ArchivesPath,
    Debug,
    Deep,
    Device,
    Jobs,
    Json,
    LogJson,
    Quiet,
    Sample,
)
from pipelines.commands.session import Session
from pipelines.log_lines import JsonLines

__all__ = ["verify"]


def verify(
    source: ArchivesPath,
    sample: Sample = "100%",
    deep: Deep = False,
    seed: Annotated[int, typer.Option(help="Which sample.")] = 0,
    expect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="The manifest must be the one you know.")
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="It must be signed by one of these keys; may be repeated."),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(help="The signature; default: ARCHIVE.sig beside the archive.")
    ] = None,
    superseded: Annotated[
        str | None,
        typer.Option(metavar="OLD", help="Also check the archive that this one supersedes."),
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check that an archive, or all in a folder, are whole and unchanged; else exit code 7."""
    lines = JsonLines() if log_json else None
    with Session(as_json=as_json, quiet=quiet, debug=debug, log_lines=lines) as session:
        from pipelines.archiving.succession import digest_of_superseded
        from pipelines.checking.scrub import tell_checked
        from pipelines.checking.trust import Trust
        from pipelines.checking.verified import note_verified
        from pipelines.checking.verify import reports_document, verify_all, verify_lines
        from pipelines.checking.verify import verify as verify_one
        from pipelines.commands.run_record import Recorded
        from pipelines.progress import progress_bars
        from psc_volumetric.threads import at_most

        trust = Trust.of(expect, tuple(public_key or ()), signature)
        how: dict[str, Any] = {"sample": sample, "deep": deep, "seed": seed, "device": device}
        with at_most(jobs), Recorded("verify", source, event_log=None, metrics=None) as run:
            with progress_bars(enabled=session.shows_progress) as progress:
                reports = verify_all(source, trust=trust, progress=progress, **how)
                if superseded is not None:
                    old = Trust(digest_of_superseded(source))
                    reports.append(verify_one(superseded, deep=deep, trust=old, progress=progress))
            found = Counter(report.outcome for report in reports)
            run.counts = {name: found[name] for name in ("ok", "damaged", "not-checked")}
            note_verified(reports)
            for report in reports:
                tell_checked(report)
            session.result(
                reports_document(reports),
                lambda: [line for r in reports for line in verify_lines(r)],
            )
            code = checked_code(reports)
            if code:
                raise typer.Exit(code)
