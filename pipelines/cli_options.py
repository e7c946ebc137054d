"""Options that several commands share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Debug", "Device", "Effort", "Json", "PriorName", "Quiet", "Setting"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; never changes a bit.")]
PriorName = Annotated[
    str | None, typer.Option("--prior", help="Prior name or folder; default: what fits the source.")
]
Effort = Annotated[int, typer.Option(help="1..9: network evaluations per tile, 8 to 304.")]
Setting = Annotated[str, typer.Option(help="fast, or paper (the published algorithm, slow).")]
