"""One slice of a volume at two lossy rates and at the bounded level, with error and sigma.

Every picture is decoded from a sealed archive, made for the occasion in a temporary folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from pipelines.reporting.measures import physical, unit_of
from pipelines.reporting.pictures import Scale, scale_of
from pipelines.reporting.planes import planes_of
from pipelines.reporting.source import references_of
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.metrics import data_range, psnr_db

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Shown", "colours_of_levels", "draw_levels", "levels_of", "shown_level"]

Doubles = NDArray[np.float64]
COLUMNS = 3
GREY, HEAT = "gray", "magma"  # names of colours
SIZE = (7.8, 6.3)  # inches
LETTERS = 10  # points
EMPTY = 0.06  # of the brightest value: what is darker all along an edge is cut off
MARGIN = 4  # voxels


@dataclass(frozen=True)
class Shown:
    """One slice of a level, physical units.

    Attributes
    ----------
    title : str
        What it is, and its rate and PSNR.
    short : str
        The same in a word or two.
    values, source : (rows, columns) float64
    sigma : (rows, columns) float64
        0 where a voxel is exact.
    aspect : float
        Height of a voxel over its width.
    unit : str
    bits : int
        Of a voxel of the source.
    """

    title: str
    short: str
    values: Doubles
    source: Doubles
    sigma: Doubles
    aspect: float
    unit: str
    bits: int

    @property
    def error(self) -> Doubles:
        """How far each voxel is off."""
        gap: Doubles = np.abs(self.values - self.source)
        return gap


def levels_of(source: Path, rates: Sequence[float], base: str = "auto") -> list[Shown]:
    """Archive a volume at each rate and without loss, and show the middle slice.

    Parameters
    ----------
    source : Path
        With one volume.
    rates : sequence of float
        Bits per voxel of whole archives, one lossy archive for each.
    base : str
        Lossy method.

    Returns
    -------
    list of Shown
        One for each rate, then the lowest level of the lossless archive: the bounded one, where
        it has one.

    Raises
    ------
    SourceError, PscError : the source cannot be archived so.
    """
    wanted = [ArchiveOptions("lossy", bpv=rate, base=base) for rate in rates]
    shown = []
    with TemporaryDirectory() as folder:
        for number, options in enumerate([*wanted, ArchiveOptions()]):
            target = Path(folder) / f"{number}.psc.zarr"
            archive(plan(source, str(target), options))
            shown.append(shown_level(source, target))
    return shown


def shown_level(source: Path, target: Path) -> Shown:
    """The middle slice of the first variable: the last level of a lossy archive, else the first.

    Raises
    ------
    SourceError, PscError : the archive is not whole, or was made from another source.
    """
    with ArchiveReader.open(target) as reader:
        spec = next(iter(reader.variables.values()))
        info = reader.info()
        plane = planes_of(reader, spec)[0]
        levels = info["variables"][spec.name]["levels"]
        is_lossy = info["mode"] == "lossy"
        level = levels[-1 if is_lossy else 0]
        decoded = reader.read_region(spec.name, level=level["level"], spread=True)
    reference = references_of(source, {spec.name: spec})[spec.name]
    original = reference(tuple(slice(0, n) for n in spec.shape))
    decibels = psnr_db(original, decoded.values, data_range(original))
    slope = 1.0 if spec.slope is None else abs(spec.slope)
    if is_lossy:
        short = f"{info['bpv']:.2f} bpv"
        title = f"lossy, {info['bytes']['total'] / 1000:.0f} kB\n{short}, {decibels:.1f} dB"
    else:
        short = "bounded level"
        title = (
            f"bounded level, off by at most {level['max_error'] * slope:g}\n"
            f"{level['bpv']:.2f} bpv, {decibels:.1f} dB"
        )
    spread = np.zeros(spec.shape) if decoded.spread is None else decoded.spread
    return Shown(
        title,
        short,
        plane.picture(physical(decoded.values[plane.selection], spec)),
        plane.picture(physical(original[plane.selection], spec)),
        plane.picture(spread[plane.selection].astype(np.float64) * slope),
        plane.pitch[0] / plane.pitch[1],
        unit_of(spec),
        8 * spec.dtype.itemsize,
    )


def colours_of_levels() -> NDArray[np.uint8]:
    """All colours that a drawing needs: greys and those of the maps, (n, 3)."""
    from matplotlib import colormaps

    parts = [colormaps[name](np.linspace(0, 1, n)) for name, n in ((GREY, 112), (HEAT, 144))]
    found: NDArray[np.uint8] = np.rint(255 * np.concatenate(parts)[:, :3]).astype(np.uint8)
    return found


def draw_levels(levels: Sequence[Shown]) -> Figure:
    """Draw the source, the levels, and error and sigma of the first one, on one scale.

    Parameters
    ----------
    levels : sequence of Shown
        Of one slice.
    """
    from matplotlib.figure import Figure

    first = levels[0]
    box, grey = _filled(first.source), scale_of(first.source)
    heat = scale_of(np.stack([first.error, first.sigma]), zero=True)
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    rows = -(-(len(levels) + 3) // COLUMNS)
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    _draw(axes[0], first.source[box], grey, GREY, f"source\n{first.bits} bpv", first.aspect)
    for axis, level in zip(axes[1:], levels, strict=False):
        _draw(axis, level.values[box], grey, GREY, level.title, level.aspect)
    maps = {"error": first.error, "sigma": first.sigma}
    places = axes[len(levels) + 1 : len(levels) + 3]
    for axis, (name, values) in zip(places, maps.items(), strict=True):
        title = f"{name} at\n{first.short}"
        drawn = _draw(axis, values[box], heat, HEAT, title, first.aspect)
    beside = places[-1].inset_axes((1.06, 0.05, 0.07, 0.9))
    bar = figure.colorbar(drawn, cax=beside, extend="max")
    bar.set_label(first.unit, fontsize=LETTERS)
    bar.ax.tick_params(labelsize=LETTERS)
    return figure


def _draw(axis: Any, values: Doubles, scale: Scale, colours: str, title: str, aspect: float) -> Any:
    axis.set_title(title, fontsize=LETTERS)
    return axis.imshow(
        values,
        cmap=colours,
        vmin=scale.low,
        vmax=scale.high,
        aspect=aspect,
        interpolation="nearest",
    )


def _filled(values: Doubles) -> tuple[slice, slice]:
    """Rows and columns that hold something brighter than noise, with a margin."""
    bright = values > EMPTY * scale_of(values).high
    rows, columns = (np.flatnonzero(bright.mean(axis) > EMPTY) for axis in (1, 0))
    box = []
    for found, size in zip((rows, columns), values.shape, strict=True):
        low, high = (int(found[0]), int(found[-1]) + 1) if found.size else (0, size)
        box.append(slice(max(low - MARGIN, 0), min(high + MARGIN, size)))
    return box[0], box[1]
