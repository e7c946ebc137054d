"""What a step in the viewer costs: ``python -m pipelines.development.benchmark_view ARCHIVE``.

Slices are decoded as `psc-archive view` does it, in one process, after the loops are ready: the
middle slice at every level, coarse to fine, then its neighbour, the first one and the last one.
Nothing is decoded in between, as it is behind the page. Seconds of CPU time and by the clock, which
depends on what else the machine does.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pipelines.viewing.readiness import make_ready
from pipelines.viewing.regions import read_shown
from pipelines.viewing.shelf import Shelf, Shown
from psc_volumetric.archive.layout import VariableSpec

__all__ = ["main"]


def main(
    target: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Its largest variable is read.")],
) -> None:
    """Say what slices cost, level after level."""
    make_ready(target)
    shelf = Shelf(target)
    try:
        shown = shelf.open("")
        spec = max(shown.reader.variables.values(), key=lambda one: one.nbytes)
        index = shown.reader.brick_index(spec.name, next(iter(spec.positions())))
        typer.echo(f"{spec.name} {spec.shape} {', '.join(shown.reader.codings(spec.name))}")
        depth = spec.shape[-3] if spec.ndim > 2 else 1
        for what, z in (
            ("middle", depth // 2),
            ("next", depth // 2 + 1),
            ("first", 0),
            ("last", depth - 1),
        ):
            for level in range(index.levels):
                clock, work = step(shown, spec, min(z, depth - 1), level)
                typer.echo(f"{what:6} slice, level {level}: {work:.3f} s of CPU, {clock:.3f} s")
    finally:
        shelf.close()


def step(shown: Shown, spec: VariableSpec, z: int, level: int) -> tuple[float, float]:
    """Seconds by the clock and of CPU time that a slice takes."""
    lead = (slice(0, 1),) * max(spec.ndim - 3, 0)
    across = (slice(z, z + 1),) if spec.ndim > 2 else ()
    box = (*lead, *across, *(slice(0, size) for size in spec.shape[-2:]))
    clock, work = time.perf_counter(), time.process_time()
    read_shown(shown, spec.name, box, level)
    return time.perf_counter() - clock, time.process_time() - work


if __name__ == "__main__":
    typer.run(main)
