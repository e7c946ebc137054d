"""How plans and results of archiving are shown to people."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.base import Skipped
from pipelines.archiving.item_report import ALREADY, ARCHIVED, FAILED, holds_data
from pipelines.archiving.targets import ABSENT, OTHER, OTHER_SETTINGS, SAME
from pipelines.checking.info import chosen_text, methods_text
from pipelines.log_lines import tell
from psc_volumetric.methods.entries import AUTO

if TYPE_CHECKING:
    from pipelines.archiving.item_report import ItemReport
    from pipelines.archiving.planned import ArchivePlan
    from pipelines.checking.runs import Run

__all__ = [
    "count_items",
    "failure_lines",
    "plan_lines",
    "report_document",
    "report_lines",
    "tell_plan",
]

log = logging.getLogger(__name__)


def _skipped(plan: ArchivePlan) -> list[str]:
    """Lines for what holds no volume; the rest is told as failures."""
    passed = [entry for entry in plan.skipped if not holds_data(entry)]
    return [f"skipped   {_files(group)}: {group[0].reason}" for group in _alike(passed)]


def _alike(entries: Sequence[Skipped]) -> list[list[Skipped]]:
    """Groups of files of one folder that are left out for one reason, but for its numbers."""
    groups: dict[tuple[Path, str], list[Skipped]] = {}
    for entry in entries:
        key = (entry.path.parent, re.sub(r"\d+", "", entry.reason))
        groups.setdefault(key, []).append(entry)
    return list(groups.values())


def _files(group: Sequence[Skipped]) -> str:
    more = "" if len(group) == 1 else f" and {len(group) - 1} more in its folder"
    return f"{group[0].path}{more}"


def failure_lines(plan: ArchivePlan, reports: Sequence[ItemReport]) -> list[str]:
    """What was not archived though it may hold data, and what to do about it; for stderr."""
    lines = []
    for group in _alike(plan.failed):
        first = group[0]
        lines.append(f"error[{first.kind}]: {_files(group)}: {first.reason}")
        lines += [f"hint: {first.hint}"] if first.hint else []
    for report in reports:
        if report.error is not None:
            lines.append(f"error[{report.error.kind}]: {report.name}: {report.error.message}")
            lines += [f"hint: {report.error.hint}"] if report.error.hint else []
            lines += [f"note: {note}" for note in report.notes]
    return lines


def tell_plan(plan: ArchivePlan) -> None:
    """Log what was found: the event ``found``, and ``left-out`` for what may hold data."""
    passed = sum(not holds_data(entry) for entry in plan.skipped)
    tell(
        log,
        "found",
        items=len(plan.items),
        already=len(plan.known),
        aside=len(plan.aside),
        skipped=passed,
    )
    for entry in plan.failed:
        private = {"path": str(entry.path), "message": entry.reason, "hint": entry.hint}
        tell(log, "left-out", level=logging.ERROR, private=private, error=entry.kind)


def count_items(run: Run, plan: ArchivePlan, reports: Sequence[ItemReport] | None) -> None:
    """Count how the items of a plan ended; those without a report have failed."""
    states = [FAILED] * len(plan.items) if reports is None else [r.state for r in reports]
    known = len(plan.known) if reports is None else 0  # these have a report, too
    made = [report for report in reports or () if report.state == ARCHIVED]
    run.counts = {
        "archived": states.count(ARCHIVED),
        "already": states.count(ALREADY) + known,
        "failed": states.count(FAILED) + len(plan.failed),
        "aside": len(plan.aside),
    }
    run.amounts = {
        "source_bytes": sum(report.source_bytes for report in made),
        "archive_bytes": sum(report.archive_bytes for report in made),
    }


def report_document(plan: ArchivePlan, reports: Sequence[ItemReport]) -> dict[str, Any]:
    """What was done, for ``--json``: items by the way they ended."""
    by_state = {
        name: [report.to_dict() for report in reports if report.state == state]
        for name, state in (("archives", ARCHIVED), ("already", ALREADY), ("failed", FAILED))
    }
    return {**plan.to_dict(), **by_state}


_THERE = {
    SAME: "sealed there already, from this source with these settings",
    OTHER_SETTINGS: "cannot be made: sealed there already, from this source with other settings",
    OTHER: "cannot be made: an archive of something else is there",
}


def plan_lines(plan: ArchivePlan) -> list[str]:
    """What would be done, for ``--dry-run``."""
    lines = []
    for item in plan.items:
        lines.append(f"{item.candidate.kind:<8}  {item.candidate.label} -> {item.target}")
        if item.state != ABSENT:
            lines.append(f"          {_THERE[item.state]}")
            continue
        work = item.evaluations
        effort = "" if not work else f", up to {work} network evaluations"
        lines.append(
            f"          {item.source_bytes} bytes of voxels in {item.bricks} brick(s), prior "
            f"{_prior_text(item.prior, not item.priors_outside)}{effort}"
        )
        for variable in item.variables:
            row = variable.to_dict()
            shape = " x ".join(map(str, row["shape"]))
            why = f": {row['reason']}" if row["reason"] else ""
            base = "" if row["method"] == "lossless" else f", base {row['method']}"
            base += ", the best method of each brick" if row["method"] == AUTO else ""
            lines.append(
                f"          {row['name']}: {shape} {row['dtype']}, {_promise(row)}{base}{why}"
            )
        lines += [f"          note: {note}" for note in item.notes]
    lines += [f"{k.kind:<8}  {k.name} -> {k.target}, sealed and unchanged" for k in plan.known]
    return lines + _skipped(plan) + _aside(plan) + _notes(plan)


def _aside(plan: ArchivePlan) -> list[str]:
    """What an earlier run refused and told."""
    lines = []
    for row in plan.aside:
        more = f" and {len(row.paths) - 1} more" if len(row.paths) > 1 else ""
        lines.append(f"aside     {row.paths[0]}{more}: refused before ({row.kind}), unchanged")
    return lines


def _notes(plan: ArchivePlan) -> list[str]:
    """What holds for the whole run."""
    return [f"note: {note}" for note in plan.notes]


def report_lines(plan: ArchivePlan, reports: list[ItemReport]) -> list[str]:
    """What was done."""
    lines = []
    for report in reports:
        if report.state == ALREADY:
            lines.append(f"already   {report.target}: sealed from this source by an earlier run")
        if report.state != ARCHIVED:
            continue
        lines.append(f"sealed    {report.target} ({_size_text(report)})")
        lines += [line for row in report.variables for line in _variable_lines(row)]
        resumed = f", {report.resumed} from an earlier run" if report.resumed else ""
        lines.append(
            f"          {report.bricks} brick(s){resumed}, {report.seconds:.1f} s, prior "
            f"{_prior_text(report.prior, report.prior_inside)}"
        )
        lines.append(f"          manifest {report.manifest}")
        lines += [f"          note: {note}" for note in report.notes]
    return lines + _skipped(plan) + _aside(plan) + _notes(plan)


def _prior_text(name: str | None, is_inside: bool | None) -> str:
    outside = " (not inside: it ships with psc-archive)" if name and not is_inside else ""
    return f"{name or 'none'}{outside}"


def _size_text(report: ItemReport) -> str:
    """All bytes, as a rate too, and whether that is the one that was wanted."""
    voxels = sum(math.prod(row["shape"]) for row in report.variables)
    text = f"{report.archive_bytes} bytes"
    text += f", {8 * report.archive_bytes / voxels:.4g} bpv" if voxels else ""
    targets = filter(None, (row["target"] for row in report.variables))
    return text + next((_target_text(t) for t in targets if t["kind"] == "bpv"), "")


def _target_text(target: dict[str, Any]) -> str:
    word = "met" if target["met"] else "missed"
    unit = "bpv" if target["kind"] == "bpv" else "dB"
    return f"; target {target['wanted']:g} {unit} {word} with {target['reached']:.5g}"


def _promise(row: dict[str, Any]) -> str:
    """What is promised for a variable, in a few words."""
    bound = row["max_error_allowed"]
    text = str(row["mode"])
    if row["mode"] == "bounded":
        text += f" (no error above {bound:g})"
    elif row["mode"] == "lossless" and bound is not None:
        text += f", with a level of no error above {bound:g}"
    return text + (f", exact in {row['exact_roi']}" if row["exact_roi"] else "")


def _variable_lines(row: dict[str, Any]) -> list[str]:
    quality = _promise(row)
    if row["mode"] != "lossless":
        psnr = "" if row["psnr_db"] is None else f", PSNR {row['psnr_db']:.2f} dB"
        quality += f", rmse {row['rmse']:.4g}, max error {row['max_error']:.4g}{psnr}"
    elif row["reason"]:
        quality += f": {row['reason']}"
    target = row["target"]
    if target is not None and target["kind"] == "psnr":
        quality += _target_text(target)
    chosen = chosen_text(row)
    return [
        f"          {row['name']}: {row['bytes']} bytes, {row['bpv']:.4f} bpv, {quality}",
        f"          bricks by method and coder: {methods_text(row)}"
        + (f" (chosen {chosen})" if chosen else ""),
    ]
