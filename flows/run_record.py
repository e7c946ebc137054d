"""What a run of a flow did, for the event log, for Prometheus and for the log of this machine.

Prefect hears nothing of it; `flows.telling` tells Prefect.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.exceptions import TerminationSignal

from flows.records import ArchivesFailedError, FolderReport, Intake, ItemOutcome, ItemsFailedError
from pipelines.archiving.options import ArchiveOptions
from pipelines.checking.event_log import EventLog
from pipelines.checking.runs import Run
from pipelines.commands.failures import EXIT_DAMAGE, EXIT_INCOMPLETE, EXIT_TERMINATED
from pipelines.commands.run_record import Recorded
from pipelines.log_lines import tell

__all__ = ["count_items", "recorded", "run_details", "tell_item"]

log = logging.getLogger(__name__)


@contextmanager
def recorded(
    command: str, target: str, event_log: EventLog | None, metrics: str | None
) -> Iterator[Run]:
    """Write down how the block ends, see `pipelines.commands.run_record.Recorded`."""
    path = None if metrics is None else Path(metrics)
    with Recorded(command, target, event_log=event_log, metrics=path) as run:
        try:
            yield run
        except ItemsFailedError:
            run.exit_code = EXIT_INCOMPLETE
            raise
        except TerminationSignal:  # what Prefect makes of SIGTERM
            run.exit_code, run.error_kind = EXIT_TERMINATED, "stopped"
            raise
        except ArchivesFailedError as error:
            run.exit_code = EXIT_DAMAGE if error.kind == "damage-found" else EXIT_INCOMPLETE
            raise


def run_details(
    source: str, options: ArchiveOptions, intake: Intake, stamp: str | None
) -> dict[str, Any]:
    """What `psc-archive status` needs to find what is missing; nothing where names are secret."""
    details: dict[str, Any] = {**options.logged(), "quiet_s": intake.quiet_s}
    if stamp is not None:
        details["deidentified"] = stamp
    return details if intake.pseudonyms is not None else {**details, "source": source}


def count_items(run: Run, report: FolderReport) -> None:
    """Count how the items of a folder ended."""
    run.counts = {
        "archived": report.count("archived"),
        "already": report.count("already-archived"),
        "failed": report.count("failed"),
        "aside": report.count("aside"),
        "waiting": report.waiting,
    }
    made = [item.report for item in report.items if item.report is not None]
    run.amounts = {
        "source_bytes": sum(one.source_bytes for one in made),
        "archive_bytes": sum(one.archive_bytes for one in made),
    }


def tell_item(item: ItemOutcome) -> None:
    """Log how an item ended, on this machine: the event ``item``."""
    made = item.report
    tell(
        log,
        "item",
        level=logging.ERROR if item.status == "failed" else logging.INFO,
        private={"paths": list(item.paths), "archive": item.target, "message": item.error},
        number=item.number,
        kind=item.kind,
        state=item.status,
        error=item.error_kind,
        source_bytes=None if made is None else made.source_bytes,
        archive_bytes=None if made is None else made.archive_bytes,
        bricks=None if made is None else made.bricks,
        seconds=None if made is None else round(made.seconds, 3),
    )
