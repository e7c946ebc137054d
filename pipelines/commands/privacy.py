"""The commands ``psc-archive strip`` and ``psc-archive pseudonyms``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import ArchivePath, Debug, Json, Quiet
from pipelines.commands.session import Session

__all__ = ["pseudonyms_make", "pseudonyms_show", "strip"]

KeyFile = Annotated[Path, typer.Argument(metavar="KEYFILE", help="Yours alone (mode 600).")]


def strip(
    source: ArchivePath,
    target: Annotated[str, typer.Argument(metavar="NEW", help="Name of the copy.")],
    link_original: Annotated[
        bool,
        typer.Option("--link-original", help="Record the digest of the first archive's manifest."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy an archive without headers, file names and digests of its source."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.strip import strip as copy_stripped
        from pipelines.archiving.strip import strip_lines

        report = copy_stripped(source, target, link_original=link_original)
        session.result(report.to_dict(), lambda: strip_lines(report))


def pseudonyms_make(
    keyfile: KeyFile, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Make a key for `archive --pseudonyms`; keep it and the table beside it safe."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.pseudonyms import make_key

        make_key(keyfile)
        session.result({"key": str(keyfile)}, lambda: [f"made {keyfile}"])


def pseudonyms_show(
    keyfile: KeyFile, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Show what each pseudonym stands for."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.pseudonyms import read_table

        rows = read_table(keyfile)
        session.result(rows, lambda: [f"{name}  {source}" for name, source in rows.items()])
