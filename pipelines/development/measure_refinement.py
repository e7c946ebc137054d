"""What the bounded level of a lossless archive costs, and what the light model saves.

    python -m pipelines.development.measure_refinement SOURCE ...

Codes every brick of every variable with the context coder: alone, with a bounded level below whose
lossless layer is a refinement, with one that is not, as an archive does without being asked, and
alone by the light model. The numbers of decisions 0037 and 0044 come from here. Machine code is
loaded, or made, before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.archiving.bricks import BrickJob, jobs_of, voxels
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from pipelines.archiving.planned import ItemPlan, VariablePlan
from pipelines.archiving.suggested_bound import BUDGET
from pipelines.development.measured_tiles import numbers
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    decode_brick,
    encode_brick,
)

__all__ = ["Coded", "code", "main"]

HEAD = (
    "| volume | error | alone | bounded level | refined, all | apart, all | by default | "
    "light | s to write / read alone | refined | light |\n" + "|---" * 11 + "|"
)
CODERS = ("context", "refinement")


class Coded(NamedTuple):
    """Bytes of some bricks, of their bounded level, and CPU seconds to write and to read them."""

    nbytes: int
    below: int
    write_s: float
    read_s: float


def code(values: NDArray[np.generic], job: BrickJob, guarantee: Guarantee) -> Coded:
    """Code one brick and decode it.

    Raises
    ------
    AssertionError
        It does not come back.
    """
    start = time.process_time()
    brick = encode_brick(
        values,
        position=job.position,
        shape=job.brick_shape,
        mapping=None,
        prior=None,
        parameters=CodecParameters(),
        guarantee=guarantee,
        options=BrickOptions(special_values=job.special_values),
    )
    coded = time.process_time()
    whole = (slice(None),) * 3
    decoded = decode_brick(lambda at, n: brick.data[at : at + n], selection=whole).values
    read = time.process_time()
    assert decoded.tobytes() == values.astype(decoded.dtype).tobytes()
    layers = brick.index.layers
    below = sum(layer.nbytes for layer in layers if layer.kind == "bounded")
    return Coded(len(brick.data), below, coded - start, read - coded)


def measure(source: Path, bounds: Sequence[float]) -> Iterator[str]:
    """One row of a table per variable and bound."""
    for item in plan(source, "nowhere", ArchiveOptions()).items:
        for variable in item.variables:
            suggested = variable.kept.max_error
            wanted = bounds or ([] if suggested is None else [suggested])
            for bound in wanted:
                ways = {
                    "alone": Guarantee("lossless", coders=("context",), is_proven_later=True),
                    "refined": Guarantee("lossless", bound, coders=CODERS, is_proven_later=True),
                    "apart": Guarantee(
                        "lossless", bound, coders=("context",), is_proven_later=True
                    ),
                    "default": Guarantee(
                        "lossless", bound, coders=CODERS, budget=BUDGET, is_proven_later=True
                    ),
                    "light": Guarantee(
                        "lossless", coders=("context",), is_proven_later=True, is_light=True
                    ),
                }
                yield _row(variable, bound, _sums(item, variable, ways))


def _sums(item: ItemPlan, variable: VariablePlan, ways: dict[str, Guarantee]) -> dict[str, Coded]:
    total: dict[str, list[Coded]] = {name: [] for name in ways}
    for position in variable.spec.positions():
        job = jobs_of(item, variable, position)
        values = voxels(job)
        if not total["alone"]:
            code(values[:2], job, ways["refined"])
        for name, guarantee in ways.items():
            total[name].append(code(values, job, guarantee))
    return {
        name: Coded(*(sum(parts) for parts in zip(*found, strict=True)))
        for name, found in total.items()
    }


def _row(variable: VariablePlan, bound: float, found: dict[str, Coded]) -> str:
    alone, refined, light = found["alone"], found["refined"], found["light"]

    def more(name: str) -> str:
        return f"{100 * found[name].nbytes / alone.nbytes - 100:+.2f} %"

    has_level = "" if found["default"].below else " (one level)"
    return (
        f"| {variable.spec.name} | {bound:g} | {alone.nbytes} | "
        f"{100 * refined.below / alone.nbytes:.0f} % | {more('refined')} | {more('apart')} | "
        f"{more('default')}{has_level} | {more('light')} | "
        f"{alone.write_s:.1f} / {alone.read_s:.1f} | "
        f"{refined.write_s:.1f} / {refined.read_s:.1f} | {light.write_s:.1f} / {light.read_s:.1f} |"
    )


def main(
    sources: list[Path],
    bounds: Annotated[
        str, typer.Option(help="Largest errors, stored units; none is what is suggested.")
    ] = "",
) -> None:
    """Print the bytes of lossless bricks with and without a bounded level."""
    typer.echo(HEAD)
    for source in sources:
        for row in measure(source, numbers(bounds) if bounds else ()):
            typer.echo(row)


if __name__ == "__main__":
    typer.run(main)
