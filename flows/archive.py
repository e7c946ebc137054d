"""The archive flow: what is new in a folder becomes sealed archives, with bricks as Dask tasks.

The same archives come from ``psc-archive archive SOURCE TARGET``, without Prefect or Dask. Resume
is the archive's own: run the flow again after a crash and it does the bricks that are missing.
"""

# No `from __future__ import annotations` here: Prefect also loads a flow by the path of its file,
# and cannot look up annotations that are words.
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from adapters.base import Candidate
from flows.cluster import GPU, SLOT, Call, Workers, started
from flows.lost_runs import mark_lost_runs
from flows.records import (
    FolderReport,
    Found,
    Intake,
    ItemOutcome,
    ItemRequest,
    ItemsFailedError,
    ItemTaskError,
    ItemWork,
)
from flows.run_record import count_items, recorded, run_details, tell_item
from flows.stages import Stages, work_through
from flows.tasks import (
    ToldByNumber,
    begin_item,
    check_archive,
    encode_brick,
    find_items,
    seal_item,
    show_archive,
)
from flows.telling import NamesFile, publish, tell_failure
from pipelines.archiving.archive import ArchiveOptions, ItemReport, resumed_bricks
from pipelines.archiving.arrivals import move_sources
from pipelines.archiving.deidentified import Deidentifier, deidentifying
from pipelines.archiving.item_report import ItemError
from pipelines.archiving.known_sources import KnownSources
from pipelines.archiving.locking import hold
from pipelines.archiving.planned import seen_of
from pipelines.archiving.pseudonyms import Pseudonyms
from pipelines.archiving.refused import RefusedSources
from pipelines.archiving.targets import is_archive_name
from pipelines.checking.event_log import EventLog
from pipelines.checking.scrub import ScrubOptions
from psc_volumetric import extras
from psc_volumetric.errors import ParameterError

__all__ = ["archive_folder"]

NAME = "archive-folder"


@flow(
    name=NAME,
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def archive_folder(
    source: str,
    target: str,
    options: ArchiveOptions = ArchiveOptions(),
    intake: Intake = Intake(),
    workers: Workers = Workers(),
    notify: str | None = None,
    event_log: str | None = None,
    metrics: str | None = None,
) -> FolderReport:
    """Archive every item of a folder that is not archived yet, and check the archives.

    Parameters
    ----------
    source : str
        Folder (or file) that flow and workers reach by this path.
    target : str
        Folder or URL that gets one archive for each item.
    options : ArchiveOptions
    intake : Intake
        What is taken, how archives are checked, where sources move.
    workers : Workers
        Dask scheduler, and patience. With ``device="cuda"`` bricks go to workers with `GPU`.
    notify : str, optional
        Block that hears of failures, see `flows.telling.tell_failure`.
    event_log : str, optional
        File that gets a line about the run; by default it stands beside a target that is a folder.
    metrics : str, optional
        File that gets the Prometheus text of the run.

    Returns
    -------
    FolderReport

    Raises
    ------
    ParameterError
        The target is one archive (kind ``"target-not-a-folder"``); sources would move to a place
        in the source folder (``"move-within-source"``); the cluster is not fit (kinds of
        `flows.cluster.started`).
    StorageError
        Another run works on the target; scheduler or workers are lost.
    ItemTaskError
        The folder is not there.
    ItemsFailedError
        After all items were tried: some have no sealed archive, or a damaged one. A source that is
        bad itself fails one run (or three, where it might get better); later ones pass it over.

    Notes
    -----
    Prefect stores the parameters, so `source`, `target` and a prompt should not name patients.
    Names of files and archives below them stay out of Prefect; see `flows.telling`.
    """
    _refuse_places(source, target, intake)
    if intake.pages is not None:
        extras.require("report", "pages about archives")
    log = EventLog.of(target, event_log)
    with (
        recorded("archive", target, log, metrics) as run,
        hold(target),
        ExitStack() as stack,
    ):
        if "://" not in target:
            mark_lost_runs(NAME, target=target)
        cleaner = stack.enter_context(_cleaning(target, options, intake, workers))
        stamp = None if cleaner is None else cleaner.stamp
        run.details = run_details(source, options, intake, stamp)
        found = find_items(source, target, options, intake, stamp)
        items = _ItemRun(source, target, options, intake, cleaner)
        names = NamesFile.nowhere()
        if found.failed or any(items.has_tasks(request) for request in found.requests):
            # names that a key keeps apart from the archives stay with the key
            names = NamesFile.of_this_run(intake.pseudonyms or target)
        names.write(_named(request) for request in found.requests)
        get_run_logger().info(
            "%d items, %d waiting, %d refused before, %d files skipped",
            len(found.requests),
            found.waiting,
            len(found.aside),
            found.skipped,
        )
        report = FolderReport(_outcomes(items, found, workers), found.skipped, found.waiting)
        names.write(_row_with_names(item) for item in report.items)
        _publish(report, names)
        count_items(run, report)
        if report.failed:
            raise ItemsFailedError(report)
    return report


def _refuse_places(source: str, target: str, intake: Intake) -> None:
    if is_archive_name(target):
        raise ParameterError(
            "the target of a folder must be a folder, found the name of one archive",
            kind="target-not-a-folder",
            hint="name the folder that gets one archive for each item",
        )
    moved = None if intake.move_to is None else Path(intake.move_to).resolve()
    if moved is not None and moved.is_relative_to(Path(source).resolve()):
        raise ParameterError(
            "archived sources would move within the source folder, and be found there again",
            kind="move-within-source",
            hint="name a folder outside it",
        )


def _cleaning(
    target: str, options: ArchiveOptions, intake: Intake, workers: Workers
) -> AbstractContextManager[Deidentifier | None]:
    """Copies without what names a person; workers of a cluster see them beside the target."""
    if intake.deidentify is not None and workers.scheduler is not None and "://" in target:
        raise ParameterError(
            "the workers of a cluster do not see de-identified copies that stand on this machine",
            kind="bad-deidentify",
            hint="archive to a folder, then `psc-archive sync` it to the bucket",
        )
    with ToldByNumber(0):
        key = None if intake.pseudonyms is None else Pseudonyms.load(Path(intake.pseudonyms))
    return deidentifying(intake.deidentify, key, options, target, beside=True)


def _outcomes(run: "_ItemRun", found: Found, workers: Workers) -> tuple[ItemOutcome, ...]:
    stages = [run.stages(request) for request in found.requests]
    needs_cluster = any(run.has_tasks(request) for request in found.requests)
    if needs_cluster:
        with started(workers, run.brick_needs) as cluster:
            outcomes = work_through(cluster, stages)
    else:
        outcomes = [run.known(request) for request in found.requests]
    left_out: list[tuple[str, tuple[str, ...], str, str]] = [
        ("failed", (str(e.path),), e.kind, e.reason) for e in found.failed
    ]
    left_out += [("aside", row.paths, row.kind, row.message) for row in found.aside]
    for number, (status, paths, kind, why) in enumerate(left_out, start=len(outcomes) + 1):
        outcomes.append(
            ItemOutcome(number, "file", status, paths=paths, error_kind=kind, error=why)
        )
    run.remember(found)
    for outcome in outcomes:
        tell_item(outcome)
    return tuple(outcomes)


class _ItemRun:
    """What happens to the items of one run."""

    def __init__(
        self,
        source: str,
        target: str,
        options: ArchiveOptions,
        intake: Intake,
        cleaner: Deidentifier | None,
    ) -> None:
        self.source = Path(source)
        self.cleaner = cleaner
        self.options = options
        self.intake = intake
        self.brick_needs = (SLOT, GPU) if options.device == "cuda" else (SLOT,)
        # a search for a quantiser step encodes bricks itself, in planning and in sealing
        self.search_needs = () if options.target is None else self.brick_needs
        self.index = KnownSources.load(target, is_folder=True)
        self.key = None if intake.pseudonyms is None else Path(intake.pseudonyms)
        self.refused = RefusedSources.load(target, self.key, retry=intake.retry_refused)

    def remember(self, found: Found) -> None:
        """Write down which sources were refused in this run, or before and are unchanged."""
        self.refused.sort_out(found.failed)
        for row in found.aside:
            self.refused.keep(row)
        self.refused.save(self.source)

    def has_tasks(self, request: ItemRequest) -> bool:
        """Whether anything of an item is work for the cluster."""
        return request.known is None or self.intake.move_to is not None

    def known(self, request: ItemRequest) -> ItemOutcome:
        """How an item ends that an earlier run archived."""
        paths = tuple(str(path) for path in request.candidate.paths)
        kind = request.candidate.kind
        return ItemOutcome(request.number, kind, "already-archived", paths, request.known)

    def stages(self, request: ItemRequest) -> Stages[ItemOutcome]:
        """Begin, bricks, seal, check, move."""
        number, kind = request.number, request.candidate.kind
        paths = tuple(str(path) for path in request.candidate.paths)
        target, report, seen = request.known, None, ""
        if not self.has_tasks(request):
            return self.known(request)
        try:
            with ToldByNumber(number):
                seen = self._seen(request.candidate)
            if target is None:
                target, report = yield from self._made(request)
                self.index.add(seen, target)
            if (report is not None or self.intake.move_to) and self.intake.check != "none":
                yield from self._checked(number, target)
            if report is not None and self.intake.pages is not None:
                compared = paths if self.cleaner is None else ()
                shown = {"archive": target, "paths": compared, "folder": self.intake.pages}
                yield [Call(show_archive, {"number": number, **shown}, ())]
            moved = self._moved(request, seen)
        except ItemTaskError as error:
            if error.of_source:
                why = ItemError(error.kind, error.detail, None)
                self.refused.add(seen, paths, why)
            made = ItemOutcome(number, kind, "failed", paths, target, report)
            return replace(made, error_kind=error.kind, error=error.detail)
        status = "already-archived" if report is None else "archived"
        return ItemOutcome(number, kind, status, paths, target, report, moved=moved)

    def _seen(self, candidate: Candidate) -> str:
        stamp = None if self.cleaner is None else self.cleaner.stamp
        return seen_of(candidate, self.options, stamp)

    def _made(self, request: ItemRequest) -> Stages[tuple[str, ItemReport | None]]:
        """Begin, bricks, seal; of a de-identified copy where that is asked for."""
        number, warnings = request.number, tuple[str, ...]()
        if self.cleaner is not None:
            with ToldByNumber(number):
                clean, warnings = self.cleaner.copy_of(request.candidate)
            request = replace(request, candidate=clean)
        try:
            begun = {"request": request, "options": self.options}
            (work,) = yield [Call(begin_item, begun, self.search_needs)]
            report = yield from self._sealed(number, work)
        finally:
            if self.cleaner is not None:
                self.cleaner.drop(request.candidate)
        if report is not None:
            report = replace(report, notes=(*report.notes, *warnings))
        return work.target, report

    def _sealed(self, number: int, work: ItemWork) -> Stages[ItemReport | None]:
        """Do the bricks and seal; None when the archive was sealed already."""
        if work.plan is None:
            return None
        bricks = yield [
            Call(encode_brick, {"number": number, "job": job}, self.brick_needs)
            for job in work.jobs
        ]
        done = {
            "resumed": resumed_bricks(work.plan, work.jobs),
            "seconds": sum(brick.seconds for brick in bricks),
        }
        seal = Call(seal_item, {"number": number, "plan": work.plan, **done}, self.search_needs)
        (report,) = yield [seal]
        sealed: ItemReport = report
        return sealed

    def _checked(self, number: int, archive: str) -> Stages[None]:
        """Read the archive again; damage is an error of the item."""
        deep = self.intake.check == "deep"
        how = ScrubOptions(deep=deep, device=self.options.device)
        parameters = {"number": number, "archive": archive, "options": how}
        needs = self.brick_needs if deep else ()
        (checked,) = yield [Call(check_archive, parameters, needs)]
        if checked.findings:
            first = checked.findings[0]
            what = f"{len(checked.findings)} problem(s), the first: {first.message}"
            raise ItemTaskError(number, "damaged", what, lasting=True)

    def _moved(self, request: ItemRequest, seen: str) -> bool:
        """Move the source away if that is asked for and it is what was archived."""
        if self.intake.move_to is None:
            return False
        with ToldByNumber(request.number):
            candidate = request.candidate
            if self._seen(candidate) != seen:
                what = "the source changed while it was archived, so it stays"
                raise ItemTaskError(request.number, "source-changed", what, lasting=True)
            move_sources(candidate.paths, self.source, Path(self.intake.move_to))
        return True


def _named(request: ItemRequest) -> dict[str, Any]:
    paths = [str(path) for path in request.candidate.paths]
    return {"item": request.number, "kind": request.candidate.kind, "source": paths}


def _row_with_names(item: ItemOutcome) -> dict[str, Any]:
    row: dict[str, Any] = {"item": item.number, "kind": item.kind, "status": item.status}
    row |= {"source": list(item.paths), "archive": item.target, "moved": item.moved}
    if item.report is not None and item.report.notes:
        row["notes"] = list(item.report.notes)
    return row | ({} if item.error is None else {"error": item.error_kind, "why": item.error})


def _publish(report: FolderReport, names: NamesFile) -> None:
    made = [item.report for item in report.items if item.report is not None]
    raw, stored = sum(r.source_bytes for r in made), sum(r.archive_bytes for r in made)
    totals = {
        "items": len(report.items),
        "archived": sum(item.status == "archived" for item in report.items),
        "archived before": sum(item.status == "already-archived" for item in report.items),
        "failed": len(report.failed),
        "refused before, unchanged": report.count("aside"),
        "waiting until they are quiet": report.waiting,
        "files skipped": report.skipped,
        "sources moved": sum(item.moved for item in report.items),
        "source bytes": raw,
        "archive bytes": stored,
        "ratio": raw / stored if stored else None,
        "bricks": sum(r.bricks for r in made),
        "of them stored before": sum(r.resumed for r in made),
        "brick seconds": sum(r.seconds for r in made),
    }
    title = f"{totals['archived']} archived, {totals['failed']} failed of {totals['items']} items"
    kinds = [item.error_kind or "internal" for item in report.failed]
    publish("psc-archive", title, totals, kinds, [_row(item) for item in report.items], names)


def _row(item: ItemOutcome) -> dict[str, Any]:
    report = item.report
    rows: Sequence[dict[str, Any]] = () if report is None else report.variables
    return {
        "item": item.number,
        "kind": item.kind,
        "status": item.status,
        "error": item.error_kind,
        "mode": ", ".join(sorted({kept["mode"] for kept in rows})),
        "largest error": max((kept["max_error_allowed"] or 0 for kept in rows), default=None),
        "targets missed": sum(not (kept["target"] or {"met": True})["met"] for kept in rows),
        "source bytes": None if report is None else report.source_bytes,
        "archive bytes": None if report is None else report.archive_bytes,
        "ratio": report.source_bytes / report.archive_bytes if report else None,
        "bricks": None if report is None else report.bricks,
        "seconds": None if report is None else report.seconds,
    }
