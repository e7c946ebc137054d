"""A quantiser step near the one that meets a target, found with the quickest method.

Coding a brick with all methods takes tens of seconds, with the wavelet one or two. Bytes and
errors of the others are a share of the wavelet's that changes little with the step: it is measured
on a few slices of the brick. All are drafts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.archiving.bricks import BrickJob, encoded
from psc_volumetric.methods.parameters import LARGEST_STEP, SMALLEST_STEP
from psc_volumetric.methods.search import few_slices
from psc_volumetric.threads import mapped

__all__ = ["guessed_step"]

QUICKEST = "wavelet"
WORTH_A_GUESS = 1 << 20  # voxels of a brick: smaller ones are coded as quickly
MOST_BRICKS = 4
FEW_VOXELS = {True: 1 << 17, False: 1 << 19}  # of a brick, with a prior and without one
MOST_TRIALS = 4
NEAR = 0.05  # logarithm of what is found over what is wanted
FARTHEST = 3.0  # logarithm of a step over the one before
SLOPES = {"bpv": -1.2, "psnr": 1.3}  # of log bytes and log squared error over log step


def guessed_step(jobs: Sequence[BrickJob], wanted: float, kind: str, start: float) -> float:
    """A step at which bricks have roughly what is wanted of them.

    Parameters
    ----------
    jobs : sequence of BrickJob
        The bricks; their own steps do not matter.
    wanted : float
        Bytes (kind ``"bpv"``) or squared error (``"psnr"``) for each voxel.
    kind : str
    start : float
        Where to begin; given back where coding the bricks takes no longer than guessing.

    Raises
    ------
    SourceError, PriorMismatchError : as `encoded`.
    """
    large = [job for job in jobs if _voxels(job) >= WORTH_A_GUESS and job.kept.base != QUICKEST]
    if not large or not wanted > 0:
        return start
    count = min(len(large), MOST_BRICKS)
    chosen = [large[(2 * i + 1) * len(large) // (2 * count)] for i in range(count)]
    total = wanted * sum(map(_voxels, chosen))
    rough = _Rough(chosen, kind)
    x, slope = math.log(start), SLOPES[kind]
    before: tuple[float, float] | None = None
    for _ in range(MOST_TRIALS):
        gap = math.log(max(rough(math.exp(x)), 1e-300) / total)
        if before is not None and x != before[0]:
            found = (gap - before[1]) / (x - before[0])
            slope = math.copysign(min(max(abs(found), 0.3), 4.0), slope)
        before = x, gap
        moved = x - min(max(gap / slope, -FARTHEST), FARTHEST)
        x = min(max(moved, math.log(SMALLEST_STEP)), math.log(LARGEST_STEP))
        if abs(gap) <= NEAR:
            break
    return float(f"{math.exp(x):.6g}")


@dataclass(frozen=True)
class _Rough:
    """Bytes or squared error of bricks at any step, roughly."""

    jobs: Sequence[BrickJob]
    kind: str
    _shares: dict[int, list[float]] = field(default_factory=dict)

    def __call__(self, step: float) -> float:
        """The sum over all bricks."""
        whole = mapped(lambda job: self._quantity(_quickly(job), step), self.jobs)
        octave = round(math.log2(step))
        if octave not in self._shares:
            self._shares[octave] = mapped(lambda job: self._share(job, 2.0**octave), self.jobs)
        return math.fsum(a * b for a, b in zip(whole, self._shares[octave], strict=True))

    def _share(self, job: BrickJob, step: float) -> float:
        """What a few slices have, over what they have with the quickest method."""
        few = replace(job, box=_few(job.box, FEW_VOXELS[job.prior is not None]))
        base = self._quantity(_quickly(few), step)
        return self._quantity(few, step) / base if base else 1.0

    def _quantity(self, job: BrickJob, step: float) -> float:
        near = min(max(step, SMALLEST_STEP), LARGEST_STEP)
        values, brick = encoded(replace(job, step=near, is_draft=True))
        if self.kind == "bpv" or brick.last is None:
            return float(len(brick.data))
        error = brick.last.astype(np.float64) - values.astype(np.float64)
        return float(np.nansum(error**2))


def _quickly(job: BrickJob) -> BrickJob:
    return replace(job, prior=None, kept=replace(job.kept, base=QUICKEST))


def _voxels(job: BrickJob) -> int:
    return math.prod(stop - start for start, stop in job.box)


def _few(box: tuple[tuple[int, int], ...], voxels: int) -> tuple[tuple[int, int], ...]:
    """The box with fewer slices."""
    axes = box[-3:]
    shape = [1] * (3 - len(axes)) + [stop - start for start, stop in axes]
    parts = few_slices((shape[0], shape[1], shape[2]), voxels)[-len(axes) :]
    inside = ((a + part.start, a + part.stop) for (a, _), part in zip(axes, parts, strict=True))
    return (*box[:-3], *inside)
