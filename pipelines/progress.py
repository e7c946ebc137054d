"""Progress of long work: silent for programs and pipes, bars on stderr for people."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress", "Silent", "progress_bars"]


class Progress(Protocol):
    """Where a pipeline reports how far it is."""

    def begin(self, title: str, total: int) -> None:
        """Start a piece of work of `total` steps; ends the piece before."""
        ...

    def advance(self, count: int = 1) -> None:
        """Report `count` more steps done."""
        ...


class Silent:
    """Reports nothing."""

    def begin(self, title: str, total: int) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""


class _Bars:
    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, title: str, total: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(title, total=total)

    def advance(self, count: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, count)


@contextlib.contextmanager
def progress_bars(*, enabled: bool) -> Iterator[Progress]:
    """Bars on stderr when enabled and stderr is a terminal, else nothing.

    Yields
    ------
    Progress
    """
    if not (enabled and sys.stderr.isatty()):
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)
