"""What a posterior network adds to the wavelet on whole volumes, at no bits, and what it takes.

    python -m pipelines.development.posterior_gain SOURCE ... [--step 0.25,0.5,1] [--foresight]

Every brick is coded once at each step and decoded again from its bytes; with ``--foresight`` by the
method of that name, whose bytes are compared with those of ``posterior``. Nothing is written.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.archiving.bricks import jobs_of, voxels
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan, VariablePlan, brick_prior, plan
from pipelines.commands.options import PriorName
from pipelines.evaluation.options import parse_numbers
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import write_brick
from psc_volumetric.codec import decode_brick
from psc_volumetric.methods.foresight.source import ForesightAttempt
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.posterior.method import METHOD
from psc_volumetric.methods.posterior.source import PosteriorAttempt
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.registry import REGISTRY
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.prior import resolve_prior
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.values.special import SpecialMap

__all__ = ["Gain", "measure_gain"]

HEAD = (
    "| volume | step | bpv | foreseen | wavelet dB | + posterior dB | gain | gains, sixteenths "
    "| within 1, 2 sigma | decode MB/s |"
)
WHOLE = (slice(None), slice(None), slice(None))


@dataclass
class Gain:
    """Sums over the bricks of a volume at a step.

    Attributes
    ----------
    voxels, nbytes, plain : int
        Measured voxels; bytes of the bricks, and of ``posterior`` where they are not foreseen.
    before, after : float
        Squared errors of the wavelet and with the network, stored units.
    inside : (2,) float64
        Voxels within 1 and 2 sigma.
    gains : list of int
        Of each brick, in sixteenths.
    decoded : int
        Bytes of values that were decoded.
    seconds : float
        CPU time of that.
    """

    voxels: int = 0
    nbytes: int = 0
    plain: int = 0
    before: float = 0.0
    after: float = 0.0
    inside: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    gains: list[int] = field(default_factory=list)
    decoded: int = 0
    seconds: float = 0.0

    def add(self, values: NDArray[np.generic], attempt: PosteriorAttempt, data: bytes) -> None:
        """Count one brick."""
        count, view = int(attempt.source.measured.sum()), attempt.view
        self.voxels, self.nbytes = self.voxels + count, self.nbytes + len(data)
        self.before += attempt.trial.mse * count
        self.after += attempt.mse * count
        self.gains.append(0 if view is None else view.gain)
        began = time.process_time()
        found = decode_brick(
            lambda start, size: data[start : start + size],
            selection=WHOLE, prior=resolve_prior, spread=True,
        )  # fmt: skip
        self.seconds += time.process_time() - began
        self.decoded += values.nbytes
        inside = attempt.source.measured
        error = found.values[inside].astype(np.float64) - values[inside].astype(np.float64)
        if not math.isclose(float(np.mean(error**2)), attempt.mse, rel_tol=1e-9):
            raise AssertionError("decoding gave other values than the encoder's")

    def row(self, name: str, step: float, peak: float) -> str:
        """A line of the table."""
        before, after = (
            10 * math.log10(peak**2 * self.voxels / max(e, 1e-300))
            for e in (self.before, self.after)
        )
        one, two = self.inside / self.voxels
        return (
            f"| {name} | {step:g} | {8 * self.nbytes / self.voxels:.4f} "
            f"| {100 * (self.nbytes / self.plain - 1):+.2f} % | {before:.2f} "
            f"| {after:.2f} | {after - before:+.2f} | {min(self.gains)} .. {max(self.gains)} "
            f"| {one:.3f}, {two:.3f} | {self.decoded / 1e6 / max(self.seconds, 1e-9):.2f} |"
        )


def measure_gain(
    item: ItemPlan,
    variable: VariablePlan,
    step: float,
    depth: int | None,
    *,
    foresight: bool = False,
) -> Gain:
    """Code the bricks of a volume with and without the network.

    Parameters
    ----------
    item, variable
        From :func:`pipelines.archiving.plan.plan` for mode lossy and base ``posterior``.
    step : float
        Quantiser step, normalised units.
    depth : int, optional
        Splits of z; None takes those that the encoder finds best, in five times the time.
    foresight : bool
        Whether coefficients are foreseen.
    """
    total, spec, sampled = Gain(), variable.spec, variable.kept.range
    assert item.prior is not None and sampled is not None
    for position in spec.positions():
        values = voxels(jobs_of(item, variable, position))
        z, y, x = values.shape
        header = BrickHeader("none", values.dtype, position, spec.brick_shape, (z, y, x))
        special = SpecialMap.find(values, spec.special_values)
        job = EncodeJob(
            values, header, special, None, IntensityMapping(sampled.low, sampled.high),
            CodecParameters(step=step), brick_prior(item.prior), (z, y, x),
        )  # fmt: skip
        source = METHOD.source(job, Resources())
        if source is None:
            continue
        if depth is None:
            attempt = source.at_step()
        else:
            wavelet = WaveletSource(values, special, None, depth)
            attempt = source.corrected(wavelet, wavelet.code(job.step))
        base = (ForesightAttempt(attempt) if foresight else attempt).finish()
        packed = b"" if special is None else special.pack()
        data, _ = write_brick(
            BrickHeader(base.method, values.dtype, position, spec.brick_shape, (z, y, x)),
            [("special", packed), *base.sections], methods=REGISTRY, fields=base.fields,
        )  # fmt: skip
        total.add(values, attempt, data)
        total.plain += len(data) - len(dict(base.sections)["base"]) + attempt.nbytes
        total.inside += np.array(base.coverage[0][:2]) * int(attempt.source.measured.sum())
    return total


def main(
    sources: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    step: Annotated[str, typer.Option(help="Quantiser steps.")] = "0.25,0.5,1",
    depth: Annotated[int | None, typer.Option(help="Splits of z; default: the best.")] = None,
    foresight: Annotated[bool, typer.Option(help="Foresee coefficients.")] = False,
    prior: PriorName = None,
) -> None:
    """Print one row for each volume and step."""
    sys.stdout.write(f"{HEAD}\n|{'---|' * HEAD.count(' | ')}---|\n")
    options = ArchiveOptions(mode="lossy", base="posterior", prior=prior)
    for source in sources:
        for item in plan(source, "unused.psc.zarr", options).items:
            for variable in item.variables:
                for each in parse_numbers(step, "--step"):
                    found = measure_gain(item, variable, each, depth, foresight=foresight)
                    if found.voxels:
                        peak = _peak(item, variable)
                        sys.stdout.write(found.row(source.name, each, peak) + "\n")
                        sys.stdout.flush()


def _peak(item: ItemPlan, variable: VariablePlan) -> float:
    """Range of the measured values."""
    least, largest = math.inf, -math.inf
    for position in variable.spec.positions():
        values = voxels(jobs_of(item, variable, position))
        special = SpecialMap.find(values, variable.spec.special_values)
        inside = values if special is None else values[special.index == 0]
        if inside.size:
            least, largest = min(least, float(inside.min())), max(largest, float(inside.max()))
    return largest - least


if __name__ == "__main__":
    typer.run(main)
