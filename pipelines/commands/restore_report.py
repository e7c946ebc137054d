"""How plans and results of restoring are shown to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.restoring.proof import outcome_counts

if TYPE_CHECKING:
    from pipelines.restoring.restore import RestorePlan, RestoreReport

__all__ = ["restore_lines", "restore_plan_lines"]

SHOWN = 20  # findings of a damaged archive


def restore_plan_lines(plan: RestorePlan) -> list[str]:
    """Regions and level."""
    kept = "the source file, which is kept"
    best = f"the best of {plan.levels} level(s)" if plan.levels else kept
    level = (
        best if plan.level is None else f"level {plan.level} of {plan.levels}, 0 is the coarsest"
    )
    rows = plan.to_dict()["variables"].items()
    return [level, *(f"{n}: {row['region']}" for n, row in rows)]


def restore_lines(report: RestoreReport) -> list[str]:
    """What was written."""
    word = "the source's values exactly" if report.lossless else "lossy values"
    if report.max_error is not None:
        word = f"values off by {report.max_error:g} at most"
    if report.damage:
        word = "values, some of them filled in"
    return [
        *restore_plan_lines(report.plan),
        f"wrote {len(report.files)} {report.kind} file(s) with {word}",
        *_outcome_lines(report),
        *(f"  {path}" for path in report.files[:5]),
        *([f"  and {len(report.files) - 5} more"] if len(report.files) > 5 else []),
        *(f"note: {note}" for note in report.notes),
        *_damage_lines(report),
    ]


def _damage_lines(report: RestoreReport) -> list[str]:
    """What could not be read, what stands there now, and where the mask is."""
    damage = report.damage
    if not damage:
        return []
    shown = [f"damage[{f.kind}] {f.place}" for f in damage.findings[:SHOWN]]
    more = len(damage.findings) - SHOWN
    return [
        *shown,
        *([f"and {more} more (--json has all)"] if more > 0 else []),
        *(f"filled    {name} with {value:g}" for name, value in damage.fills.items()),
        *(f"mask      {path}, 1 where a value was filled in" for path in damage.masks),
    ]


def _outcome_lines(report: RestoreReport) -> list[str]:
    """One line per kind of outcome: how many files, whether proven, what differs."""
    lines = []
    for outcome, count in outcome_counts(report.proofs).items():
        same = [proof for proof in report.proofs if proof.outcome == outcome]
        proven = ", proven by SHA-256" if all(proof.proven for proof in same) else ""
        differs = sorted({proof.differs for proof in same if proof.differs})
        except_for = f"; differs in: {'; '.join(differs)}" if differs else ""
        lines.append(f"  {count} {outcome}{proven}{except_for}")
    return lines
