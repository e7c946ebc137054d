"""What a lossy base below a bounded or lossless layer costs and saves, in bytes.

    python -m pipelines.development.measure_bases SOURCE ... [--bases wavelet,posterior]

Codes the middle of every variable without a base, and on every base at quantiser steps that are
multiples of the layer's own; the layer refers to the base. The first table of decision 0060 comes
from here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from pipelines.archiving.bricks import jobs_of, voxels
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import brick_prior, plan
from pipelines.commands.options import PriorName
from pipelines.development.measure_reference import layer_bytes, middle
from pipelines.development.measured_tiles import numbers
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    Guarantee,
    IntensityMapping,
    encode_brick,
)
from psc_volumetric.prior import Prior

__all__ = ["Part", "code", "main"]

HEAD = "| volume | error | base | step | base, bpv | layer, bpv | both, bpv | over none | CPU s |\n"
HEAD += "|" + "---|" * 9
NONE = "none"


@dataclass(frozen=True, eq=False)
class Part:
    """The middle of a variable: stored values, their range, special values, and a network."""

    name: str
    values: NDArray[Any]
    range: tuple[float, float]
    special: tuple[float | int, ...]
    prior: Prior


def parts(
    sources: Sequence[Path], crop: Sequence[int], prior: str | None, base: str
) -> Iterator[Part]:
    """The middle of every variable that has a network."""
    options = ArchiveOptions(mode="lossy", base=base, prior=prior)
    for source in sources:
        for item in plan(source, "nowhere", options).items:
            for variable in item.variables:
                sampled = variable.range
                if sampled is None or item.prior is None:
                    continue
                job = jobs_of(item, variable, (0,) * variable.spec.ndim)
                values = voxels(replace(job, box=middle(variable.spec.shape, crop)))
                network = brick_prior(item.prior)
                ends = sampled.low, sampled.high
                yield Part(source.name, values, ends, job.special_values, network)


def code(part: Part, bound: float, base: str, step: float) -> tuple[EncodedBrick, float]:
    """A brick with a bounded layer (lossless for 0) over a base at a step in stored units.

    Also gives CPU seconds.
    """
    z, y, x = part.values.shape
    low, high = part.range
    coders = ("context", "interpolation") if base == NONE and bound else ("context",)
    start = time.process_time()
    brick = encode_brick(
        part.values,
        position=(0,),
        shape=(z, y, x),
        mapping=IntensityMapping(low, high),
        parameters=CodecParameters(step=2 * step / (high - low)),
        prior=part.prior if base != "wavelet" else None,
        guarantee=Guarantee(
            "bounded" if bound else "lossless", bound or None,
            NONE if base == NONE else "base", coders, is_proven_later=True,
        ),
        options=BrickOptions(base=base, special_values=part.special),
    )  # fmt: skip
    return brick, time.process_time() - start


def rows(part: Part, bound: float, bases: Sequence[str], steps: Sequence[float]) -> Iterator[str]:
    """Lines of the table."""
    alone, seconds = code(part, bound, NONE, 1.0)
    size = len(alone.data)
    tried = [(NONE, 0.0, alone, seconds)]
    for base in bases:
        for share in steps:
            tried.append((base, share, *code(part, bound, base, share * (2 * bound + 1))))
    for base, share, brick, seconds in tried:
        below, layer, both = (8 * n / part.values.size for n in layer_bytes(brick))
        yield (
            f"| {part.name} | {bound:g} | {base} | {share:g} | {below:.3f} | {layer:.3f} | "
            f"{both:.3f} | {100 * len(brick.data) / size - 100:+.1f} % | {seconds:.1f} |"
        )


def main(
    sources: list[Path],
    bases: Annotated[str, typer.Option(help="Methods.")] = "wavelet,posterior,foresight",
    bounds: Annotated[str, typer.Option("--max-error", help="0 is lossless.")] = "0,2,5,10",
    steps: Annotated[str, typer.Option(help="Of the base, in steps of the layer.")] = "1,2,4,8",
    crop: Annotated[tuple[int, int, int], typer.Option(help="Voxels, z y x.")] = (16, 160, 160),
    prior: PriorName = None,
) -> None:
    """Print bytes of layers with and without bases."""
    names = bases.split(",")
    typer.echo(HEAD)
    for part in parts(sources, crop, prior, names[-1]):
        for bound in numbers(bounds):
            for line in rows(part, bound, names, numbers(steps)):
                typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
