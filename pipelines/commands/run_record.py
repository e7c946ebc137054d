"""The frame around commands that run unattended: what they did is written down however they end."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from pipelines.checking.event_log import EventLog
from pipelines.checking.runs import DAMAGED, FAILED, INCOMPLETE, OK, Run
from pipelines.commands.failures import EXIT_DAMAGE, EXIT_INCOMPLETE, EXIT_OK, describe_failure
from pipelines.log_lines import tell
from psc_volumetric.archive.stores import target_text
from psc_volumetric.errors import StorageError

__all__ = ["Recorded"]

log = logging.getLogger(__name__)
_OUTCOMES = {EXIT_OK: OK, EXIT_INCOMPLETE: INCOMPLETE, EXIT_DAMAGE: DAMAGED}


class Recorded:
    """Context of a command, within its `Session`: logs begin and end, and records the run.

    Parameters
    ----------
    command, target : str
    event_log : EventLog or None
        Gets one line at the end.
    metrics : Path or None
        Prometheus text that is replaced at the end.
    """

    def __init__(
        self, command: str, target: str, *, event_log: EventLog | None, metrics: Path | None
    ) -> None:
        self.run = Run(command, target)
        self._event_log = event_log
        self._metrics = metrics

    def __enter__(self) -> Run:
        where = {"target": target_text(self.run.target)}
        tell(log, "run-begin", command=self.run.command, private=where)
        return self.run

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """Write down how it ended; a failure to do so hides no other error."""
        code, kind = self.run.exit_code, self.run.error_kind
        if isinstance(error, typer.Exit):
            code = error.exit_code
        elif error is not None and code == EXIT_OK:
            failure = describe_failure(error)
            code, kind = failure.code, failure.kind
        outcome = _OUTCOMES.get(code, FAILED)
        numbers: dict[str, Any] = {**self.run.counts, **self.run.amounts}
        tell(
            log,
            "run-end",
            command=self.run.command,
            outcome=outcome,
            exit_code=code,
            error=kind,
            seconds=round(time.time() - self.run.began, 3),
            **numbers,
        )
        try:
            self.run.record(
                self._event_log, self._metrics, exit_code=code, outcome=outcome, error_kind=kind
            )
        except StorageError as unwritten:
            if error is None or isinstance(error, typer.Exit):
                raise
            error.add_note(str(unwritten))
