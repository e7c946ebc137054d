"""The command line, ``psc-archive``: thin commands around the functions of `pipelines`.

Heavy libraries are imported inside the commands, so that ``info`` and ``--help`` start at once
and never load the network library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

import psc_volumetric
from pipelines.commands.archive import archive
from pipelines.commands.completion import (
    PROGRAM,
    install_completion,
    prepare_completion,
    show_completion,
)
from pipelines.commands.evaluate import evaluate
from pipelines.commands.failures import EXIT_CODES, EXIT_INTERNAL, EXIT_USAGE
from pipelines.commands.init_service import init_service
from pipelines.commands.keeping import copy, repair, retire, sign, sync
from pipelines.commands.ls import ls
from pipelines.commands.options import (
    ArchivePath,
    Debug,
    Json,
    Quiet,
    choice,
)
from pipelines.commands.privacy import identity_make, pseudonyms_make, pseudonyms_show, strip
from pipelines.commands.report import report
from pipelines.commands.restore import restore
from pipelines.commands.scrub import scrub
from pipelines.commands.session import Session, drop_unwritten
from pipelines.commands.sigma import sigma
from pipelines.commands.status import status
from pipelines.commands.verify import verify
from pipelines.commands.view import view
from pipelines.log_lines import JsonLines
from psc_volumetric.errors import ParameterError

__all__ = ["app", "main"]

_EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."

app = typer.Typer(
    name=PROGRAM,
    help="Write-once, progressive archives of DICOM, NIfTI, NetCDF and FITS volumes.",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
prior_app = typer.Typer(
    help="List, inspect and train priors.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(prior_app, name="prior")
pseudonyms_app = typer.Typer(
    help="Make a key for names that say nothing, and show what they stand for.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(pseudonyms_app, name="pseudonyms")
pseudonyms_app.command("make", epilog=_EPILOG)(pseudonyms_make)
pseudonyms_app.command("show", epilog=_EPILOG)(pseudonyms_show)


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


@app.callback(epilog=_EPILOG)
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


app.command(epilog=_EPILOG)(archive)


app.command(epilog=_EPILOG)(restore)


@app.command(epilog=_EPILOG)
def info(
    source: ArchivePath, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Show what an archive holds, from its headers alone."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.checking.info import archive_info, info_lines

        found = archive_info(source)
        session.result(found, lambda: info_lines(found))


app.command(epilog=_EPILOG)(ls)
app.command(epilog=_EPILOG)(verify)
app.command(epilog=_EPILOG)(scrub)
app.command(epilog=_EPILOG)(copy)
app.command(epilog=_EPILOG)(sync)
app.command(epilog=_EPILOG)(repair)
app.command(epilog=_EPILOG)(sign)
app.command(epilog=_EPILOG)(retire)
app.command(epilog=_EPILOG)(report)
app.command(epilog=_EPILOG)(view)
app.command(epilog=_EPILOG)(status)
app.command(epilog=_EPILOG)(init_service)
app.command(epilog=_EPILOG)(strip)
app.command("identity", epilog=_EPILOG)(identity_make)
app.command(epilog=_EPILOG)(evaluate)
app.command(epilog=_EPILOG)(sigma)


@prior_app.command("list", epilog=_EPILOG)
def prior_list(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the installed priors."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import list_priors, prior_lines

        rows = list_priors()
        session.result(rows, lambda: prior_lines(rows))


@prior_app.command("inspect", epilog=_EPILOG)
def prior_inspect(
    name: Annotated[str, typer.Argument(help="Name of an installed prior, or a prior folder.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Load a prior, check it, and show what it is."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import inspect_lines, inspect_prior

        found = inspect_prior(name)
        session.result(found, lambda: inspect_lines(found))


@prior_app.command("train", epilog=_EPILOG)
def prior_train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a JSON file.")],
    out: Annotated[Path, typer.Option(help="Prior folder to make; must not exist.")],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders with volumes; `test-tiny` makes its own."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Skip training: float weights of an earlier run, or a diffusers folder."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Train this long instead of what the recipe says.")
    ] = None,
    train_device: Annotated[
        str | None,
        choice(("cpu", "cuda"), "--device", help="Train there instead of what the recipe says."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a prior from a recipe, convert it to integers, calibrate and check it."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import inspect_lines, inspect_prior, train_prior

        train_prior(recipe, data or [], out, weights, minutes, train_device, session.note)
        found = inspect_prior(str(out))
        session.result(found, lambda: inspect_lines(found))


@app.command(epilog=_EPILOG)
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Without the program's name; None takes those of the process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    prepare_completion()
    command = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # no command was named
            typer.echo(message, err=True)
            sys.exit(EXIT_USAGE)
        hint = "`psc-archive --help`, or --help after a command, shows what is possible"
        lines = JsonLines() if "--log-json" in words else None
        as_json = "--json" in words
        with (
            suppress(typer.Exit),
            Session(as_json=as_json, quiet=False, debug=False, log_lines=lines),
        ):
            raise ParameterError(message, kind="usage", hint=hint) from None
        code = EXIT_USAGE
    drop_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
