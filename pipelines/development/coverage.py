"""How often the error of a voxel lies within 1, 2 and 3 sigma, over whole volumes.

    python -m pipelines.development.coverage SOURCE ... [--step 0.5] [--effort 5] [--every 1]

Every brick is encoded, and decoded again from its bytes at every lossy level. Nothing is written.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.archiving.bricks import encoded, jobs_of
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan, VariablePlan, brick_prior, plan
from pipelines.commands.options import Base, Effort, PriorName
from psc_volumetric.codec import decode_brick
from psc_volumetric.methods.registry import read_index
from psc_volumetric.prior import Prior
from psc_volumetric.sigma.tables import NOMINAL, coverage

__all__ = ["LevelCoverage", "measure_volume"]

Shares = NDArray[np.float64]
HEAD = (
    "| level | rmse | mean sigma | 1 sigma | 2 sigma | 3 sigma | points away | 1, whole | "
    "2, whole | 3, whole |"
)
WHOLE = (slice(None), slice(None), slice(None))


@dataclass
class LevelCoverage:
    """What was counted at one level.

    Attributes
    ----------
    level : int
    voxels : int
        Measured voxels: special values are left out.
    inside, whole : (3,) float64
        Voxels within 1, 2 and 3 sigma; integers by the part of their rounding interval inside,
        and as whole voxels.
    square, sigma : float
        Sums of squared errors and of sigmas, stored units.
    """

    level: int
    voxels: int = 0
    inside: Shares = field(default_factory=lambda: np.zeros(3))
    whole: Shares = field(default_factory=lambda: np.zeros(3))
    square: float = 0.0
    sigma: float = 0.0

    def add(
        self,
        source: NDArray[np.generic],
        decoded: NDArray[np.generic],
        sigma: NDArray[np.float32],
    ) -> None:
        """Count some voxels."""
        if not source.size:
            return
        self.voxels += source.size
        self.inside += source.size * np.array(coverage(source, decoded, sigma))
        self.whole += source.size * np.array(coverage(source, decoded, sigma, rounding=False))
        self.square += float(((decoded.astype(np.float64) - source.astype(np.float64)) ** 2).sum())
        self.sigma += float(sigma.sum(dtype=np.float64))

    def row(self) -> str:
        """A line of the table: errors, coverage in percent, and points away from nominal."""
        n = max(self.voxels, 1)
        inside, whole = 100 * self.inside / n, 100 * self.whole / n
        away = float(np.abs(inside - 100 * np.array(NOMINAL)).max())
        return (
            f"| {self.level} | {math.sqrt(self.square / n):.4g} | {self.sigma / n:.4g} | "
            + " | ".join(f"{share:.2f}" for share in inside)
            + f" | {away:.2f} | "
            + " | ".join(f"{share:.2f}" for share in whole)
            + " |"
        )


def measure_volume(
    item: ItemPlan, variable: VariablePlan, *, every: int = 1
) -> tuple[list[LevelCoverage], int, int]:
    """Encode and decode the bricks of a volume.

    Parameters
    ----------
    item, variable
        From :func:`pipelines.archiving.plan.plan` for mode lossy.
    every : int
        Take only one brick of so many.

    Returns
    -------
    levels : list of LevelCoverage
    nbytes, voxels : int
        Bytes of the bricks and voxels in them.
    """
    levels: list[LevelCoverage] = []
    nbytes = voxels = 0
    for position in islice(variable.spec.positions(), 0, None, every):
        values, brick = encoded(jobs_of(item, variable, position))
        nbytes, voxels = nbytes + len(brick.data), voxels + values.size
        keep = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        for special in variable.spec.special_values:
            keep &= values != special
        for level, decoded, sigma in _lossy_levels(brick.data, item.prior):
            if level == len(levels):
                levels.append(LevelCoverage(level))
            levels[level].add(values[keep], decoded[keep], sigma[keep])
    return levels, nbytes, voxels


def _lossy_levels(
    data: bytes, prior: str | None
) -> Iterator[tuple[int, NDArray[np.generic], NDArray[np.float32]]]:
    """Values and sigmas of every level of the base method, from the bytes of a brick."""

    def read(start: int, length: int) -> bytes:
        return data[start : start + length]

    def named(_: str) -> Prior:
        assert prior is not None
        return brick_prior(prior)

    index = read_index(read, len(data))
    for level in range(index.base_levels):
        found = decode_brick(
            read, selection=WHOLE, level=level, prior=named, spread=True, index=index
        )
        assert found.spread is not None
        yield level, found.values, found.spread


def main(
    sources: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    step: Annotated[float, typer.Option(help="Quantiser step.")] = 0.5,
    effort: Effort = 5,
    base: Base = "psc",
    prior: PriorName = None,
    every: Annotated[int, typer.Option(help="Take one brick of so many.")] = 1,
) -> None:
    """Print coverage of 1, 2 and 3 sigma, level by level, one table per volume."""
    options = ArchiveOptions(mode="lossy", step=step, effort=effort, base=base, prior=prior)
    for source in sources:
        for item in plan(source, "unused.psc.zarr", options).items:
            for variable in item.variables:
                levels, nbytes, voxels = measure_volume(item, variable, every=every)
                lines = [
                    "",
                    f"`{source.name}` {variable.spec.name}, step {step}, effort "
                    f"{effort}, prior {item.prior}: {voxels} voxels, "
                    f"{8 * nbytes / voxels:.3f} bpv",
                    "",
                    HEAD,
                    "|" + "---|" * HEAD.count(" | ") + "---|",
                    *(level.row() for level in levels),
                ]
                sys.stdout.write("\n".join(lines) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
