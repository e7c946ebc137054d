"""One slice at a few rates, by each method beside the source, as one picture.

    python -m pipelines.development.posterior_pictures SOURCE OUT.png [--bpv 0.02,0.05,0.1]

The first brick of the first volume is coded whole at each rate, z split as suits a step of 0.6;
PSNR is over the brick, against the range of its values. The volume must be one that may be shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.archiving.bricks import jobs_of, voxels
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import brick_prior, plan
from pipelines.commands.options import PriorName
from pipelines.evaluation.options import parse_numbers
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.posterior.method import METHOD
from psc_volumetric.methods.posterior.source import PosteriorSource
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.registry import REGISTRY
from psc_volumetric.methods.sampled import SampledSource, Trial
from psc_volumetric.methods.search import SteppedSource
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["Picture", "coded_pictures", "draw"]

FIRST_STEP = 0.6  # normalised units
SLOPE = 1.4  # of the logarithm of bytes over that of the quantiser step, at first
TOLERANCE = 0.02  # share of the bytes wanted
MOST_TRIALS = 6
WIDTH = 1.7  # inches of a picture
DOTS = 100


@dataclass(frozen=True)
class Picture:
    """A brick as a method has it at a rate."""

    title: str
    values: NDArray[np.generic]


def coded_pictures(source: Path, rates: tuple[float, ...], prior: str | None) -> list[Picture]:
    """The source, then AV1, the wavelet and the posterior at every rate; whole bricks.

    Raises
    ------
    ParameterError : no network is made for the source, or it cannot be coded with one
        (kind ``"no-volume"``).
    """
    job = _job(source, prior)
    posterior = METHOD.source(job, Resources())
    stepped = REGISTRY.method("av1").source(job, Resources())
    if posterior is None or not isinstance(stepped, SteppedSource):
        raise ParameterError(
            f"{source.name}: expected a volume that wavelet and AV1 can code", kind="no-volume"
        )
    av1, wavelet = (one.at_step().source for one in (stepped, posterior.wavelet))
    pictures = [Picture("source", job.values)]
    for rate in rates:
        nbytes = rate * job.values.size / 8
        pictures.append(_picture("AV1", job, _at_size(av1, job.step, nbytes), av1))
        trial = _at_size(wavelet, job.step, nbytes)
        pictures.append(_picture("wavelet", job, trial, wavelet))
        pictures.append(_restored(job, posterior, wavelet, trial))
    return pictures


def _job(source: Path, prior: str | None) -> EncodeJob:
    """The first brick of the first volume."""
    item = plan(source, "unused.psc.zarr", ArchiveOptions("lossy", base="posterior", prior=prior))
    first, variable = item.items[0], item.items[0].variables[0]
    sampled, position = variable.kept.range, next(iter(variable.spec.positions()))
    if first.prior is None or sampled is None:
        raise ParameterError(
            f"{source.name}: expected a volume with a posterior network", kind="no-volume"
        )
    values = voxels(jobs_of(first, variable, position))
    z, y, x = values.shape
    return EncodeJob(
        values,
        BrickHeader("none", values.dtype, position, variable.spec.brick_shape, (z, y, x)),
        None,
        None,
        IntensityMapping(sampled.low, sampled.high),
        CodecParameters(step=FIRST_STEP),
        brick_prior(first.prior),
        (z, y, x),
    )


def _at_size(source: SampledSource, step: float, nbytes: float) -> Trial:
    """The coding nearest to a number of bytes that a few secants find."""
    best, seen = source.code(step), list[tuple[float, float]]()
    trial, slope = best, SLOPE
    for _ in range(MOST_TRIALS - 1):
        gap = math.log(len(trial.data) / nbytes)
        seen.append((math.log(trial.step), gap))
        if abs(gap) < abs(math.log(len(best.data) / nbytes)):
            best = trial
        if abs(gap) < TOLERANCE:
            break
        if len(seen) > 1 and seen[-1][0] != seen[-2][0]:
            found = (seen[-2][1] - seen[-1][1]) / (seen[-1][0] - seen[-2][0])
            slope = min(max(found, 0.5), 3.0)
        trial = source.code(math.exp(seen[-1][0] + gap / slope))
    return min(best, trial, key=lambda one: abs(math.log(len(one.data) / nbytes)))


def _picture(name: str, job: EncodeJob, trial: Trial, source: SampledSource) -> Picture:
    decoded = source.stored(trial.fields, trial.samples)
    return Picture(_title(name, job, len(trial.data), trial.mse), decoded)


def _restored(
    job: EncodeJob, posterior: PosteriorSource, wavelet: SampledSource, trial: Trial
) -> Picture:
    attempt = posterior.corrected(wavelet, trial)
    return Picture(_title("posterior", job, attempt.nbytes, attempt.mse), attempt.decoded)


def _title(name: str, job: EncodeJob, nbytes: int, mse: float) -> str:
    peak = float(job.values.max()) - float(job.values.min())
    psnr = 10 * math.log10(peak**2 / max(mse, 1e-300))
    return f"{name}, {8 * nbytes / job.values.size:.3f} bpv, {psnr:.2f} dB"


def draw(
    pictures: list[Picture], columns: int, out: Path, cut: Callable[[Picture], NDArray[np.float64]]
) -> None:
    """Write a PNG with the source above rows of ``columns`` pictures."""
    from matplotlib.figure import Figure
    from PIL import Image

    rows = 1 + (len(pictures) - 1) // columns
    figure = Figure(figsize=(columns * WIDTH, rows * WIDTH * 1.08), dpi=DOTS, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high = (float(v) for v in np.percentile(cut(pictures[0]), (0.5, 99.8)))
    blank = [None] * (columns - 1)
    for axis, picture in zip(axes.flat, [pictures[0], *blank, *pictures[1:]], strict=True):
        axis.set_axis_off()
        if picture is not None:
            axis.imshow(cut(picture), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axis.set_title(picture.title, fontsize=6)
    figure.savefig(out, metadata={"Software": None})
    with Image.open(out) as drawn:
        gray = drawn.convert("L")
    gray.save(out, optimize=True)


def main(
    source: Annotated[Path, typer.Argument(help="File or folder with a volume.")],
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
    bpv: Annotated[str, typer.Option(help="Rates.")] = "0.02,0.05,0.1",
    plane: Annotated[int | None, typer.Option(help="Slice; default: the middle.")] = None,
    crop: Annotated[int, typer.Option(help="Rows and columns from the middle.")] = 160,
    prior: PriorName = None,
) -> None:
    """Draw one slice at every rate."""
    pictures = coded_pictures(source, parse_numbers(bpv, "--bpv"), prior)

    def cut(picture: Picture) -> NDArray[np.float64]:
        count, *extents = picture.values.shape
        y, x = (slice(max(n - crop, 0) // 2, max(n - crop, 0) // 2 + crop) for n in extents)
        chosen = picture.values[count // 2 if plane is None else plane, y, x]
        found: NDArray[np.float64] = chosen.astype(np.float64)
        return found

    draw(pictures, 3, out, cut)
    typer.echo("\n".join(picture.title for picture in pictures[1:]))


if __name__ == "__main__":
    typer.run(main)
