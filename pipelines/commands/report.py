"""The command ``psc-archive report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Debug, Json, Quiet
from pipelines.commands.session import Session

__all__ = ["report"]


def report(
    archive: Annotated[str, typer.Argument(help="Archive: folder, zip file or URL.")],
    source: Annotated[
        Path | None, typer.Argument(help="What was archived: errors are counted against it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; default: NAME.html here.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also code it with PNG, JPEG XL and Zstandard.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one page that shows an archive: pictures, errors, bytes and promises."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.reporting.page import page_name, report_page, write_page
        from psc_volumetric.archive.stores import target_text

        name = target_text(archive)
        page = output or Path(page_name(name))
        text = report_page(archive, source, peers=peers)
        write_page(text, page)
        document = {"archive": name, "page": str(page), "bytes": len(text.encode())}
        session.result(document, lambda: [f"page      {page} ({document['bytes']} bytes)"])
