"""Completion by the shell: ``--install-completion`` and ``--show-completion``."""

from __future__ import annotations

import os
from pathlib import Path

from psc_volumetric.errors import ParameterError

__all__ = ["PROGRAM", "install_completion", "prepare_completion", "show_completion"]

PROGRAM = "psc-archive"
VARIABLE = "_PSC_ARCHIVE_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


def prepare_completion() -> None:
    """Let this process answer the shell that asks how a command line may go on, if one does."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def install_completion() -> str:
    """Install completion for the shell this was started from; says where.

    Raises
    ------
    ParameterError : it is none of those that can complete (kind ``"unknown-shell"``).
    """
    from typer.completion import install  # type: ignore[attr-defined]

    shell, path = install(shell=_shell(), prog_name=PROGRAM, complete_var=VARIABLE)
    return f"completion for {shell} is in {path}; shells started from now on have it"


def show_completion() -> str:
    """The script for the shell this was started from; errors as `install_completion`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=_shell())


def _shell() -> str:
    """The nearest shell among the parents of this process, else that of ``$SHELL``."""
    import shellingham

    named = Path(os.environ.get("SHELL", "")).name
    try:
        found = shellingham.detect_shell()[0]
    except (shellingham.ShellDetectionFailure, OSError):
        found = named
    for name in (found, named):
        if name in SHELLS:
            return str(name)
    raise ParameterError(
        f"expected one of the shells {', '.join(SHELLS)}, found {found or 'none'!r}",
        kind="unknown-shell",
        hint="say which one it is: SHELL=bash psc-archive --show-completion",
    )
