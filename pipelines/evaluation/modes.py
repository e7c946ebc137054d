"""What is measured on one volume in each mode of the evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.archiving.plan import VariablePlan
from pipelines.evaluation.borders import BLOCK
from pipelines.evaluation.options import WHOLE, EvaluateOptions
from pipelines.evaluation.ours import OurChoice, OurVolume, Run, code_volume, our_name
from pipelines.evaluation.peers.exact import (
    BOUNDED_PEERS,
    LOSSLESS_PEERS,
    bounded_point,
    exact_point,
    lossless_point,
)
from pipelines.evaluation.peers.rates import PEERS, peer_points
from pipelines.evaluation.point import CodedSize, RatePoint, Reference
from pipelines.evaluation.whole import Archives
from pipelines.progress import Progress
from psc_volumetric.metrics import rate_bpv
from psc_volumetric.views import MEAN, ViewRequest

__all__ = ["ModeWork", "measure_bounded", "measure_lossless", "measure_lossy"]

INTEGER_BOUNDS = (1.0, 2.0, 5.0, 10.0)
RELATIVE_BOUNDS = (1e-4, 1e-3, 1e-2)

Methods = dict[str, dict[str, tuple[int, int]]]
Measured = tuple[list[RatePoint], Methods, list[str]]


@dataclass(frozen=True, eq=False)
class ModeWork:
    """A volume and the means to code it.

    Attributes
    ----------
    values, measured : arrays of one shape
        Stored values, and where they are measurements.
    stack : (n, y, x) array
        The volume as lossy peers see it, see `Reference`.
    peak : float
        Data range of the measured values.
    variable, prior, run, progress
        As for `code_volume`.
    archives : Archives
        Whole archives of the source.
    """

    values: NDArray[np.generic]
    measured: NDArray[np.bool_]
    stack: NDArray[np.generic]
    peak: float
    variable: VariablePlan
    prior: str | None
    run: Run
    progress: Progress
    archives: Archives

    def reference(self, *, wants_quality: bool, wants_perception: bool = False) -> Reference:
        """The volume that points are compared with."""
        low, sampled, spec = float(self.stack.min()), self.variable.range, self.variable.spec
        depth = self.stack.shape[0] if self.values.ndim < 3 else self.values.shape[-3]
        return Reference(
            self.stack,
            None if self.measured.all() else self.measured.reshape(self.stack.shape),
            low,
            self.peak,
            wants_quality,
            wants_perception,
            self.prior,
            (low, low + self.peak) if sampled is None else (sampled.low, sampled.high),
            {
                "blocks": (depth, BLOCK, BLOCK),
                "tiles": spec.tile_shape,
                "bricks": spec.brick_shape,
            },
            depth,
        )

    def ours(
        self,
        variant: str,
        options: EvaluateOptions,
        *,
        step: float | None = None,
        max_error: float | None = None,
    ) -> OurVolume:
        """Code the volume with this codec: ``variant`` as `EvaluateOptions.ours` has it."""
        words, _, view = variant.removeprefix(WHOLE).partition("@")
        base, _, coders = words.partition(":")
        archive = replace(
            options.archive,
            step=options.steps[0] if step is None else step,
            coders=coders or options.archive.coders,
        )
        decodes = options.mode != "lossy" or options.decodes
        seen = ViewRequest(view or MEAN)
        choice = OurChoice(archive, base, options.mode, max_error, decodes, seen)
        if variant.startswith(WHOLE):
            name = self.variable.spec.name
            return self.archives.volume(name, self.values, self.measured, choice)
        return code_volume(
            self.values, self.measured, self.variable, self.prior, choice, self.run, self.progress
        )

    def begin(self, title: str, total: int) -> None:
        """Show what is done next."""
        self.progress.begin(f"{self.variable.spec.name}: {title}", total)


def measure_lossy(work: ModeWork, options: EvaluateOptions) -> Measured:
    """Ours at every step and level; every peer at every rate."""
    reference = work.reference(
        wants_quality=options.wants_quality, wants_perception=options.wants_perception
    )
    points: list[RatePoint] = []
    methods: Methods = {}
    steps = options.steps if work.variable.is_lossy else options.steps[:1]
    for variant in options.variants:
        work.begin(our_name(variant), work.variable.bricks * len(steps))
        for step in steps:
            coded = work.ours(variant, options, step=step)
            methods[f"{our_name(variant)}, step {step:g}"] = coded.methods
            points += _levels(work, reference, coded, our_name(variant), step)
    work.begin("peers", len(options.chosen_peers))
    tasks = [(name, reference, options.bpv) for name in options.chosen_peers]
    for found in work.run(_peer_task, tasks):
        points += found
        work.progress.advance()
    return points, methods, []


def _peer_task(task: tuple[str, Reference, tuple[float, ...]]) -> list[RatePoint]:
    name, reference, targets = task
    return peer_points(PEERS[name], reference, targets)


def _levels(
    work: ModeWork, reference: Reference, coded: OurVolume, codec: str, step: float
) -> list[RatePoint]:
    """One point per quality level; the last one carries times and likeness (if wanted).

    Errors are those the encoder measured by decoding again, the same integers as any decoder's.
    """
    last = len(coded.nbytes) - 1
    voxels = int(work.measured.sum())
    points = []
    for level, nbytes in enumerate(coded.nbytes):
        point = RatePoint(
            codec=codec,
            parameter=f"step {step:g}, level {level} of {last}",
            nbytes=nbytes,
            rate_bpv=rate_bpv(nbytes, work.values.size),
            psnr_db=coded.psnr_db(level, work.peak, voxels),
            max_error=coded.largest[level],
            level=level,
        )
        if level == last:
            decoded = coded.decoded.reshape(work.stack.shape)
            point = replace(
                point,
                encode_s=coded.encode_s,
                decode_s=coded.decode_s or None,
                **reference.likeness(decoded),
            )
        points.append(point)
    return points


def measure_lossless(work: ModeWork, options: EvaluateOptions) -> Measured:
    """Ours and every peer on the stored bits."""
    points: list[RatePoint] = []
    methods: Methods = {}
    for variant in options.variants:
        work.begin(our_name(variant), work.variable.bricks)
        coded = work.ours(variant, options)
        methods[our_name(variant)] = coded.methods
        same = coded.decoded.tobytes() == work.values.tobytes()
        size = _size(our_name(variant), "lossless", coded)
        points.append(exact_point(size, work.values.size, holds=same))
    stack = np.ascontiguousarray(work.values.reshape(work.stack.shape))
    names, notes = _willing(LOSSLESS_PEERS, options.chosen_peers, stack)
    work.begin("peers", len(names))
    for point in work.run(_lossless_task, [(name, stack) for name in names]):
        points.append(point)
        work.progress.advance()
    return points, methods, notes


def _lossless_task(task: tuple[str, NDArray[np.generic]]) -> RatePoint:
    name, stack = task
    return lossless_point(LOSSLESS_PEERS[name], stack)


def measure_bounded(work: ModeWork, options: EvaluateOptions) -> Measured:
    """Ours and every peer at every bound, each checked voxel by voxel."""
    reference = work.reference(wants_quality=False)
    bounds = _bounds(work, options)
    points: list[RatePoint] = []
    methods: Methods = {}
    for variant in options.variants:
        work.begin(our_name(variant), work.variable.bricks * len(bounds))
        for label, bound in bounds.items():
            coded = work.ours(variant, options, max_error=bound)
            methods[f"{our_name(variant)}, {label}"] = coded.methods
            size = replace(_size(our_name(variant), label, coded), target=bound)
            decoded = coded.decoded.reshape(work.stack.shape)
            points.append(reference.point(size, decoded, bound))
    names, notes = _willing(BOUNDED_PEERS, options.chosen_peers, work.stack)
    tasks = [(name, reference, bound, label) for label, bound in bounds.items() for name in names]
    work.begin("peers", len(tasks))
    for point in work.run(_bounded_task, tasks):
        points.append(point)
        work.progress.advance()
    return points, methods, notes


def _bounded_task(task: tuple[str, Reference, float, str]) -> RatePoint:
    name, reference, bound, label = task
    point = bounded_point(BOUNDED_PEERS[name], reference, bound)
    return replace(point, parameter=label)


def _bounds(work: ModeWork, options: EvaluateOptions) -> dict[str, float]:
    """Label -> bound in stored units."""
    if work.values.dtype.kind == "f":
        shares = options.bounds or RELATIVE_BOUNDS
        return {f"{share:g} of range": share * work.peak for share in shares}
    bounds = options.bounds or INTEGER_BOUNDS
    return {f"max error {b:g}": float(b) for b in bounds if math.floor(b) == b}


def _size(codec: str, parameter: str, coded: OurVolume) -> CodedSize:
    return CodedSize(codec, parameter, coded.nbytes[-1], coded.encode_s, coded.decode_s)


def _willing(
    known: dict[str, Any], names: tuple[str, ...], stack: NDArray[np.generic]
) -> tuple[list[str], list[str]]:
    """Peers that can code the volume, and a note for each that cannot."""
    reasons = {name: known[name].refuses(stack) for name in names}
    able = [name for name, reason in reasons.items() if reason is None]
    return able, [f"{name} {reason}" for name, reason in reasons.items() if reason is not None]
