"""The frame around every command: one result on stdout, errors as two lines, an exit code."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any

import typer

from pipelines.commands.failures import EXIT_INCOMPLETE, EXIT_OK, Failure, describe_failure
from pipelines.log_lines import JsonLines, tell
from pipelines.stopping import stoppable

__all__ = ["Session", "drop_unwritten", "log_failure", "open_closed", "print_failure"]

OURS = ("adapters", "flows", "pipelines", "psc_volumetric")
log = logging.getLogger(__name__)

_CONTROL = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n"}


def log_failure(failure: Failure, notes: Sequence[str] = (), **more: str) -> None:
    """The event ``error``, in the place of lines for people."""
    private = {"message": failure.message, "hint": failure.hint, "notes": list(notes), **more}
    tell(
        log,
        "error",
        level=logging.ERROR,
        private=private,
        kind=failure.kind,
        exit_code=failure.code,
    )


def print_failure(failure: Failure, notes: Sequence[str], *, as_json: bool) -> None:
    """Two lines (and any notes) on stderr; with ``as_json`` the one document on stdout."""
    for line in [*failure.lines(), *(f"note: {note}" for note in notes)]:
        _echo(line, err=True)
    if as_json:
        _print_document(failure)


def _print_document(failure: Failure) -> None:
    with suppress(OSError):  # stdout may be what failed, and stderr has said so
        typer.echo(json.dumps(failure.document(), indent=1))


def _is_for_people(record: logging.LogRecord) -> bool:
    """Events are for programs: commands tell people by lines of their own."""
    return not hasattr(record, "told")


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _echo(line: str, *, err: bool = False) -> None:
    """Print a line; bytes of file names that are no text become question marks.

    What a terminal would obey is written out: names and texts may be from anybody. Where stderr
    takes nothing, the exit code says what there is to say.
    """
    with suppress(OSError) if err else nullcontext():
        typer.echo(line.translate(_CONTROL).encode("utf-8", "replace").decode(), err=err)


def _finite(value: Any) -> Any:
    """Copy with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_closed() -> None:
    """Have the null device stand where a standard stream was closed (``>&-``, some services).

    The next file that is opened would have its number, and get what is meant for the stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def drop_unwritten() -> None:
    """Leave out what stdout does not take: the interpreter would fail over it at its end.

    What could not be written has been said by then: a full disk as an error, a reader that went
    away not at all.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Session:
    """Context of one command.

    Parameters
    ----------
    as_json : bool
        Print one JSON document on stdout and nothing else there.
    quiet : bool
        Print nothing but errors.
    debug : bool
        Show the traceback of an error as well.
    log_lines : JsonLines, optional
        Write nothing but lines of this formatter on stderr, of level INFO and above.

    Notes
    -----
    Every exception that leaves the block ends the program with its exit code; only requests to
    exit, which carry their own code, pass through. SIGTERM and SIGHUP are exceptions within it.
    """

    def __init__(
        self, *, as_json: bool, quiet: bool, debug: bool, log_lines: JsonLines | None = None
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self.log_lines = log_lines
        self._signals = stoppable()
        self._handlers: list[logging.Handler] = []

    @property
    def shows_progress(self) -> bool:
        """Whether progress bars are welcome."""
        return not (self.as_json or self.quiet or self.log_lines)

    def __enter__(self) -> Session:
        level = logging.ERROR if self.log_lines is None else logging.INFO
        if self.log_lines is None:
            handler = logging.StreamHandler(sys.stderr)
            handler.addFilter(_is_for_people)
            form = "%(name)s: %(message)s"
            logging.basicConfig(level=level, handlers=[handler], format=form)
        else:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(self.log_lines)
            root = logging.getLogger()
            self._handlers, root.handlers = root.handlers, [handler]
            root.setLevel(logging.WARNING)
        for name in OURS:
            logging.getLogger(name).setLevel(logging.DEBUG if self.debug else level)
        if not self.debug:
            warnings.simplefilter("ignore")
        self._signals.__enter__()
        return self

    def result(self, document: Any, lines: Callable[[], Sequence[str]]) -> None:
        """Print the result, as JSON or as lines for people."""
        if self.as_json:
            typer.echo(json.dumps(_finite(document), indent=1, allow_nan=False))
        elif not self.quiet:
            for line in lines():
                _echo(line)

    def failures(self, lines: Sequence[str], *, code: int | None = None) -> None:
        """Say on stderr what was not done, and end the command with the code for that, if any.

        Log lines have said so before.
        """
        for line in lines if self.log_lines is None else ():
            _echo(line, err=True)
        if lines:
            raise typer.Exit(EXIT_INCOMPLETE if code is None else code)

    def note(self, text: str) -> None:
        """Say something on stderr that is not part of the result."""
        if self.shows_progress:
            _echo(text, err=True)

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._signals.__exit__(None, None, None)
        try:
            self._tell(error)
        finally:
            if self.log_lines is not None:
                logging.getLogger().handlers = self._handlers

    def _tell(self, error: BaseException | None) -> None:
        """Say what ended the command, and end the program with the code for that."""
        if error is None or isinstance(error, (typer.Exit, SystemExit)):
            return
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(EXIT_OK) from None
        failure, notes = describe_failure(error), getattr(error, "__notes__", ())
        if self.log_lines is not None:
            more = {"traceback": _traceback(error)} if self.debug else {}
            log_failure(failure, notes, **more)
            if self.as_json:
                _print_document(failure)
        else:
            if self.debug:
                with suppress(OSError):
                    sys.stderr.write(_traceback(error))
            print_failure(failure, notes, as_json=self.as_json)
        raise typer.Exit(failure.code) from None
