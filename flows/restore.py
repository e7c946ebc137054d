"""The restore flow: archives of a folder, all or those on a list, become source files again.

The same without Prefect and Dask: ``psc-archive restore``, archive by archive.
"""

# No `from __future__ import annotations` here: see flows/archive.py.
from pathlib import Path

from prefect import flow, get_run_logger

from flows.cluster import SLOT, Call, Workers, started
from flows.lost_runs import mark_lost_runs
from flows.records import ArchiveOutcome, ArchivesFailedError, ItemTaskError
from flows.stages import Stages, work_through
from flows.tasks import ToldByNumber, restore_archive
from flows.telling import NamesFile, publish, tell_failure
from pipelines.archiving.locking import hold
from pipelines.restoring.folder import Restoration, restorations
from pipelines.restoring.restore import RestoreOptions

__all__ = ["restore_archives"]

NAME = "restore-archives"


@flow(name=NAME, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure])
def restore_archives(
    archives: str,
    target: str,
    options: RestoreOptions = RestoreOptions(),
    wanted: str | None = None,
    workers: Workers = Workers(),
    notify: str | None = None,
) -> tuple[ArchiveOutcome, ...]:
    """Restore archives, each into a folder of its own below the target.

    Parameters
    ----------
    archives : str
        Folder of archives, or one archive, that flow and workers reach by this path.
    target : str
        Folder on a disk that flow and workers reach.
    options : RestoreOptions
        Region, level, variables.
    wanted : str, optional
        Text file that lists the archives, see `pipelines.restoring.folder.restorations`. Names
        stand there because Prefect keeps the parameters.
    workers : Workers
    notify : str, optional
        Block that hears of failures, see `flows.telling.tell_failure`.

    Returns
    -------
    tuple of ArchiveOutcome
        Status ``"restored"``, ``"restored-before"`` or ``"failed"``.

    Raises
    ------
    ArchivesFailedError
        Kind ``"not-restored"``, after all archives were tried; ``"damage-found"``: all were, and
        values that could not be read were filled.
    ItemTaskError
        There is no archive, or the list is wrong.
    ParameterError, StorageError
        As `flows.archive.archive_folder`.
    """
    with hold(target):
        mark_lost_runs(NAME, target=target)
        with ToldByNumber(0):
            found = restorations(archives, Path(target), None if wanted is None else Path(wanted))
        names = NamesFile.of_this_run(target)
        numbered = list(enumerate(found, start=1))
        names.write({"item": n, "archive": one.archive, "to": one.target} for n, one in numbered)
        get_run_logger().info("%d archives", len(found))
        with started(workers) as cluster:
            outcomes = work_through(cluster, (_stages(n, one, options) for n, one in numbered))
        names.write(outcome.row_with_names() for outcome in outcomes)
        _publish(outcomes, names)
    if any(outcome.error_kind for outcome in outcomes):
        failed = any(outcome.status == "failed" for outcome in outcomes)
        raise ArchivesFailedError(tuple(outcomes), "not-restored" if failed else "damage-found")
    return tuple(outcomes)


def _stages(number: int, one: Restoration, options: RestoreOptions) -> Stages[ArchiveOutcome]:
    parameters = {"number": number, "one": one, "options": options}
    try:
        (report,) = yield [Call(restore_archive, parameters, (SLOT,))]
    except ItemTaskError as error:
        return ArchiveOutcome(
            number, one.archive, "failed", error_kind=error.kind, error=error.detail
        )
    if report is None:
        return ArchiveOutcome(number, one.archive, "restored-before")
    numbers: dict[str, int | float | str | None] = {
        "files": len(report.files),
        "lossless": "yes" if report.lossless else "no",
    }
    if report.damage:
        first = report.damage.findings[0]
        numbers["lost tiles"] = len(report.damage.findings)
        return ArchiveOutcome(
            number, one.archive, "restored", numbers, first.kind, f"{first.place}: {first.message}"
        )
    return ArchiveOutcome(number, one.archive, "restored", numbers)


def _publish(outcomes: list[ArchiveOutcome], names: NamesFile) -> None:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    totals = {
        "archives": len(outcomes),
        "restored": sum(outcome.status == "restored" for outcome in outcomes),
        "restored before": sum(outcome.status == "restored-before" for outcome in outcomes),
        "failed": len(failed),
    }
    title = f"{totals['restored']} restored, {len(failed)} failed of {len(outcomes)} archives"
    kinds = [outcome.error_kind for outcome in outcomes if outcome.error_kind]
    publish("psc-restore", title, totals, kinds, [outcome.row() for outcome in outcomes], names)
