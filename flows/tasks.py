"""Tasks of the archive flow: each calls a function of `pipelines` and hands back a small record.

They live in this module, never in ``__main__``, because Dask workers import them by name. Nothing
is cached by Prefect: what is done is written in the unsealed archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from adapters import isolation
from flows.records import Found, ItemRequest, ItemTaskError, ItemWork
from pipelines.archiving.archive import (
    ArchiveOptions,
    BrickJob,
    BrickResult,
    ItemReport,
    begin,
    encode_brick_job,
    finish,
)
from pipelines.archiving.item_report import ITEM_ERRORS, holds_data
from pipelines.archiving.known_sources import KnownSources
from pipelines.archiving.plan import ItemPlan, KnownItem, plan_named
from pipelines.archiving.pseudonyms import Pseudonyms
from pipelines.archiving.targets import SAME, namings

__all__ = ["begin_item", "encode_brick", "find_items", "seal_item", "worth_retrying"]

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 2
RETRY_DELAY_S = 2.0


def worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failed task may succeed when tried again: not after a lasting `ItemTaskError`."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, ItemTaskError) and error.lasting)


def _retried(run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task that is tried again when that may help; Prefect keeps nothing it returns."""
    return task(
        task_run_name=run_name,
        retries=RETRIES,
        retry_delay_seconds=RETRY_DELAY_S,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@contextmanager
def told_by_number(number: int) -> Iterator[None]:
    """Turn expected errors into `ItemTaskError`, whose message names no file."""
    try:
        yield
    except ITEM_ERRORS as error:
        raise ItemTaskError.of(number, error) from None


@_retried("find-items")
def find_items(source: str, target: str, pseudonyms: str | None = None) -> Found:
    """Find what can be archived in a folder and name an archive for each item.

    Raises
    ------
    ItemTaskError : the folder is not there, or holds nothing that can be archived.
    """
    with told_by_number(0):
        found = isolation.discover(Path(source), keep=True)
        namer = None if pseudonyms is None else Pseudonyms.load(Path(pseudonyms)).assign
        names = namings(found.candidates, target, namer)
        requests = tuple(
            ItemRequest(number, candidate, naming)
            for number, (candidate, naming) in enumerate(
                zip(found.candidates, names, strict=True), start=1
            )
        )
    failed = tuple(entry for entry in found.skipped if holds_data(entry))
    return Found(requests, failed, len(found.skipped) - len(failed))


@_retried("begin-item-{request.number}")
def begin_item(request: ItemRequest, options: ArchiveOptions) -> ItemWork:
    """Plan one item and begin or continue its archive.

    Raises
    ------
    ItemTaskError : the source is refused, the prior is missing, or something else is at the target.
    """
    with told_by_number(request.number):
        index = KnownSources.load(request.naming.target, is_folder=True)
        plan = plan_named(request.candidate, request.naming, options, index)
        if isinstance(plan, KnownItem):
            return ItemWork(None, ())
        if plan.state == SAME:
            index.add(plan.seen, plan.target)
            return ItemWork(None, ())
        return ItemWork(plan, begin(plan))


@_retried("item-{number}-brick-{job.position}")
def encode_brick(number: int, job: BrickJob) -> BrickResult:
    """Encode and store one brick. Needs a slot: memory and device are the brick's while it runs.

    Raises
    ------
    ItemTaskError : source, prior or store failed.
    """
    with told_by_number(number):
        return encode_brick_job(job)


@_retried("seal-item-{number}")
def seal_item(number: int, folder: str, plan: ItemPlan, resumed: int, seconds: float) -> ItemReport:
    """Write source, prior, tables, preview and manifest of an item whose bricks are all stored.

    Raises
    ------
    ItemTaskError : a brick is missing, or the store failed.
    """
    with told_by_number(number):
        report = finish(plan, resumed=resumed, seconds=seconds)
        KnownSources.load(folder, is_folder=True).add(plan.seen, plan.target)
        return report
