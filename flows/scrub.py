"""The scrub flow: a folder of archives is read again and compared with its manifests.

The same without Prefect and Dask: `pipelines.checking.scrub.scrub`.
"""

# No `from __future__ import annotations` here: see flows/archive.py.
import time
from collections import Counter

from prefect import flow, get_run_logger

from flows.cluster import SLOT, Call, Cluster, Workers, started
from flows.lost_runs import mark_lost_runs
from flows.records import ArchiveOutcome, ArchivesFailedError, ItemTaskError
from flows.run_record import recorded
from flows.stages import Stages, work_through
from flows.tasks import ToldByNumber, check_archive
from flows.telling import NamesFile, publish, tell_failure
from pipelines.archiving.locking import hold
from pipelines.checking.event_log import EventLog
from pipelines.checking.scrub import ScrubOptions, archives_to_scrub, log_scrub

__all__ = ["scrub_archives"]

NAME = "scrub-archives"


@flow(name=NAME, persist_result=False, on_failure=[tell_failure], on_crashed=[tell_failure])
def scrub_archives(
    archives: str,
    options: ScrubOptions = ScrubOptions(),
    event_log: str | None = None,
    workers: Workers = Workers(),
    notify: str | None = None,
    metrics: str | None = None,
) -> tuple[ArchiveOutcome, ...]:
    """Check archives for damage and write each check into the event log.

    Parameters
    ----------
    archives : str
        Folder of archives, or one archive, that flow and workers reach by this path.
    options : ScrubOptions
        How deep, which share, which part.
    event_log : str, optional
        File for the log; by default it stands beside the folder.
    workers : Workers
    notify : str, optional
        Block that hears of failures, see `flows.telling.tell_failure`.
    metrics : str, optional
        File that gets the Prometheus text of the run.

    Returns
    -------
    tuple of ArchiveOutcome

    Raises
    ------
    ArchivesFailedError
        After all archives were checked. Kind ``"damage-found"``; ``"not-checked"`` where nothing
        is damaged, and something could not be checked here.
    ItemTaskError
        There is no archive.
    ParameterError, StorageError
        As `flows.archive.archive_folder`.
    """
    log = EventLog.of(archives, event_log)
    lock = f"{archives.rstrip('/')}.scrub"
    with recorded("scrub", archives, None, metrics) as run, hold(lock):
        if "://" not in archives:
            mark_lost_runs(NAME, archives=archives)
        with ToldByNumber(0):
            found = archives_to_scrub(archives, options)
        names = NamesFile.of_this_run(archives)
        names.write({"item": n, "archive": path} for n, path in enumerate(found, start=1))
        get_run_logger().info("%d archives", len(found))
        outcomes: list[ArchiveOutcome] = []
        if found:
            with started(workers) as cluster:
                outcomes = _checked(cluster, found, options, log)
        names.write(outcome.row_with_names() for outcome in outcomes)
        _publish(outcomes, names)
        run.counts = dict.fromkeys(("ok", "damaged", "not-checked"), 0)
        run.counts |= Counter(outcome.status for outcome in outcomes)
        if any(outcome.status != "ok" for outcome in outcomes):
            kind = "damage-found" if run.counts["damaged"] else "not-checked"
            raise ArchivesFailedError(tuple(outcomes), kind)
    return tuple(outcomes)


def _checked(
    cluster: Cluster, found: list[str], options: ScrubOptions, log: EventLog
) -> list[ArchiveOutcome]:
    stages = (_stages(n, path, options, log) for n, path in enumerate(found, start=1))
    return work_through(cluster, stages)


def _stages(
    number: int, archive: str, options: ScrubOptions, log: EventLog
) -> Stages[ArchiveOutcome]:
    begin = time.perf_counter()
    parameters = {"number": number, "archive": archive, "options": options}
    try:
        (report,) = yield [Call(check_archive, parameters, (SLOT,))]
    except ItemTaskError as error:
        log.add("scrub", archive, "not-checked", error=error.kind, why=error.detail)
        return ArchiveOutcome(
            number, archive, "not-checked", error_kind=error.kind, error=error.detail
        )
    seconds = time.perf_counter() - begin
    log_scrub(log, report, options, seconds=seconds)
    numbers = {"seconds": seconds, "problems": len(report.findings), **report.checked}
    if report.outcome == "ok":
        return ArchiveOutcome(number, archive, "ok", numbers)
    lacking = report.not_decoded
    if not report.findings and lacking is not None:
        said = (lacking.kind, lacking.message)
        return ArchiveOutcome(number, archive, "not-checked", numbers, *said)
    first = report.findings[0]
    return ArchiveOutcome(number, archive, "damaged", numbers, first.kind, first.message)


def _publish(outcomes: list[ArchiveOutcome], names: NamesFile) -> None:
    bad = [outcome for outcome in outcomes if outcome.status != "ok"]
    totals = {"archives": len(outcomes), "with problems": len(bad)}
    title = f"{len(outcomes) - len(bad)} archives in order, {len(bad)} not"
    kinds = [outcome.error_kind or "" for outcome in bad]
    publish("psc-scrub", title, totals, kinds, [outcome.row() for outcome in outcomes], names)
