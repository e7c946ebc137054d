"""The commands that keep archives for years: copies, repair, signatures, and their end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.failures import EXIT_DAMAGE
from pipelines.commands.options import ArchivePath, Debug, DryRun, EventLogFile, Json, Quiet
from pipelines.commands.session import Session

__all__ = ["copy", "repair", "retire", "sign", "sync"]

Check = Annotated[
    bool, typer.Option("--check", help="Read the copies back and compare, those there too.")
]


def copy(
    source: ArchivePath,
    target: Annotated[
        str, typer.Argument(metavar="NEW", help="NAME.psc.zarr, NAME.psc.zarr.zip, or a URL.")
    ],
    check: Check = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy an archive, each object checked; continues a copy that was stopped."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.keeping.copies import copy as copy_one
        from pipelines.keeping.copies import copy_lines
        from pipelines.progress import progress_bars

        with progress_bars(enabled=session.shows_progress) as progress:
            row = copy_one(source, target, check=check, progress=progress)
        session.result(row.to_dict(), lambda: copy_lines(row))


def sync(
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or bucket of archives.")],
    target: Annotated[str, typer.Argument(metavar="COPIES", help="Folder or bucket for copies.")],
    check: Check = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy the archives that the other folder lacks; nothing there is replaced or removed."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.keeping.copies import DAMAGED, sync_failures, sync_lines
        from pipelines.keeping.copies import sync as copy_missing
        from pipelines.progress import progress_bars

        with progress_bars(enabled=session.shows_progress) as progress:
            report = copy_missing(source, target, check=check, progress=progress)
        session.result(report.to_dict(), lambda: sync_lines(report))
        damage = EXIT_DAMAGE if report.having(DAMAGED) else None
        session.failures(sync_failures(report.rows), code=damage)


def repair(
    source: ArchivePath,
    replicas: Annotated[
        list[str], typer.Option("--from", help="A copy of the archive; may be repeated.")
    ],
    expect: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Digest of the archive's manifest, where it is lost."),
    ] = None,
    event_log: EventLogFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put good objects of replicas in the place of damaged ones, then verify; else exit code 7."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.checking.event_log import EventLog
        from pipelines.collection import folder_around
        from pipelines.keeping.repair import repair as mend_archive
        from pipelines.keeping.repair import repair_lines
        from pipelines.progress import progress_bars
        from psc_volumetric.archive.stores import is_url

        log = EventLog.of(folder_around(source), None if event_log is None else str(event_log))
        with progress_bars(enabled=session.shows_progress) as progress:
            report = mend_archive(
                source, replicas, expect=expect, dry=dry_run, log=log, progress=progress
            )
        session.result(report.to_dict(), lambda: repair_lines(report))
        if is_url(source) and not dry_run:
            session.note(f"event log {log.place}")
        if not report.is_whole:
            raise typer.Exit(EXIT_DAMAGE)


def sign(
    source: ArchivePath,
    key: Annotated[Path, typer.Option(help="Your private key, Ed25519: OpenSSH or PEM.")],
    signature: Annotated[
        Path | None, typer.Option(help="File to write; default: ARCHIVE.sig beside the archive.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Sign the manifest of an archive; `verify --public-key` and OpenSSH check it."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.keeping.signing import sign as sign_manifest
        from pipelines.keeping.signing import sign_lines

        signed = sign_manifest(source, key, signature)
        session.result(signed.to_dict(), lambda: sign_lines(signed))


def retire(
    source: ArchivePath,
    reason: Annotated[str, typer.Option(help="Why it may go, in a few words; name no person.")],
    successor: Annotated[
        str | None, typer.Option(metavar="NEW", help="The archive that supersedes it.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Do it; without this nothing is removed.")
    ] = False,
    event_log: EventLogFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove an archive; a small file in its place says who removed it, when and why."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.checking.event_log import EventLog
        from pipelines.collection import folder_around
        from pipelines.keeping.retire import retire as remove
        from pipelines.keeping.retire import retire_lines
        from psc_volumetric.archive.stores import is_url

        log = EventLog.of(folder_around(source), None if event_log is None else str(event_log))
        retired = remove(source, reason, successor=successor, delete=delete, log=log)
        session.result(retired.to_dict(), lambda: retire_lines(retired))
        if is_url(source) and delete:
            session.note(f"event log {log.place}")
