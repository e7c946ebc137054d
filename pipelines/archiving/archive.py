"""Source files to sealed archives: plan, then per item begin, brick jobs, finish.

`archive` does it all in this process. A scheduler does the same with its own means: `begin` gives
the jobs that are still to do, `encode_brick_job` does one anywhere, `finish` seals. What is done
is remembered in the unfinished archive itself, so any of them can stop and be called again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

from adapters.errors import SourceError
from pipelines.archiving.bricks import (
    BrickJob,
    BrickResult,
    encode_brick_job,
    encode_brick_jobs,
    jobs_of,
)
from pipelines.archiving.deidentified import Deidentifier
from pipelines.archiving.item_report import (
    ALREADY,
    FAILED,
    ITEM_ERRORS,
    ItemError,
    ItemReport,
    tell_item,
)
from pipelines.archiving.known_sources import KnownSources
from pipelines.archiving.locking import clear_stale, hold
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ArchivePlan, ItemPlan, VariablePlan, open_item, plan
from pipelines.archiving.rate_control import deferred, reached, settle, with_steps
from pipelines.archiving.refused import RefusedSources, is_about_source
from pipelines.archiving.sealing_proof import prepared_with_proof
from pipelines.archiving.targets import ABSENT, OTHER_SETTINGS, SAME, is_archive_name, state_at
from pipelines.archiving.whole_archive import begin_writing, source_to_keep
from pipelines.progress import Progress, Silent
from psc_volumetric.archive.outside import priors_outside
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.targets import tidy_up
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.errors import InstallationError, PscError, StorageError

__all__ = [
    "ArchiveOptions",
    "ArchivePlan",
    "BrickJob",
    "BrickResult",
    "ItemReport",
    "archive",
    "begin",
    "encode_brick_job",
    "finish",
    "plan",
    "resumed_bricks",
    "run_item",
    "sealed_state",
]

# Kinds of errors that may pass, so that what is done is kept.
_PASSING = ("unreadable", "reader-timeout", "reader-memory", "not-provable")


def archive(
    chosen: ArchivePlan,
    progress: Progress | None = None,
    refused: RefusedSources | None = None,
    deidentifier: Deidentifier | None = None,
) -> list[ItemReport]:
    """Make every archive of a plan, one after the other; one bad item does not stop the others.

    Parameters
    ----------
    chosen : ArchivePlan
    progress : Progress, optional
        Told about every brick.
    refused : RefusedSources, optional
        Of an inbox: gets the sources that turn out to be bad. The caller saves it.
    deidentifier : Deidentifier, optional
        That of the plan.

    Returns
    -------
    list of ItemReport
        One for each item of the plan: archived, sealed already, or failed.

    Raises
    ------
    SourceError, PscError, OSError, ... : no item has a sealed archive; the error of the first, with
        notes on the others.
    StorageError : another run works on the target (kind ``"target-locked"``).
    KeyboardInterrupt : the unfinished archive stays, and a note says how to continue.
    """
    reports = [ItemReport(s.name, s.target, s.kind, ALREADY) for s in chosen.known]
    errors: list[Exception] = []
    todo = any(item.state != SAME for item in chosen.items)
    if not todo:
        clear_stale(chosen.target)
    with hold(chosen.target) if todo else nullcontext():
        index = KnownSources.load(chosen.target, is_folder=not is_archive_name(chosen.target))
        for item in chosen.items:
            try:
                reports.append(_archived(item, progress, deidentifier))
                index.add(item.seen, item.target)
            except ITEM_ERRORS as error:
                errors.append(error)
                reports.append(_failed(item, error))
                if refused is not None and is_about_source(error):
                    paths = [*map(str, item.paths)]
                    refused.add(item.seen, paths, ItemError.of(error))
            tell_item(reports[-1])
    if errors and len(errors) == len(reports):
        for report in reports[1:]:
            errors[0].add_note(f"{report.name}: {report.error.message if report.error else ''}")
        raise errors[0]
    return reports


def _archived(
    item: ItemPlan, progress: Progress | None, deidentifier: Deidentifier | None
) -> ItemReport:
    state = sealed_state(item)
    if state == ABSENT:
        with nullcontext() if deidentifier is None else deidentifier.present(item.candidate):
            return run_item(item, progress)
    if state == SAME:
        tidy_up(item.target)
        return ItemReport(item.candidate.label, item.target, item.candidate.kind, ALREADY)
    raise StorageError(
        f"a sealed archive is there already: {item.target!r}"
        + (", of the same source with other settings" if state == OTHER_SETTINGS else ""),
        kind="target-exists",
        hint="archives are written once; choose another target, or remove it first",
    )


def _failed(item: ItemPlan, error: Exception) -> ItemReport:
    return ItemReport(
        item.candidate.label,
        item.target,
        item.candidate.kind,
        FAILED,
        ItemError.of(error),
        notes=tuple(getattr(error, "__notes__", ())),
    )


def sealed_state(item: ItemPlan) -> str:
    """What is at the target of an item now: see `pipelines.archiving.targets.place_of`."""
    return state_at(item.target, item.files, item.provenance)[0]


def begin(item: ItemPlan) -> tuple[BrickJob, ...]:
    """Begin or continue the archive of an item; gives the brick jobs that are still to do.

    A target of rate or PSNR is turned into a quantiser step first. The bricks that this was found
    on are no jobs: `finish` codes them when it knows what the others became.

    Raises
    ------
    ParameterError : the target cannot be reached (kind ``"target-unreachable"``); nothing is
        written.
    StorageError : a sealed archive, or an unfinished one of another input or other settings, is
        there (kinds ``"target-exists"``, ``"partial-differs"``), or the target is not writable.
    """
    item = with_steps(item)
    writer = begin_writing(item, open_item(item.candidate), item.target)
    jobs = []
    for variable in item.variables:
        last, step = deferred(variable), variable.spec.parameters.get("step")
        pending = (p for p in writer.pending(variable.spec.name) if p not in last)
        jobs += [jobs_of(item, variable, position, step) for position in pending]
    return tuple(jobs)


def finish(item: ItemPlan, *, resumed: int = 0, seconds: float = 0.0) -> ItemReport:
    """Add what is left and the manifest; after this the archive is sealed.

    That is: the last bricks of an archive with a target, source, prior, tile tables and preview.

    Parameters
    ----------
    item : ItemPlan
    resumed : int
        Bricks that an earlier run had finished, for the report.
    seconds : float
        Time spent so far, for the report.

    Raises
    ------
    StorageError : a brick is missing (kind ``"incomplete"``), or the store fails.
    """
    start = time.perf_counter()
    item = with_steps(item)
    settle(item)
    source = source_to_keep(item)
    writer = ArchiveWriter.open_partial(item.target)
    try:
        prepared, remarks = prepared_with_proof(writer, item, source)
    except SourceError as error:
        if error.kind == "source-changed":
            writer.abort()  # what is there belongs to a file that is no more
        raise
    manifest = prepared.commit()
    with ArchiveReader.open(item.target) as reader:
        recorded, outside = reader.info(), priors_outside(reader)
    needed = [*recorded["priors"], *outside]
    rows = tuple(_variable_row(item, variable, recorded) for variable in item.variables)
    return ItemReport(
        name=item.candidate.label,
        target=item.target,
        kind=item.candidate.kind,
        prior=item.prior if needed else None,
        prior_inside=bool(recorded["priors"]) if needed else None,
        variables=rows,
        archive_bytes=recorded["bytes"]["total"],
        brick_bytes=sum(row["bytes"] for row in rows),
        source_bytes=item.source_bytes,
        manifest=manifest.digest,
        bricks=item.bricks,
        resumed=resumed,
        seconds=seconds + time.perf_counter() - start,
        notes=(*item.notes, *remarks, *_missed(rows), *_left_out(item, needed)),
    )


def _left_out(item: ItemPlan, priors: Sequence[str]) -> list[str]:
    """The prior of the plan where no brick came to need it, in words."""
    if item.prior is None or priors:
        return []
    return [f"no brick needs the prior {item.prior!r}: it is not in the archive"]


def _missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Targets that were not met, in words."""
    unit = {"bpv": "bpv", "psnr": "dB"}
    missed = {
        "the archive" if target["kind"] == "bpv" else row["name"]: target
        for row in rows
        if (target := row["target"]) is not None and not target["met"]
    }
    return [
        f"{name}: the target of {target['wanted']:g} {unit[target['kind']]} was missed, reached "
        f"are {target['reached']:.4g}"
        for name, target in missed.items()
    ]


def resumed_bricks(item: ItemPlan, jobs: Sequence[BrickJob]) -> int:
    """Bricks that an earlier run had finished when `begin` gave these jobs."""
    return item.bricks - len(jobs) - sum(len(deferred(v)) for v in item.variables)


def _variable_row(
    item: ItemPlan, variable: VariablePlan, recorded: dict[str, Any]
) -> dict[str, Any]:
    found = recorded["variables"][variable.spec.name]
    last = found["levels"][-1]
    rmse = last["rmse"]
    peak = variable.kept.peak
    target = reached(item, variable, recorded["bytes"]["total"], rmse)
    return {
        "name": variable.spec.name,
        "shape": found["shape"],
        "dtype": found["dtype"],
        "method": _method(variable, found["brick_methods"]),
        "brick_methods": found["brick_methods"],
        "compared": found["compared"],
        "mode": variable.kept.mode,
        "max_error_allowed": _bound(variable, found["brick_methods"]),
        "exact_roi": found["parameters"].get("exact_roi"),
        "target": None if target is None else target.to_dict(),
        "reason": variable.reason,
        "bytes": found["bytes"],
        "bpv": found["bpv"],
        "rmse": rmse,
        "max_error": last["max_error"],
        "psnr_db": 20 * math.log10(peak / rmse) if rmse and peak else None,
        "levels": found["levels"],
    }


def _bound(variable: VariablePlan, bricks: dict[str, int]) -> float | None:
    """Bound of the bounded level; None where no brick has the level, which nobody asked for."""
    has_level = variable.kept.budget is None or any("+bounded" in name for name in bricks)
    return variable.kept.max_error if has_level else None


def _method(variable: VariablePlan, bricks: dict[str, int]) -> str:
    """``"lossless"``, or the base methods that bricks have, by name."""
    bases = sorted({name.split("+")[0] for name in bricks})
    return " ".join(bases) if variable.is_lossy else "lossless"


def run_item(item: ItemPlan, progress: Progress | None = None) -> ItemReport:
    """Make one archive in this process, continuing where an earlier run stopped.

    Raises
    ------
    SourceError : the source is bad; nothing is left behind.
    PscError, OSError, KeyboardInterrupt : the unfinished archive stays, with a note on the error
        that says how to continue.
    """
    start = time.perf_counter()
    shown = progress or Silent()
    jobs = begin(item)
    resumed = resumed_bricks(item, jobs)
    shown.begin(item.candidate.label, item.bricks)
    shown.advance(resumed)
    done = resumed

    def stored(_: BrickResult) -> None:
        nonlocal done
        done += 1
        shown.advance()

    try:
        encode_brick_jobs(jobs, stored)
        return finish(item, resumed=resumed, seconds=time.perf_counter() - start)
    except SourceError as error:
        if error.kind not in _PASSING:
            _remove_unfinished(item.target)
            raise
        error.add_note(_resume_note(item, done))
        raise
    except (PscError, InstallationError, OSError, KeyboardInterrupt) as error:
        error.add_note(_resume_note(item, done))
        raise


def _remove_unfinished(target: str) -> None:
    """Remove what was written for a source that turned out to be bad."""
    with suppress(StorageError):  # it has gone already
        ArchiveWriter.open_partial(target).abort()


def _resume_note(item: ItemPlan, done: int) -> str:
    return (
        f"{done} of {item.bricks} bricks are kept in the unfinished archive {item.target!r}; "
        "run the same command again to continue"
    )
