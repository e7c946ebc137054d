"""``psc-archive doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.failures import EXIT_INTERNAL
from pipelines.commands.options import Debug, Json, Quiet
from pipelines.commands.session import Session

__all__ = ["doctor"]


def doctor(
    conformance: Annotated[
        bool, typer.Option("--conformance", help="Also decode the golden vectors.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check this installation: versions, devices, decoders, entry points, known traps."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.doctor import diagnose, diagnosis_lines

        found = diagnose(conformance=conformance)
        session.result(found.to_dict(), lambda: diagnosis_lines(found))
        if not found.is_healthy:
            raise typer.Exit(EXIT_INTERNAL)
