"""The coding of a brick of samples that has at most a given error. Encoder only.

A source has one lever, the quantiser step, and sometimes variants (axes, depths). Here the step is
searched: quickly first, and slowly where that may pay.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from psc_volumetric.arrays import Triple
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.methods.protocol import DecodedBrick, EncodedBase, EncodeJob, Resources
from psc_volumetric.methods.sampled import SampledSource, Trial, decode_sampled
from psc_volumetric.of_process import OwnLock
from psc_volumetric.threads import mapped
from psc_volumetric.tiling import Box

__all__ = ["SLOPE", "SampledMethod", "SteppedSource", "few_slices", "middle_of"]

HOPELESS = 1.35  # bytes of a quick search over the best ones; the slow one saves 5 to 25 %
SLOPE = 1.2  # of the logarithm of the squared error over that of the quantiser step
MOST_TRIALS = 6
LARGE = 1 << 20  # voxels of a brick that takes long
VARIANT_VOXELS = 1 << 18  # of its middle, on which variants are compared
FEWEST_ROWS = 64  # and columns of that
FEWEST_SLICES, FEW_VOXELS = 4, 1 << 19  # on which methods are compared
SLOWLY = 1.05  # quantiser step of the slow encoder over that of the quick one, at equal error


@dataclass(frozen=True)
class _Patience:
    """What a search by an encoder with a quick and a slow way may take.

    Attributes
    ----------
    quick, slow : int
        Codings.
    tolerance : float
        Share of the squared error that the result may lie below the one wanted.
    """

    quick: int
    slow: int
    tolerance: float


USUAL, FOR_LARGE = _Patience(2, 4, 0.03), _Patience(1, 3, 0.08)
MODEST = _Patience(MOST_TRIALS, 3, 0.03)
ROUGH = _Patience(3, 0, 0.1)
MODEST_SLOWNESS = 3  # of a good coding over a quick one


@dataclass(frozen=True)
class SampledMethod:
    """A base method whose levels are samples (:class:`psc_volumetric.methods.protocol.BaseMethod`).

    Attributes
    ----------
    name : str
    kind : type of SampledSource
    """

    name: str
    kind: type[SampledSource]

    def source(self, job: EncodeJob, resources: Resources) -> SteppedSource | None:
        """Look at a brick; None when its dtype or range is out of reach."""
        if not self.kind.takes(job.values):
            return None
        source = self.kind.of(job)
        return SteppedSource(self.name, source, job.step, job.tile) if source.fits() else None

    def decode(
        self,
        read: ReadRange,
        index: BrickIndex,
        *,
        box: Box,
        level: int,
        resources: Resources,
        spread: bool,
    ) -> DecodedBrick:
        """Decode a region; there is one level, and no network."""
        return decode_sampled(self.kind, read, index, box=box, spread=spread)


@dataclass(frozen=True)
class _Attempt:
    """One coding, and what is needed to finish it."""

    name: str
    source: SampledSource
    trial: Trial
    tile: Triple

    @property
    def nbytes(self) -> int:
        """Bytes of the stream."""
        return len(self.trial.data)

    @property
    def mse(self) -> float:
        """Mean squared error in stored units."""
        return self.trial.mse

    @property
    def step(self) -> float:
        """Quantiser step in stored units."""
        return self.trial.step

    def finish(self) -> EncodedBase:
        """Measure sigma."""
        return self.source.finish(self.trial, self.tile, self.name)


@dataclass(frozen=True)
class SteppedSource:
    """A brick of samples with the step that is asked for.

    Attributes
    ----------
    name : str
        Of the method.
    source : SampledSource
    step : float
        Quantiser step in stored units.
    tile : (z, y, x)
        Tiles of the records.
    """

    name: str
    source: SampledSource
    step: float
    tile: Triple

    def reaches(self, step: float) -> bool:
        """Whether errors as small as those of a quantiser step can be had at all."""
        return self.source.reaches(step)

    def at_step(self) -> _Attempt:
        """The cheapest variant at the step."""
        source = _best_variant(self.source, self.step)
        return _Attempt(self.name, source, source.code(self.step), self.tile)

    def at_error(self, mse: float, *, limit: float) -> _Attempt:
        """The coding whose squared error is nearest below ``mse``.

        A quick coding far above ``limit`` bytes is not searched slowly.
        """
        start = math.sqrt(20 * mse)
        source = _best_variant(self.source, start)
        if source.is_draft:
            trial = _search(source, mse, start, most=ROUGH.quick, tolerance=ROUGH.tolerance)
            return _Attempt(self.name, source, trial, self.tile)
        if source.slowness == 1:
            return _Attempt(self.name, source, _search(source, mse, start), self.tile)
        taken = FOR_LARGE if source.values.size >= LARGE else USUAL
        if source.slowness <= MODEST_SLOWNESS:
            taken = MODEST
        trial = _search(source, mse, start, quick=True, most=taken.quick)
        far = max(trial.mse, 1e-300) / mse
        if len(trial.data) * far ** (1 / SLOPE) <= HOPELESS * limit:
            aim = far / (1 - taken.tolerance / 2)
            near = trial.step * SLOWLY / aim ** (1 / SLOPE)
            trial = _search(source, mse, near, most=taken.slow, tolerance=taken.tolerance)
        return _Attempt(self.name, source, trial, self.tile)


def _best_variant(source: SampledSource, step: float) -> SampledSource:
    """The way of coding a brick that a quick coding of it, or of its middle, finds cheapest.

    Bytes and error differ at a step; the slope of a rate-distortion curve puts them together. An
    error near or below that of rounding to integers is not worth what the curve says. A search for
    a target codes a brick at several steps: those of an octave share what was found on the whole.
    """
    variants = source.variants()
    if len(variants) == 1:
        return variants[0]

    rounding = 1 / 12 if source.values.dtype.kind != "f" else 1e-300

    def cost(other: SampledSource) -> float:
        trial = other.code(step, quick=True)
        return math.log(len(trial.data)) + math.log(trial.mse + rounding) / SLOPE

    tried = variants
    if source.values.size < LARGE:
        return variants[_least(mapped(cost, tried))]
    if source.compares_whole:
        octave = round(math.log2(step))
        key = (type(source), octave, hashlib.sha256(source.clean.tobytes()).digest())
        with _lock:
            if key not in _compared:
                _compared[key] = _least(mapped(cost, tried))
                while len(_compared) > VERDICTS_KEPT:
                    del _compared[next(iter(_compared))]
            return variants[_compared[key]]
    inside = source.part(middle_of(source.shape)).variants()
    tried = inside if len(inside) == len(variants) else variants
    return variants[_least(mapped(cost, tried))]


VERDICTS_KEPT = 64
_compared: dict[tuple[type, int, bytes], int] = {}
_lock = OwnLock()


def _least(costs: list[float]) -> int:
    return costs.index(min(costs))


def middle_of(shape: Triple) -> Box:
    """Whole depth of a brick, and the middle of its rows and columns."""
    share = math.sqrt(VARIANT_VOXELS / math.prod(shape))
    box = [slice(0, shape[0])]
    for size in shape[1:]:
        extent = min(max(round(size * share), FEWEST_ROWS), size)
        start = (size - extent) // 2
        box.append(slice(start, start + extent))
    return box[0], box[1], box[2]


def few_slices(shape: Triple, voxels: int = FEW_VOXELS) -> Box:
    """Slices of the middle with so many voxels, or four with at most twice as many.

    They are whole if they are not too large. A part of the rows and columns would say less: what
    is in the middle of a scan is not what is at its borders, and a coder learns from a whole slice.
    """
    z, y, x = shape
    slices = min(max(voxels // (y * x), FEWEST_SLICES), z)
    share = math.sqrt(min(2 * voxels / (slices * y * x), 1.0))
    extents = (slices, *(min(max(round(n * share), FEWEST_ROWS), n) for n in (y, x)))
    starts = [(size - extent) // 2 for size, extent in zip(shape, extents, strict=True)]
    box = [slice(start, start + n) for start, n in zip(starts, extents, strict=True)]
    return box[0], box[1], box[2]


def _search(
    source: SampledSource,
    wanted: float,
    start: float,
    *,
    quick: bool = False,
    most: int = MOST_TRIALS,
    tolerance: float = USUAL.tolerance,
) -> Trial:
    """The coding whose squared error is nearest to the one wanted, and not above it.

    Secants of logarithms, kept between the nearest steps below and above once there are both: what
    an encoder makes of a step is no smooth function of it.
    """
    slope, aim, x = SLOPE, -tolerance / 2, math.log(start)
    trials: list[tuple[float, float, Trial]] = []
    for _ in range(most):
        trial = source.code(math.exp(x), quick=quick)
        gap = math.log(max(trial.mse, 1e-300) / wanted)
        trials.append((x, gap, trial))
        if -tolerance <= gap <= 0:
            return trial
        if len(trials) > 1 and x != trials[-2][0]:
            found = (gap - trials[-2][1]) / (x - trials[-2][0])
            slope = min(max(abs(found), 0.3), 3.0)
        x = _within(x - min(max((gap - aim) / slope, -3.0), 3.0), trials, aim)
    below = [t for t in trials if t[1] <= 0]
    return min(below or trials, key=lambda t: abs(t[1]))[2]


def _within(x: float, trials: list[tuple[float, float, Trial]], aim: float) -> float:
    """``x``, or a point between the nearest trials on both sides of the aim if it lies outside."""
    under = max((t[:2] for t in trials if t[1] < aim), default=None)
    over = min((t[:2] for t in trials if t[1] > aim), default=None)
    if under is None or over is None or under[0] >= over[0]:
        return x
    width = over[0] - under[0]
    if under[0] + 0.05 * width < x < over[0] - 0.05 * width:
        return x
    share = (aim - under[1]) / (over[1] - under[1])
    return under[0] + width * min(max(share, 0.1), 0.9)
