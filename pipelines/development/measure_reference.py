"""What a residual gains from the network.

    python -m pipelines.development.measure_reference SOURCE

Codes the middle of every variable that a prior can code, once with a layer of the values themselves
and once with a layer of the differences to the best lossy level, both with the context coder.
The numbers of decision 0012 come from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from pipelines.archiving.bricks import jobs_of, voxels
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import brick_prior, plan
from pipelines.commands.options import PriorName
from pipelines.development.measured_tiles import numbers
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    Guarantee,
    IntensityMapping,
    encode_brick,
)

__all__ = ["layer_bytes", "main"]

WORDS = {"none": "values", "base": "differences"}


def layer_bytes(brick: EncodedBrick) -> tuple[int, int, int]:
    """Bytes of a brick: of its base with the header, of its layers, and of both."""
    layers = sum(layer.nbytes for layer in brick.index.layers)
    return len(brick.data) - layers, layers, len(brick.data)


def measure(
    source: Path, prior: str | None, bounds: Sequence[float], crop: Sequence[int], step: float
) -> Iterator[str]:
    """One line per variable, promise and reference; rates in bits per voxel."""
    options = ArchiveOptions(mode="lossy", base="psc", step=step, prior=prior)
    for item in plan(source, "nowhere", options).items:
        for variable in item.variables:
            sampled = variable.range
            if sampled is None or item.prior is None:
                continue
            job = replace(
                jobs_of(item, variable, (0,) * variable.spec.ndim),
                box=middle(variable.spec.shape, crop),
            )
            values, tile = voxels(job), brick_prior(item.prior).tile_shape
            shape = tuple(-(-n // t) * t for n, t in zip(values.shape, tile, strict=True))
            for bound, (reference, word) in product(bounds, WORDS.items()):
                mode = "lossless" if bound == 0 else "bounded"
                brick = encode_brick(
                    values,
                    position=(0,),
                    shape=shape,
                    mapping=IntensityMapping(sampled.low, sampled.high),
                    parameters=CodecParameters(step=step),
                    prior=brick_prior(item.prior),
                    guarantee=Guarantee(mode, bound, reference, ("context",)),
                    options=BrickOptions(base="psc", special_values=job.special_values),
                )
                base, layer, total = (8 * n / values.size for n in layer_bytes(brick))
                yield (
                    f"{variable.spec.name:<16} error <= {bound:<6g} {word:<12} base {base:.3f}"
                    f"  layer {layer:.3f}  both {total:.3f} bpv  ({values.size} voxels)"
                )


def middle(shape: Sequence[int], crop: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Box of at most ``crop`` voxels in the middle; leading axes take one index."""
    lead = len(shape) - 3
    wanted = [*[1] * lead, *crop]
    starts = [(n - min(n, w)) // 2 for n, w in zip(shape, wanted, strict=True)]
    return tuple((s, s + min(n, w)) for s, n, w in zip(starts, shape, wanted, strict=True))


def main(
    source: Path,
    prior: PriorName = None,
    bounds: Annotated[str, typer.Option(help="Largest errors; 0 is lossless.")] = "0,5,20",
    crop: Annotated[tuple[int, int, int], typer.Option(help="Voxels, z y x.")] = (16, 128, 128),
    step: Annotated[float, typer.Option(help="Of the lossy base.")] = 0.5,
) -> None:
    """Print the bytes of exact layers with and without a prior."""
    for line in measure(source, prior, numbers(bounds), crop, step):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
