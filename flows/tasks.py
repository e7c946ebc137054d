"""Tasks of the flows: each calls a function of `pipelines` and hands back a small record.

They live in this module, never in ``__main__``, because Dask workers import them by name. Nothing
is cached by Prefect: what is done is written in the unsealed archive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.tasks import exponential_backoff

from adapters import isolation
from flows.records import Found, Intake, ItemRequest, ItemTaskError, ItemWork
from pipelines.archiving.archive import ArchiveOptions, BrickJob, ItemReport, begin, finish
from pipelines.archiving.arrivals import finish_moves, is_quiet
from pipelines.archiving.bricks import BrickResult, encode_brick_job, stored_brick
from pipelines.archiving.item_report import holds_data
from pipelines.archiving.known_sources import KnownSources
from pipelines.archiving.plan import ItemPlan, plan_named
from pipelines.archiving.planned import KnownItem, seen_of
from pipelines.archiving.pseudonyms import Pseudonyms
from pipelines.archiving.refused import RefusedSources
from pipelines.archiving.targets import SAME, namings
from pipelines.checking.scrub import ScrubOptions, scrub_archive
from pipelines.checking.verify import VerifyReport
from pipelines.reporting.page import page_name, report_page, write_page
from pipelines.restoring.folder import Restoration, restore_complete
from pipelines.restoring.restore import RestoreOptions, RestoreReport
from psc_volumetric.threads import at_most

__all__ = [
    "ToldByNumber",
    "begin_item",
    "check_archive",
    "encode_brick",
    "find_items",
    "restore_archive",
    "seal_item",
    "show_archive",
    "worth_retrying",
]

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 3
FIRST_DELAY_S = 2  # then 4, then 8, each up to half longer


def worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failed task may succeed when tried again: not after a lasting `ItemTaskError`."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, ItemTaskError) and error.lasting)


def _retried(run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task that is tried again when that may help; Prefect keeps nothing it returns.

    The tag is that of the kind of task: ``prefect concurrency-limit create psc-brick 8`` lets at
    most eight bricks run over all flows.
    """
    tag = f"psc-{run_name.partition('-{')[0]}"
    return task(
        task_run_name=run_name,
        tags=[tag],
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY_S),
        retry_jitter_factor=0.5,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


class ToldByNumber:
    """Turn every error into an `ItemTaskError`, whose message names no file.

    What a library says of an error that nobody foresaw may hold a path too. Number 0 stands for the
    run as a whole, which no names file tells of: the log of this machine does.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """Tell the error by number."""
        if isinstance(error, Exception):
            if not self._number:
                log.error("%s", error)
            raise ItemTaskError.of(self._number, error) from None


@_retried("find")
def find_items(
    source: str, target: str, options: ArchiveOptions, intake: Intake, stamp: str | None = None
) -> Found:
    """Find what can be archived in a folder and name an archive for each item.

    Runs in the process of the flow, whose user has the index of known sources. `stamp` says how
    the items will be de-identified. What an earlier run was moving away when it ended is moved
    first: the rest of a series is no series.

    Raises
    ------
    ItemTaskError : the folder is not there, or that rest cannot be moved.
    """
    with ToldByNumber(0):
        if intake.move_to is not None:
            finish_moves(Path(source), Path(intake.move_to))
        found = isolation.look(Path(source), keep=True)
        quiet = [c for c in found.candidates if is_quiet(c.paths, intake.quiet_s)]
        skipped = [entry for entry in found.skipped if is_quiet([entry.path], intake.quiet_s)]
        keyfile = None if intake.pseudonyms is None else Path(intake.pseudonyms)
        refused = RefusedSources.load(target, keyfile, retry=intake.retry_refused)
        told, aside = refused.sort_out(skipped)
        before = [refused.pass_over(seen_of(candidate, options, stamp)) for candidate in quiet]
        aside += [row for row in before if row is not None]
        fresh = [c for c, row in zip(quiet, before, strict=True) if row is None]
        namer = None if keyfile is None else Pseudonyms.load(keyfile).assign
        names = namings(fresh, target, namer)
        index = KnownSources.load(target, is_folder=True)
        requests = tuple(
            ItemRequest(number, one, naming, index.find(seen_of(one, options, stamp)))
            for number, (one, naming) in enumerate(zip(fresh, names, strict=True), start=1)
        )
    failed = tuple(entry for entry in told if holds_data(entry))
    waiting = len(found.candidates) - len(quiet) + len(found.skipped) - len(skipped)
    return Found(requests, failed, tuple(aside), len(told) - len(failed), waiting)


@_retried("begin-{request.number}")
def begin_item(request: ItemRequest, options: ArchiveOptions) -> ItemWork:
    """Plan one item and begin or continue its archive.

    Raises
    ------
    ItemTaskError : the source is refused, the prior is missing, or something else is at the target.
    """
    with ToldByNumber(request.number):
        nothing_known = KnownSources(None, {})
        plan = plan_named(request.candidate, request.naming, options, nothing_known)
        if isinstance(plan, KnownItem):
            return ItemWork(plan.target, None, ())
        if plan.state == SAME:
            return ItemWork(plan.target, None, ())
        return ItemWork(plan.target, plan, begin(plan))


@_retried("brick-{number}-{job.position}")
def encode_brick(number: int, job: BrickJob) -> BrickResult:
    """Encode and store one brick, unless it is stored: its worker may have been lost since.

    Needs a slot: memory, core and device are the brick's while it runs.

    Raises
    ------
    ItemTaskError : source, prior or store failed.
    """
    with ToldByNumber(number), at_most(1):
        return stored_brick(job) or encode_brick_job(job)


@_retried("seal-{number}")
def seal_item(number: int, plan: ItemPlan, resumed: int, seconds: float) -> ItemReport:
    """Prove and seal an item whose bricks are all stored.

    Raises
    ------
    ItemTaskError : a brick is missing, the proof failed, or the store did.
    """
    with ToldByNumber(number):
        return finish(plan, resumed=resumed, seconds=seconds)


@_retried("check-{number}")
def check_archive(number: int, archive: str, options: ScrubOptions) -> VerifyReport:
    """Read an archive again and compare it with its manifest; damage is no error here."""
    with ToldByNumber(number):
        return scrub_archive(archive, options)


@_retried("page-{number}")
def show_archive(number: int, archive: str, paths: Sequence[str], folder: str) -> None:
    """Write the page about an archive, its errors counted against its source of one file."""
    with ToldByNumber(number):
        source = Path(paths[0]) if len(paths) == 1 else None
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_page(report_page(archive, source), Path(folder) / page_name(archive))


@_retried("restore-{number}")
def restore_archive(number: int, one: Restoration, options: RestoreOptions) -> RestoreReport | None:
    """Write the source format of one archive again; None when that was done before.

    Raises
    ------
    ItemTaskError : damage, or the target cannot be written.
    """
    with ToldByNumber(number):
        return restore_complete(one, options)
