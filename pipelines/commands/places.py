"""Arguments that name a place, looked at before a command begins.

An empty word, most often a variable of the shell that is not set, would stand for the folder that
the shell is in, and ``s3:/bucket`` for a folder called ``s3:`` in it. Neither can be meant.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand

__all__ = ["PlacesCommand"]

# Schemes of addresses without both slashes, or with nothing behind them.
_CUT = re.compile(r"(s3a?|gs|gcs|az|abfss?|adl|https?|ftp|file):(/{0,2}$|/?[^/])", re.IGNORECASE)


class PlacesCommand(TyperCommand):
    """A command that refuses arguments which name no place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the words of a command apart.

        Raises
        ------
        typer.BadParameter : an argument is empty, or an address that was cut short.
        """
        if not ctx.resilient_parsing:
            words = self.make_parser(ctx).parse_args(args=list(args))[0]  # not yet paths
            for parameter in self.params:
                if isinstance(parameter, TyperArgument):
                    given = words.get(parameter.name)
                    for word in given if isinstance(given, (list, tuple)) else [given]:
                        _refuse(word, ctx, parameter)
        return super().parse_args(ctx, args)


def _refuse(word: object, ctx: Any, parameter: TyperArgument) -> None:
    if word == "":
        raise typer.BadParameter(
            "expected a name, found an empty word; is a variable of the shell not set? A dot "
            "stands for the folder that you are in",
            ctx=ctx,
            param=parameter,
        )
    if isinstance(word, str) and _CUT.match(word):
        raise typer.BadParameter(
            f"expected a whole address, such as s3://bucket/folder, or a path, found {word!r}; "
            f"a folder of this name is ./{word}",
            ctx=ctx,
            param=parameter,
        )
