"""The archive flow: every item of a folder becomes a sealed archive, with bricks as Dask tasks.

The same archives come from ``psc-archive archive SOURCE TARGET``, without Prefect or Dask. Resume
is the archive's own: run the flow again after a crash and it does the bricks that are missing.
"""

# No `from __future__ import annotations` here: Prefect also loads a flow by the path of its file,
# and cannot look up annotations that are words.
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from dask.base import annotate
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect_dask.task_runners import DaskTaskRunner

from flows.dask_setup import SLOT, check_cluster, slot_cluster
from flows.records import (
    FolderReport,
    ItemOutcome,
    ItemRequest,
    ItemsFailedError,
    ItemTaskError,
    ItemWork,
)
from flows.tasks import begin_item, encode_brick, find_items, seal_item
from pipelines.archiving.archive import ArchiveOptions, BrickResult, ItemReport, resumed_bricks
from pipelines.archiving.locking import hold
from pipelines.archiving.targets import is_archive_name
from psc_volumetric.errors import ParameterError

__all__ = ["archive_folder"]

T = TypeVar("T")

log = logging.getLogger(__name__)


@flow(
    name="archive-folder",
    task_runner=DaskTaskRunner(cluster_class=slot_cluster),  # type: ignore[arg-type]
    persist_result=False,
)
def archive_folder(
    source: str,
    target: str,
    options: ArchiveOptions,
    slot_timeout_s: float = 60.0,
    pseudonyms: str | None = None,
) -> FolderReport:
    """Archive every item of a folder.

    Parameters
    ----------
    source : str
        Folder (or file) that all workers reach by this path.
    target : str
        Folder or URL that gets one archive for each item.
    options : ArchiveOptions
    slot_timeout_s : float
        How long to wait for a worker that offers a slot, in seconds.
    pseudonyms : str, optional
        Key file: archives are named by a keyed hash, see `pipelines.archiving.pseudonyms`.

    Returns
    -------
    FolderReport

    Raises
    ------
    ParameterError
        The target is one archive (kind ``target-not-a-folder``); the cluster is not fit (kinds of
        `flows.dask_setup.check_cluster`).
    ItemTaskError
        Nothing can be archived in `source`.
    ItemsFailedError
        After all items were tried: some have no sealed archive. Carries the report.

    Notes
    -----
    Prefect stores the parameters, so `source` and `target` should not name patients. Names of
    files and archives below them stay out of task names, messages and the artifact. To run on a
    cluster: ``archive_folder.with_options(task_runner=DaskTaskRunner(address=...))``.
    """
    if is_archive_name(target):
        raise ParameterError(
            "the target of a folder must be a folder, found the name of one archive",
            kind="target-not-a-folder",
            hint="name the folder that gets one archive for each item",
        )
    slots = check_cluster(_dask_client(), timeout_s=slot_timeout_s)
    with hold(target):
        return _archive_items(source, target, options, slots, pseudonyms)


def _archive_items(
    source: str, target: str, options: ArchiveOptions, slots: int, pseudonyms: str | None
) -> FolderReport:
    found = find_items.submit(source, target, pseudonyms).result()
    get_run_logger().info(
        "%d items, %d files skipped, %d slots", len(found.requests), found.skipped, slots
    )
    with _slot_for(options):
        started = [(request, begin_item.submit(request, options)) for request in found.requests]
    running = [(request, *_submit_bricks(request, begun)) for request, begun in started]
    outcomes = tuple(_settle(*item) for item in running)
    outcomes += tuple(
        ItemOutcome(number, "file", "failed", error=f"{entry.kind}: {entry.path}: {entry.reason}")
        for number, entry in enumerate(found.failed, start=len(outcomes) + 1)
    )
    report = FolderReport(outcomes, found.skipped)
    for outcome in outcomes:
        if outcome.error is not None:
            log.error("item %d: %s", outcome.number, outcome.error)  # stays on this machine
    _publish(report)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise ItemsFailedError(report)
    return report


def _dask_client() -> Any:
    context = FlowRunContext.get()
    if context is None or not isinstance(context.task_runner, DaskTaskRunner):
        raise ParameterError(
            "this flow needs a DaskTaskRunner, because bricks are admitted by Dask resources",
            kind="task-runner",
            hint="leave `task_runner` out, or give a DaskTaskRunner with the address of a cluster",
        )
    return context.task_runner.client


def _slot_for(options: ArchiveOptions) -> AbstractContextManager[Any]:
    """Slots for tasks that search a quantiser step, because they encode bricks themselves."""
    encodes = options.target is not None
    slot: AbstractContextManager[Any] = annotate(resources={SLOT: 1}) if encodes else nullcontext()
    return slot


def _submit_bricks(
    request: ItemRequest, begun: PrefectFuture[ItemWork]
) -> tuple[ItemWork | BaseException, list[PrefectFuture[BrickResult]]]:
    work = _result(begun)
    if isinstance(work, BaseException):
        return work, []
    with annotate(resources={SLOT: 1}):
        return work, [encode_brick.submit(request.number, job) for job in work.jobs]


def _settle(
    request: ItemRequest,
    work: ItemWork | BaseException,
    bricks: Sequence[PrefectFuture[BrickResult]],
) -> ItemOutcome:
    """Wait for the bricks of an item, then seal its archive."""
    number, kind = request.number, request.candidate.kind
    if isinstance(work, BaseException):
        return ItemOutcome(number, kind, "failed", error=_why(work))
    if work.plan is None:
        return ItemOutcome(number, kind, "already-archived")
    seconds = 0.0
    for brick in bricks:
        result = _result(brick)
        if isinstance(result, BaseException):
            return ItemOutcome(number, kind, "failed", error=_why(result))
        seconds += result.seconds
    resumed = resumed_bricks(work.plan, work.jobs)
    with _slot_for(work.plan.options):
        sealed = _result(
            seal_item.submit(number, request.naming.target, work.plan, resumed, seconds)
        )
    if isinstance(sealed, BaseException):
        return ItemOutcome(number, kind, "failed", error=_why(sealed))
    return ItemOutcome(number, kind, "archived", report=sealed)


def _result(future: PrefectFuture[T]) -> T | BaseException:
    """Result of a task, or the error it ended with."""
    result: T | BaseException = future.result(raise_on_failure=False)
    return result


def _why(error: BaseException) -> str:
    if isinstance(error, ItemTaskError):
        return f"{error.kind}: {error.detail}"
    return f"internal: {type(error).__name__}: {error}"


def _publish(report: FolderReport) -> None:
    """Leave a table with Prefect: numbers only, no names."""
    create_table_artifact(
        key="psc-archive-items",
        table=[_row(item) for item in report.items],
        description=f"{len(report.items)} items; {report.skipped} files skipped",
    )


def _row(item: ItemOutcome) -> dict[str, Any]:
    row: dict[str, Any] = {"item": item.number, "kind": item.kind, "status": item.status}
    report: ItemReport | None = item.report
    if report is not None:
        rows = report.variables
        row |= {
            "mode": ", ".join(sorted({kept["mode"] for kept in rows})),
            "largest error allowed": max(kept["max_error_allowed"] or 0 for kept in rows),
            "targets missed": sum(not (kept["target"] or {"met": True})["met"] for kept in rows),
            "bricks": report.bricks,
            "resumed": report.resumed,
            "source bytes": report.source_bytes,
            "archive bytes": report.archive_bytes,
            "brick seconds": round(report.seconds, 1),
        }
    return row
