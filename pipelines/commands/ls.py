"""The command ``psc-archive ls``."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any

import typer

from pipelines.commands.options import ArchivesPath, Debug, Json, Quiet
from pipelines.commands.session import Session

__all__ = ["ls"]


def ls(
    source: ArchivesPath,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Only archives where it holds, such as mode=lossy, kind=dicom, 'bytes>1e6' or "
            "'created>=2026-11'; may be repeated.",
        ),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="Order of archives.")] = "name",
    reverse: Annotated[bool, typer.Option("--reverse", help="The largest first.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All columns as CSV on stdout.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the variables of an archive, or all archives in a folder and the folders in it."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.checking.info import list_lines, list_target

        rows = list_target(source, where=where or (), sort=sort, reverse=reverse)
        session.result(rows, lambda: _csv_lines(rows) if as_csv else list_lines(rows))


def _csv_lines(rows: list[dict[str, Any]]) -> list[str]:
    from pipelines.checking.catalogue import COLUMNS

    first = COLUMNS if any("state" in row for row in rows) else ()  # else rows of variables
    columns = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue().splitlines()


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
