"""The retention flow: archives that were kept long enough are listed, and removed when told so.

The same without Prefect: `pipelines.checking.retention`.
"""

# No `from __future__ import annotations` here: see flows/archive.py.
from prefect import flow, get_run_logger

from flows.lost_runs import mark_lost_runs
from flows.records import ArchiveOutcome, ArchivesFailedError
from flows.tasks import ToldByNumber
from flows.telling import NamesFile, publish, tell_failure
from pipelines.archiving.locking import hold
from pipelines.checking.event_log import EventLog
from pipelines.checking.retention import Aged, aged_archives, remove_archive
from psc_volumetric.errors import PscError

__all__ = ["retain_archives"]

NAME = "retain-archives"


@flow(name=NAME, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure])
def retain_archives(
    archives: str,
    keep_days: float,
    delete: bool = False,
    event_log: str | None = None,
    notify: str | None = None,
) -> tuple[ArchiveOutcome, ...]:
    """List the archives that are past their date; with `delete`, remove them.

    Parameters
    ----------
    archives : str
        Folder of archives on a disk that the flow reaches.
    keep_days : float
        How long archives are kept, in days since their creation.
    delete : bool
        Remove what is past its date. Without it nothing is ever removed.
    event_log : str, optional
        File that removals are written into; by default it stands beside the folder.
    notify : str, optional
        Block that hears of failures, see `flows.telling.tell_failure`.

    Returns
    -------
    tuple of ArchiveOutcome
        Status ``"kept"``, ``"past"``, ``"removed"``, ``"unknown"`` (no date can be read: kept) or
        ``"failed"``; oldest first.

    Raises
    ------
    ArchivesFailedError
        Kind ``"not-removed"``.
    ParameterError, StorageError
        As `pipelines.checking.retention.aged_archives`; another run works on the folder.
    """
    log = EventLog.of(archives, event_log)
    with hold(archives):
        mark_lost_runs(NAME, archives=archives)
        with ToldByNumber(0):
            found = list(enumerate(aged_archives(archives, keep_days), start=1))
        names = NamesFile.of_this_run(archives)
        outcomes = [_outcome(number, aged) for number, aged in found]
        names.write(outcome.row_with_names() for outcome in outcomes)
        if delete:
            outcomes = [
                _removed(outcome, aged, log) if aged.past else outcome
                for outcome, (_, aged) in zip(outcomes, found, strict=True)
            ]
            names.write(outcome.row_with_names() for outcome in outcomes)
        get_run_logger().info("%d archives", len(outcomes))
        _publish(outcomes, names)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise ArchivesFailedError(tuple(outcomes), "not-removed")
    return tuple(outcomes)


def _outcome(number: int, aged: Aged) -> ArchiveOutcome:
    status = "unknown" if aged.due is None else "past" if aged.past else "kept"
    numbers = {"created": aged.created, "due": aged.due, "bytes": aged.nbytes}
    return ArchiveOutcome(number, aged.archive, status, {**numbers, "problem": aged.problem})


def _removed(outcome: ArchiveOutcome, aged: Aged, log: EventLog) -> ArchiveOutcome:
    try:
        remove_archive(aged, log)
    except PscError as error:
        return ArchiveOutcome(
            outcome.number, aged.archive, "failed", outcome.numbers, error.kind, str(error)
        )
    return ArchiveOutcome(outcome.number, aged.archive, "removed", outcome.numbers)


def _publish(outcomes: list[ArchiveOutcome], names: NamesFile) -> None:
    words = ("kept", "past", "removed", "unknown", "failed")
    totals = {word: sum(outcome.status == word for outcome in outcomes) for word in words}
    due = sum(
        int(outcome.numbers["bytes"] or 0) for outcome in outcomes if outcome.status == "past"
    )
    title = f"{totals['past']} archives past their date, {totals['removed']} removed"
    kinds = [outcome.error_kind for outcome in outcomes if outcome.error_kind]
    rows = [outcome.row() for outcome in outcomes]
    publish("psc-retention", title, {**totals, "bytes past their date": due}, kinds, rows, names)
