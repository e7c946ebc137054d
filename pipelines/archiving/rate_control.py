"""The quantiser step that meets a target of rate or PSNR over a whole archive.

One step for all bricks is nearly the best division of bytes among them: bricks then sit at equal
slope. It is found on a sample of bricks and stored in the archive's attributes before anything is
written. The bricks of the sample are coded last, with a step of their own that makes up for what
the others missed, so that the archive as a whole meets its target. A rate counts every byte of the
archive; its variables share one step, so that one that needs more than its share gets it. A PSNR is
met by each variable, with its own step.

Everything here depends only on the source and the options, so a run that was stopped continues
with the same steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from pipelines.archiving.bricks import jobs_of, voxels
from pipelines.archiving.plan import ItemPlan, VariablePlan, open_item
from pipelines.archiving.step_guess import guessed_step
from pipelines.archiving.step_search import FIRST_STEP, Trial, search, search_by_drafts
from pipelines.archiving.trials import has_drafts, measured, squared_error, trial
from pipelines.archiving.whole_archive import bytes_beside, preview_bytes
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.errors import ParameterError, StorageError
from psc_volumetric.methods.parameters import LARGEST_STEP
from psc_volumetric.metrics import rate_bpv

__all__ = [
    "BPV_TOLERANCE",
    "PSNR_TOLERANCE_DB",
    "Reached",
    "deferred",
    "reached",
    "sample_positions",
    "settle",
    "with_steps",
]

BPV_TOLERANCE = 0.02  # share of the target
PSNR_TOLERANCE_DB = 0.1
FAR = {"bpv": 0.05, "psnr": 0.115}  # when a target counts as out of reach: 5 %, 0.5 dB
FEW_BRICKS = 8
SAMPLE_SHARE = 0.25
MOST_SAMPLED = 32

Position = tuple[int, ...]


@dataclass(frozen=True)
class Reached:
    """Target of a variable and what its archive has.

    Attributes
    ----------
    kind : str
        ``"bpv"`` or ``"psnr"``.
    wanted, reached : float
        Bits per voxel of the whole archive, or decibels; ``reached`` is infinite without any error.
    """

    kind: str
    wanted: float
    reached: float

    @property
    def is_met(self) -> bool:
        """Whether it is within 2 % of the rate, or 0.1 dB of the PSNR."""
        gap = abs(self.reached - self.wanted)
        return gap <= (BPV_TOLERANCE * self.wanted if self.kind == "bpv" else PSNR_TOLERANCE_DB)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {**vars(self), "met": self.is_met}


def sample_positions(spec: VariableSpec) -> tuple[Position, ...]:
    """Bricks a step is searched on: all of few, else a quarter, evenly spread, at most 32."""
    positions = list(spec.positions())
    if len(positions) <= FEW_BRICKS:
        return tuple(positions)
    count = min(MOST_SAMPLED, max(FEW_BRICKS, math.ceil(SAMPLE_SHARE * len(positions))))
    return tuple(positions[(2 * i + 1) * len(positions) // (2 * count)] for i in range(count))


def deferred(variable: VariablePlan) -> frozenset[Position]:
    """Bricks of a variable that are coded last, by `settle`; none without a target."""
    has_target = "target" in variable.spec.parameters
    return frozenset(sample_positions(variable.spec) if has_target else ())


@dataclass(frozen=True)
class _Pool:
    """Variables that meet a target together, with one step: all at a rate, each alone at a PSNR.

    Attributes
    ----------
    variables : tuple of VariablePlan
        Those that are exact have no step and take what they need.
    kind : str
    value, quantity : float
        The target, and the bytes of the archive or the squared error that it stands for.
    """

    variables: tuple[VariablePlan, ...]
    kind: str
    value: float
    quantity: float

    @property
    def voxels(self) -> int:
        """Voxels of all variables."""
        return sum(math.prod(variable.spec.shape) for variable in self.variables)

    def value_of(self, quantity: float) -> float:
        """Bits per voxel, or decibels."""
        if self.kind == "bpv":
            return rate_bpv(round(quantity), self.voxels)
        return _decibels(self.variables[0], quantity)


def _pools(item: ItemPlan) -> list[_Pool]:
    """What is searched for in an item; nothing without a target."""
    aimed = [v for v in item.variables if "target" in v.spec.parameters]
    if item.options.target is None or not aimed:
        return []
    kind, value = item.options.target
    if kind == "bpv":
        pool = _Pool(item.variables, kind, value, 0.0)
        return [replace(pool, quantity=value * pool.voxels / 8)]
    return [_Pool((v,), kind, value, _squared(v, value)) for v in aimed]


def with_steps(item: ItemPlan) -> ItemPlan:
    """The plan with a step in the parameters of every variable that has a target.

    An unfinished archive of the same plan remembers its steps; else they are searched for, which
    encodes the bricks of the sample several times.

    Raises
    ------
    ParameterError : kind ``"target-unreachable"``; the message says what can be reached.
    """
    steps = _remembered(item) if item.options.target is not None else {}
    for pool in _pools(item):
        names = [v.spec.name for v in pool.variables if "target" in v.spec.parameters]
        if not steps.keys() >= set(names):
            steps |= dict.fromkeys(names, _first_step(item, pool))
    variables = tuple(
        replace(v, spec=replace(v.spec, parameters={**v.spec.parameters, "step": step}))
        if (step := steps.get(v.spec.name)) is not None
        else v
        for v in item.variables
    )
    return replace(item, variables=variables)


def _remembered(item: ItemPlan) -> dict[str, float]:
    """Steps of an unfinished archive whose variables agree with the plan in all else."""
    try:
        writer = ArchiveWriter.open_partial(item.target)
    except StorageError:
        return {}
    planned = {variable.spec.name: variable.spec.parameters for variable in item.variables}
    found = {}
    for name, spec in writer.variables.items():
        others = {key: value for key, value in spec.parameters.items() if key != "step"}
        if "target" in others and others == planned.get(name):
            found[name] = float(spec.parameters["step"])
    return found


def _first_step(item: ItemPlan, pool: _Pool) -> float:
    """The step for the whole pool, by bricks of the sample.

    Raises
    ------
    ParameterError : kind ``"target-unreachable"``.
    """
    aimed = (v for v in pool.variables if "target" in v.spec.parameters)
    jobs = [jobs_of(item, v, p) for v in aimed for p in sample_positions(v.spec)]
    start = guessed_step(jobs, pool.quantity / pool.voxels, pool.kind, FIRST_STEP)
    beside = _beside(item, pool, start)

    def measure(step: float) -> float:
        return _scaled(item, pool, step)

    def draft(step: float) -> float:
        return _scaled(item, pool, step, is_draft=True)

    wanted = pool.quantity - beside
    if wanted <= 0:  # even the coarsest bricks are too much: what would they be
        best, is_close = Trial(LARGEST_STEP, measure(LARGEST_STEP)), False
    elif has_drafts(item):
        best, is_close = search_by_drafts(draft, measure, wanted, kind=pool.kind, start=start)
    else:
        best, is_close = search(measure, wanted, kind=pool.kind, start=start)
    reached = best.quantity + beside
    if not is_close and abs(math.log(max(reached, 1e-300) / pool.quantity)) > FAR[pool.kind]:
        raise _unreachable(item, pool, reached, beside)
    return best.step


def _unreachable(item: ItemPlan, pool: _Pool, reached: float, beside: float) -> ParameterError:
    text = _text(pool.kind, pool.value_of(reached))
    if pool.kind == "bpv":
        what = f"the archive, {math.ceil(pool.quantity)} bytes at "
        text += f", {math.ceil(beside)} bytes are beside the bricks"
    else:
        what = f"variable {pool.variables[0].spec.name!r}: "
    counted = [v.spec.parameters.get("exact_roi") for v in pool.variables]
    hint = f"; what is exact ({counted[0]}) counts" if any(counted) else ""
    if open_item(item.candidate).beyond_remaking or item.options.keep_original:
        hint += "; the original that is kept counts"
    return ParameterError(
        f"{what}{_text(pool.kind, pool.value)}, cannot be reached; the closest is {text}",
        kind="target-unreachable",
        hint="choose a target near that; --mode lossless, --mode bounded and --step need "
        f"none{hint}",
    )


def _text(kind: str, value: float) -> str:
    return f"{value:.4g} bpv" if kind == "bpv" else f"{value:.2f} dB"


def _squared(variable: VariablePlan, decibels: float) -> float:
    """The squared error that a PSNR stands for."""
    peak = variable.kept.peak or 1.0
    return peak**2 * math.prod(variable.spec.shape) / float(10 ** (decibels / 10))


def _decibels(variable: VariablePlan, squared: float) -> float:
    peak = variable.kept.peak or 1.0
    voxels = math.prod(variable.spec.shape)
    return 10 * math.log10(peak**2 * voxels / squared) if squared else math.inf


def _voxels(spec: VariableSpec, position: Position) -> int:
    return math.prod(spec.valid(position))


def _beside(item: ItemPlan, pool: _Pool, step: float) -> float:
    """Bytes of the archive without bricks and previews, by bricks of the sample; 0 at a PSNR."""
    if pool.kind != "bpv":
        return 0.0
    is_draft = has_drafts(item)
    bricks = {
        v.spec.name: {
            p: trial(item, v, p, step, is_draft=is_draft) for p in sample_positions(v.spec)
        }
        for v in pool.variables
    }
    return float(bytes_beside(item, bricks))


def _scaled(item: ItemPlan, pool: _Pool, step: float, *, is_draft: bool = False) -> float:
    """Bytes with previews, or squared error, of all bricks of a pool by those of the sample."""
    total = 0.0
    for variable in pool.variables:
        sample = sample_positions(variable.spec)
        share = sum(_voxels(variable.spec, p) for p in sample) / math.prod(variable.spec.shape)
        found = measured(item, variable, sample, step, pool.kind, is_draft=is_draft) / share
        total += found + (preview_bytes(item, found) if pool.kind == "bpv" else 0.0)
    return total


def settle(item: ItemPlan) -> None:
    """Code and store the bricks of the sample so that the whole archive meets its target.

    Parameters
    ----------
    item : ItemPlan
        With steps; all bricks outside the sample are stored.

    Raises
    ------
    SourceError, StorageError : voxels cannot be read, or a brick cannot be stored.
    """
    writer = ArchiveWriter.open_partial(item.target)
    for pool in _pools(item):
        _settle(item, pool, writer)


def _settle(item: ItemPlan, pool: _Pool, writer: ArchiveWriter) -> None:
    aimed = [v for v in pool.variables if "target" in v.spec.parameters]
    step = float(aimed[0].spec.parameters["step"])
    samples = {v.spec.name: sample_positions(v.spec) if v in aimed else () for v in pool.variables}
    others, rest = 0.0, 0
    for variable in pool.variables:
        positions = sorted(set(variable.spec.positions()) - set(samples[variable.spec.name]))
        found = math.fsum(_stored(writer, variable.spec, p, pool.kind) for p in positions)
        others += found + (preview_bytes(item, found) if pool.kind == "bpv" else 0.0)
        rest += len(positions)

    def measure(tried: float) -> float:
        found = (measured(item, v, samples[v.spec.name], tried, pool.kind) for v in aimed)
        return math.fsum(found)

    if rest:
        at_first = measure(step)
        total = pool.quantity - _beside(item, pool, step)
        # The sample cannot make up for more than a factor of two without standing out.
        wanted = min(max(total - others, at_first / 2), at_first * 2)
        step = search(measure, wanted, kind=pool.kind, start=step)[0].step
    for variable in aimed:
        for position in samples[variable.spec.name]:
            job = jobs_of(item, variable, position, step)
            brick = trial(item, variable, position, step)
            writer.write_brick(variable.spec.name, position, brick, values=voxels(job))


def _stored(writer: ArchiveWriter, spec: VariableSpec, position: Position, kind: str) -> float:
    record = writer.brick_state(spec.name, position)
    if record is None:
        raise StorageError(
            f"{spec.name} {position!r}: the brick is not stored yet", kind="incomplete"
        )
    return float(record.size) if kind == "bpv" else squared_error(spec, position, record.tiles)


def reached(
    item: ItemPlan, variable: VariablePlan, archive_bytes: int, rmse: float
) -> Reached | None:
    """What a sealed archive has of a target; None for a variable that has none.

    Parameters
    ----------
    item : ItemPlan
    variable : VariablePlan
    archive_bytes : int
        Of the whole archive: a rate is met by all variables, and all beside them, together.
    rmse : float
        Root mean squared error of the variable over all its voxels, stored units.
    """
    if "target" not in variable.spec.parameters:
        return None
    kind, wanted = variable.spec.parameters["target"]
    if kind == "psnr":
        squared = rmse**2 * math.prod(variable.spec.shape)
        return Reached(kind, wanted, _decibels(variable, squared))
    (pool,) = _pools(item)
    return Reached(kind, wanted, pool.value_of(archive_bytes))
