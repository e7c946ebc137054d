"""``psc-archive info``."""

from __future__ import annotations

from pipelines.commands.options import ArchivePath, Debug, Json, Quiet
from pipelines.commands.session import Session

__all__ = ["info"]


def info(
    source: ArchivePath, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Show what an archive holds, from its headers alone."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.checking.info import archive_info, info_lines

        found = archive_info(source)
        session.result(found, lambda: info_lines(found))
