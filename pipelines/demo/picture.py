"""The picture of the demo: source, restored at three levels, error and sigma, per volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Row", "draw"]

COLUMNS = 6


class LineLike(Protocol):
    """Rate and quality of one level."""

    @property
    def bpv(self) -> float:
        """Bits per voxel."""
        ...

    @property
    def psnr_db(self) -> float:
        """Of the whole volume."""
        ...


@dataclass(frozen=True)
class Row:
    """One volume of the picture.

    Attributes
    ----------
    title : str
    source : (y, x) array
        Stored values of one slice.
    measured : (y, x) bool
        False where a value is padding.
    restored : sequence of (y, x) arrays
        The slice at rising levels, up to three; the last one is the best.
    levels : sequence of int
        Which levels those are.
    spread : (y, x) float32
        One sigma per voxel, stored units.
    lines : sequence
        Rate and PSNR of every level, in order.
    """

    title: str
    source: NDArray[Any]
    measured: NDArray[np.bool_]
    restored: Sequence[NDArray[Any]]
    levels: Sequence[int]
    spread: NDArray[np.float32]
    lines: Sequence[LineLike]


def draw(rows: Sequence[Row], target: Path) -> None:
    """Write the picture as PNG; grey is the source's range, error and sigma share one scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(rows), COLUMNS, figsize=(2.6 * COLUMNS, 2.9 * len(rows)), squeeze=False
    )
    for row, line in zip(rows, axes, strict=True):
        for axis in line:
            axis.axis("off")
        _draw_row(row, line)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _draw_row(row: Row, axes: Any) -> None:
    inside = row.source[row.measured]
    low, high = float(inside.min()), float(np.percentile(inside, 99.8))
    axes[0].imshow(row.source, cmap="gray", vmin=low, vmax=high)
    axes[0].set_title(f"{row.title}\nsource", fontsize=7)
    for axis, image, level in zip(axes[1:4], row.restored, row.levels, strict=False):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        line = row.lines[level]
        axis.set_title(f"level {level}: {line.bpv:.3f} bpv\n{line.psnr_db:.1f} dB", fontsize=7)
    gap = np.abs(row.restored[-1].astype(np.float64) - row.source.astype(np.float64))
    gap[~row.measured] = 0
    top = max(float(np.percentile(gap, 99.5)), float(np.percentile(row.spread, 99.5)), 1e-9)
    for axis, image, title in (
        (axes[4], gap, "error"),
        (axes[5], row.spread, "sigma"),
    ):
        axis.imshow(image, cmap="magma", vmin=0, vmax=top)
        axis.set_title(f"{title}\n0 .. {top:.3g}", fontsize=7)
