"""The quantiser step that meets a target of rate or PSNR over a whole archive.

One step for all bricks of a variable is nearly the best division of bytes among them: bricks then
sit at equal slope. It is found on a sample of bricks and stored in the archive's attributes before
anything is written. The bricks of the sample are coded last, with a step of their own that makes
up for what the others missed, so that the archive as a whole meets its target.

Everything here depends only on the source and the options, so a run that was stopped continues
with the same steps.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipelines.archiving.bricks import encoded, jobs_of, voxels
from pipelines.archiving.plan import ItemPlan, VariablePlan
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.codec import EncodedBrick
from psc_volumetric.errors import ParameterError, StorageError
from psc_volumetric.methods.parameters import LARGEST_STEP, SMALLEST_STEP
from psc_volumetric.metrics import rate_bpv
from psc_volumetric.tiling import TileGrid

__all__ = [
    "BPV_TOLERANCE",
    "PSNR_TOLERANCE_DB",
    "Reached",
    "deferred",
    "reached",
    "sample_positions",
    "search",
    "settle",
    "with_steps",
]

BPV_TOLERANCE = 0.02  # share of the target
PSNR_TOLERANCE_DB = 0.1
FIRST_STEP = 0.5
SLOPES = {"bpv": -1.2, "psnr": 1.3}  # of log bytes and log squared error over log step
CLOSE = {"bpv": 0.008, "psnr": 0.009}  # when a search stops: less than half of what is allowed
FAR = {"bpv": 0.05, "psnr": 0.115}  # when a target counts as out of reach: 5 %, 0.5 dB
MOST_TRIALS = 16
FARTHEST = 6.0  # from one step to the next, logarithm
FEW_BRICKS = 8
SAMPLE_SHARE = 0.25
MOST_SAMPLED = 32
_KEPT_BYTES = 64 << 20

Position = tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """A step and the quantity (bytes, or squared error) it gave."""

    step: float
    quantity: float


class _Tile(Protocol):
    @property
    def position(self) -> tuple[int, int, int]: ...

    @property
    def mse(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Reached:
    """Target of one variable and what its archive has.

    Attributes
    ----------
    kind : str
        ``"bpv"`` or ``"psnr"``.
    wanted, reached : float
        Bits per voxel, or decibels; ``reached`` is infinite without any error.
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


def search(
    measure: Callable[[float], float], wanted: float, *, kind: str, start: float
) -> tuple[Trial, bool]:
    """Find the step at which a quantity is closest to what is wanted.

    Parameters
    ----------
    measure : callable
        Step -> bytes (kind ``"bpv"``, falling) or squared error (``"psnr"``, rising).
    wanted : float
        The quantity, above 0.
    start : float
        First step to try.

    Returns
    -------
    best : Trial
    is_close : bool
        Whether it is within ``CLOSE``; False when the steps end before, or the quantity jumps.
    """
    slope = SLOPES[kind]
    low, high = math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
    x, best = math.log(start), Trial(start, math.inf)
    trials: list[tuple[float, float]] = []
    for _ in range(MOST_TRIALS):
        step = float(f"{min(max(math.exp(x), SMALLEST_STEP), LARGEST_STEP):.6g}")
        trial = Trial(step, measure(step))
        gap = _gap(trial, wanted)
        if abs(gap) < abs(_gap(best, wanted)) or not trials:
            best = trial
        if abs(gap) <= CLOSE[kind]:
            return best, True
        x = math.log(step)
        if (gap > 0) == (slope < 0):
            low = max(low, x)
        else:
            high = min(high, x)
        if high - low < 1e-4:
            break
        trials.append((x, gap))
        x = _next(trials, slope, low, high)
    return best, False


def _gap(trial: Trial, wanted: float) -> float:
    """Logarithm of quantity over wanted; a quantity of 0 counts as very small."""
    return math.log(max(trial.quantity, 1e-300) / wanted)


def _next(trials: Sequence[tuple[float, float]], slope: float, low: float, high: float) -> float:
    """Logarithm of the next step: by secant; inside a bracket by turns with halves of it."""
    x, gap = trials[-1]
    other = min((t for t in trials if t[1] * gap < 0), key=lambda t: abs(t[0] - x), default=None)
    if other is not None:
        share = 0.5 if len(trials) % 2 else gap / (gap - other[1])
        return x + (other[0] - x) * min(max(share, 0.05), 0.95)
    if len(trials) > 1:
        before, then = trials[-2]
        found = (gap - then) / (x - before) if x != before else slope
        slope = math.copysign(min(max(abs(found), 0.08), 4.0), slope)
    wanted = x - min(max(gap / slope, -FARTHEST), FARTHEST)
    return min(max(wanted, low), high)


def with_steps(item: ItemPlan) -> ItemPlan:
    """The plan with a step in the parameters of every variable that has a target.

    An unfinished archive of the same plan remembers its steps; else they are searched for, which
    encodes the bricks of the sample several times.

    Raises
    ------
    ParameterError : kind ``"target-unreachable"``; the message says what can be reached.
    """
    if item.options.target is None:
        return item
    known = _remembered(item)
    variables = []
    for variable in item.variables:
        spec = variable.spec
        if "target" in spec.parameters and "step" not in spec.parameters:
            step = known.get(spec.name) or _first_step(item, variable)
            spec = replace(spec, parameters={**spec.parameters, "step": step})
        variables.append(replace(variable, spec=spec))
    return replace(item, variables=tuple(variables))


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


def _first_step(item: ItemPlan, variable: VariablePlan) -> float:
    sample = sample_positions(variable.spec)
    share = sum(_voxels(variable.spec, p) for p in sample) / math.prod(variable.spec.shape)
    kind, wanted = _wanted(variable)

    def measure(step: float) -> float:
        return _measured(item, variable, sample, step, kind)

    best, is_close = search(measure, wanted * share, kind=kind, start=FIRST_STEP)
    if not is_close and abs(_gap(best, wanted * share)) > FAR[kind]:
        reached = _value(variable, kind, best.quantity / share)
        counted = variable.spec.parameters.get("exact_roi")
        hint = f"; what is exact ({counted}) counts" if counted else ""
        raise ParameterError(
            f"variable {variable.spec.name!r}: {_text(kind, variable.spec.parameters['target'][1])}"
            f" cannot be reached; the closest is {_text(kind, reached)}",
            kind="target-unreachable",
            hint=f"choose a target near that; --mode lossless and --mode bounded need none{hint}",
        )
    return best.step


def _text(kind: str, value: float) -> str:
    return f"{value:.4g} bpv" if kind == "bpv" else f"{value:.2f} dB"


def _wanted(variable: VariablePlan) -> tuple[str, float]:
    """Kind of a variable's target, and the bytes or squared error it stands for."""
    kind, value = variable.spec.parameters["target"]
    voxels = math.prod(variable.spec.shape)
    if kind == "bpv":
        return kind, value * voxels / 8
    peak = variable.kept.peak or 1.0
    return kind, peak**2 * voxels / 10 ** (value / 10)


def _value(variable: VariablePlan, kind: str, quantity: float) -> float:
    """Bits per voxel, or decibels, of a variable's bytes or squared error."""
    voxels = math.prod(variable.spec.shape)
    if kind == "bpv":
        return rate_bpv(round(quantity), voxels)
    peak = variable.kept.peak or 1.0
    return 10 * math.log10(peak**2 * voxels / quantity) if quantity else math.inf


def _voxels(spec: VariableSpec, position: Position) -> int:
    return math.prod(spec.valid(position))


_trials: OrderedDict[tuple[str, str, Position, float], EncodedBrick] = OrderedDict()


def _trial(item: ItemPlan, variable: VariablePlan, position: Position, step: float) -> EncodedBrick:
    """One brick coded with a step; the latest ones are remembered."""
    key = (repr((item.candidate, item.options)), variable.spec.name, position, step)
    if key not in _trials:
        _trials[key] = encoded(jobs_of(item, variable, position, step))[1]
        while len(_trials) > 1 and sum(len(b.data) for b in _trials.values()) > _KEPT_BYTES:
            _trials.popitem(last=False)
    _trials.move_to_end(key)
    return _trials[key]


def _measured(
    item: ItemPlan, variable: VariablePlan, positions: Sequence[Position], step: float, kind: str
) -> float:
    """Bytes or squared error of several bricks at a step."""
    bricks = [(p, _trial(item, variable, p, step)) for p in positions]
    if kind == "bpv":
        return float(sum(len(brick.data) for _, brick in bricks))
    return math.fsum(squared_error(variable.spec, p, brick.records) for p, brick in bricks)


def squared_error(spec: VariableSpec, position: Position, tiles: Sequence[_Tile]) -> float:
    """Sum of squared errors of a brick at its last level, over all its voxels."""
    valid = spec.valid(position)
    if len(tiles) == 1:
        return tiles[0].mse[-1] * math.prod(valid)
    grid = TileGrid(valid, spec.tile_shape)
    sizes = {
        grid.position(number): math.prod(s.stop - s.start for s in grid.box(number))
        for number in range(len(grid))
    }
    return math.fsum(tile.mse[-1] * sizes[tile.position] for tile in tiles)


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
    for variable in item.variables:
        if "target" in variable.spec.parameters:
            _settle(item, variable, writer)


def _settle(item: ItemPlan, variable: VariablePlan, writer: ArchiveWriter) -> None:
    spec = variable.spec
    sample = sample_positions(spec)
    kind, total = _wanted(variable)
    rest = set(spec.positions()) - set(sample)
    others = math.fsum(_stored(writer, spec, position, kind) for position in sorted(rest))
    step = float(spec.parameters["step"])

    def measure(tried: float) -> float:
        return _measured(item, variable, sample, tried, kind)

    if rest:
        at_first = measure(step)
        # The sample cannot make up for more than a factor of two without standing out.
        wanted = min(max(total - others, at_first / 2), at_first * 2)
        step = search(measure, wanted, kind=kind, start=step)[0].step
    for position in sample:
        job = jobs_of(item, variable, position, step)
        brick = _trial(item, variable, position, step)
        writer.write_brick(spec.name, position, brick, values=voxels(job))


def _stored(writer: ArchiveWriter, spec: VariableSpec, position: Position, kind: str) -> float:
    record = writer.brick_state(spec.name, position)
    if record is None:
        raise StorageError(
            f"{spec.name} {position!r}: the brick is not stored yet", kind="incomplete"
        )
    return float(record.size) if kind == "bpv" else squared_error(spec, position, record.tiles)


def reached(variable: VariablePlan, nbytes: int, rmse: float) -> Reached | None:
    """What a sealed variable has of its target; None when it has none.

    Parameters
    ----------
    variable : VariablePlan
    nbytes : int
        Bytes of all its bricks.
    rmse : float
        Root mean squared error over all its voxels, stored units.
    """
    if "target" not in variable.spec.parameters:
        return None
    kind, wanted = variable.spec.parameters["target"]
    quantity = float(nbytes) if kind == "bpv" else rmse**2 * math.prod(variable.spec.shape)
    return Reached(kind, wanted, _value(variable, kind, quantity))
