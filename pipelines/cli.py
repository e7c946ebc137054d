"""The command line, ``psc-archive``: thin commands around the functions of `pipelines`.

Only the command that is asked for is loaded, and heavy libraries inside it, so that ``info`` and
``--help`` start at once and never load the network library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

import psc_volumetric
from pipelines.commands.completion import (
    PROGRAM,
    install_completion,
    prepare_completion,
    show_completion,
)
from pipelines.commands.failures import EXIT_CODES, EXIT_USAGE
from pipelines.commands.places import PlacesCommand
from pipelines.commands.session import Session, drop_unwritten, open_closed
from pipelines.log_lines import JsonLines
from pipelines.stopping import Leaving
from psc_volumetric.errors import ParameterError

if TYPE_CHECKING:
    app: typer.Typer

__all__ = ["app", "main"]

_EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."

_COMMANDS = {  # word -> module in `pipelines.commands`, and function; in the order of --help
    "archive": "archive:archive",
    "restore": "restore:restore",
    "info": "info:info",
    "ls": "ls:ls",
    "verify": "verify:verify",
    "scrub": "scrub:scrub",
    "copy": "keeping:copy",
    "sync": "keeping:sync",
    "repair": "keeping:repair",
    "sign": "keeping:sign",
    "retire": "keeping:retire",
    "report": "report:report",
    "view": "view:view",
    "status": "status:status",
    "init-service": "init_service:init_service",
    "strip": "privacy:strip",
    "identity": "privacy:identity_make",
    "evaluate": "evaluate:evaluate",
    "sigma": "sigma:sigma",
    "doctor": "diagnosis:doctor",
}
_GROUPS = {
    "prior": (
        "List, inspect and train priors.",
        {
            "list": "prior:prior_list",
            "import": "prior:prior_import",
            "inspect": "prior:prior_inspect",
            "train": "prior:prior_train",
        },
    ),
    "pseudonyms": (
        "Make a key for names that say nothing, and show what they stand for.",
        {"make": "privacy:pseudonyms_make", "show": "privacy:pseudonyms_show"},
    ),
}


@cache
def _made(word: str | None) -> typer.Typer:
    """The program with one of its commands, or with all."""
    made = typer.Typer(
        name=PROGRAM,
        help="Write-once, progressive archives of DICOM, NIfTI, NetCDF and FITS volumes.",
        epilog=_EPILOG,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback(epilog=_EPILOG)(program)
    for name, place in _COMMANDS.items():
        if word in (None, name):
            made.command(name, cls=PlacesCommand, epilog=_EPILOG)(_loaded(place))
    for name, (text, commands) in _GROUPS.items():
        if word in (None, name):
            group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
            for inner, place in commands.items():
                group.command(inner, cls=PlacesCommand, epilog=_EPILOG)(_loaded(place))
            made.add_typer(group, name=name)
    return made


def _loaded(place: str) -> Callable[..., None]:
    module, _, function = place.partition(":")
    found: Callable[..., None] = getattr(import_module(f"pipelines.commands.{module}"), function)
    return found


def __getattr__(name: str) -> Any:
    """``app``, the program with all commands, is made when something asks for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _made(None)


def _saying(text: Callable[[], str]) -> Callable[[bool], None]:
    """Callback of a flag that prints a text and ends the program."""

    def say(wanted: bool) -> None:
        if wanted:
            with Session(as_json=False, quiet=False, debug=False):
                typer.echo(text())
            raise typer.Exit

    return say


def _flag(name: str, text: Callable[[], str], description: str) -> Any:
    return typer.Option(name, help=description, callback=_saying(text), is_eager=True)


def _version_text() -> str:
    return f"{PROGRAM} {psc_volumetric.__version__}"


def program(
    _version: Annotated[bool, _flag("--version", _version_text, "Print the version.")] = False,
    _install: Annotated[
        bool,
        _flag("--install-completion", install_completion, "Let this shell complete commands."),
    ] = False,
    _show: Annotated[
        bool,
        _flag("--show-completion", show_completion, "Print the script for that instead."),
    ] = False,
) -> None:
    """Write-once, progressive archives of DICOM, NIfTI, NetCDF and FITS volumes."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Without the program's name; None takes those of the process.
    """
    if arguments is None:
        open_closed()
    leaving = Leaving() if arguments is None else None
    code = _run(sys.argv[1:] if arguments is None else arguments)
    drop_unwritten()
    if leaving is not None:
        leaving.code = code
    sys.exit(code)


def _run(words: list[str]) -> int:
    """Run a command; returns its exit code."""
    prepare_completion()
    known = words and (words[0] in _COMMANDS or words[0] in _GROUPS)
    command = typer.main.get_command(_made(words[0] if known else None))
    try:
        code = command.main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # no command was named
            typer.echo(message, err=True)
            return EXIT_USAGE
        hint = "`psc-archive --help`, or --help after a command, shows what is possible"
        lines = JsonLines() if "--log-json" in words else None
        as_json = "--json" in words
        with (
            suppress(typer.Exit),
            Session(as_json=as_json, quiet=False, debug=False, log_lines=lines),
        ):
            raise ParameterError(message, kind="usage", hint=hint) from None
        code = EXIT_USAGE
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
