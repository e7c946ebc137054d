"""A small plain pyramid beside the coded data: OME-Zarr 0.5, readable without this package.

The values are block means of the source, taken brick by brick while archiving, in 8 bits: stored =
value * ``scale_factor`` + ``add_offset``. Blocks divide a brick, so a brick's part depends on that
brick alone and memory stays bounded by the pyramid, which is at most a 64th of a volume. Of the
pyramid those levels are written, coarsest first, that together are small beside the bricks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.stage import Stage
from psc_volumetric.bitstream.frames import pack_frame

__all__ = ["SHARE", "PreviewPlan", "block_means", "plan_preview", "write_preview"]

Values = NDArray[Any]
PLANE_FACTOR = 4
LONGEST = 128  # of one volume; of several half as many
LEADING = 16
SMALLEST = 16
MAX_LEVELS = 4
SHARE = 0.015  # of the bytes of the bricks
DOCUMENT = 1000  # bytes of a level besides its values, about: metadata and lines of the manifest
STEPS = 254  # between the least and the largest value; 255 is no measurement


@dataclass(frozen=True)
class PreviewPlan:
    """How a variable is made small.

    Attributes
    ----------
    factors : (z, y, x)
        Voxels averaged along each axis; powers of two that divide the brick.
    picks : tuple of tuple of int
        Leading indices (all axes before z, y, x) that are shown; ``((),)`` without such axes.
    dtype : numpy.dtype
        Of the preview: the stored dtype, float32 for floats, uint8 for bool.
    """

    factors: tuple[int, int, int]
    picks: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]


def plan_preview(spec: VariableSpec) -> PreviewPlan:
    """Choose factors so that the longest axis shrinks to `LONGEST` where bricks allow it."""
    shape = (1, 1, 1, *spec.shape)[-3:] if spec.ndim > 2 else (1, *spec.shape)
    longest = LONGEST if math.prod(spec.shape[: spec.lead]) == 1 else LONGEST // 2
    factors = []
    for axis, (size, brick) in enumerate(zip(shape, spec.brick_shape, strict=True)):
        factor = PLANE_FACTOR if axis and size >= 4 * PLANE_FACTOR else 1
        factor = 1 if brick % factor else factor
        while -(-size // factor) > longest and brick % (2 * factor) == 0:
            factor *= 2
        factors.append(factor)
    lead = spec.shape[: spec.lead]
    every = list(np.ndindex(*lead))
    picks = tuple(every[:: -(-len(every) // LEADING)])
    kinds: dict[str, np.dtype[Any]] = {"f": np.dtype("f4"), "b": np.dtype("u1")}
    dtype = kinds.get(spec.dtype.kind, spec.dtype)
    return PreviewPlan((factors[0], factors[1], factors[2]), picks, dtype)


def block_means(
    values: Values, factors: Sequence[int], *, special: Sequence[float], dtype: np.dtype[Any]
) -> Values:
    """Mean of each block over its measured voxels.

    Parameters
    ----------
    values : array
        Any number of axes; blocks at the end of an axis may be incomplete.
    factors : sequence of int
        Block extent per axis.
    special : sequence of float
        Values that are not measurements, besides NaN and infinities.
    dtype : numpy.dtype
        Of the result; integers are rounded half to even.

    Returns
    -------
    array
        ``ceil(size / factor)`` per axis. Blocks without a measured voxel hold the first special
        value, or NaN, or 0.
    """
    numbers = values.astype(np.float64)
    measured = np.isfinite(numbers)
    for value in special:
        measured &= values != value
    numbers[~measured] = 0
    total, count = numbers, measured.astype(np.float64)
    for axis, factor in enumerate(factors):
        edges = np.arange(0, values.shape[axis], factor)
        total = np.add.reduceat(total, edges, axis=axis)
        count = np.add.reduceat(count, edges, axis=axis)
    empty = np.nan if dtype.kind == "f" else 0
    means = np.full(total.shape, special[0] if special else empty, np.float64)
    np.divide(total, count, out=means, where=count > 0)
    if dtype.kind in "iu":
        return _whole(means, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return means.astype(dtype)


def _whole(means: Values, dtype: np.dtype[Any]) -> Values:
    """Rounded half to even and saturated; a double past the largest integer is none of the type."""
    limits = np.iinfo(dtype)
    rounded = np.rint(np.nan_to_num(means))
    highest = float(limits.max)
    if int(highest) > limits.max:
        highest = float(np.nextafter(highest, 0))
    saturated: Values = np.clip(rounded, float(limits.min), highest).astype(dtype)
    return saturated


def write_preview(
    spec: VariableSpec,
    part: Callable[[tuple[int, ...]], Values | None],
    stage: Stage,
    *,
    limit: float,
) -> bool:
    """Write ``preview/<variable>/``; False when no brick has low-resolution values, or no room.

    Parameters
    ----------
    spec : VariableSpec
    part : callable
        Chunk grid index -> block means (z, y, x) of that brick, None when there are none.
    stage : Stage
        Not flushed here.
    limit : float
        Bytes that it may have; levels that go beyond are left out.
    """
    plan = plan_preview(spec)
    level = _assemble(spec, plan, part)
    if level is None:
        return False
    lead, names = _axes(spec, plan)
    levels, factors = _pyramid(level, plan, spec.special_values, lead)
    scale = _Scale.of(level, spec.special_values)
    shown = [scale.apply(values) for values in levels]
    left, chosen = limit - DOCUMENT, 0
    for values in reversed(shown):
        left -= len(pack_frame(values.tobytes())) + DOCUMENT
        if left < 0:
            break
        chosen += 1
    if not chosen:
        return False
    stage.group("preview")
    about = _ome_attributes(spec, plan, names, factors[-chosen:])
    stage.group(f"preview/{spec.node}", about)
    for number, values in enumerate(shown[-chosen:]):
        stage.fill(
            f"preview/{spec.node}/{number}",
            values,
            dims=[axis["name"] for axis in names],
            attributes={
                "scale_factor": scale.factor,
                "add_offset": scale.offset,
                "_FillValue": STEPS + 1,
            },
        )
    return True


@dataclass(frozen=True)
class _Scale:
    """Stored values as 8 bits: stored = shown * factor + offset; `STEPS` + 1 is no measurement."""

    factor: float
    offset: float
    special: tuple[float, ...]

    @classmethod
    def of(cls, values: Values, special: Sequence[float]) -> _Scale:
        """The scale that spans all measured values; a whole one where they are few integers."""
        numbers = values.astype(np.float64)
        inside = numbers[np.isfinite(numbers) & ~np.isin(numbers, list(special))]
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
        if values.dtype.kind in "iu" and high - low <= STEPS:
            return cls(1.0, low, tuple(special))
        span = high / STEPS - low / STEPS
        return cls(span if span > 0 else 1.0, low, tuple(special))

    def apply(self, values: Values) -> Values:
        """Values as uint8."""
        numbers = values.astype(np.float64)
        measured = np.isfinite(numbers) & ~np.isin(numbers, self.special)
        scaled = np.rint((np.where(measured, numbers, self.offset) - self.offset) / self.factor)
        shown: Values = np.clip(scaled, 0, STEPS).astype(np.uint8)
        shown[~measured] = STEPS + 1
        return shown


def _pyramid(
    level: Values, plan: PreviewPlan, special: Sequence[float], lead: int
) -> tuple[list[Values], list[tuple[int, int, int]]]:
    """Block means of block means, and the factors of each level against the volume."""
    levels, factors = [level], [plan.factors]
    while len(levels) < MAX_LEVELS and max(levels[-1].shape[-3:]) > SMALLEST:
        step = tuple(2 if n > 1 else 1 for n in levels[-1].shape[-3:])
        steps = (*(1,) * lead, *step)
        levels.append(block_means(levels[-1], steps, special=special, dtype=plan.dtype))
        z, y, x = (f * s for f, s in zip(factors[-1], step, strict=True))
        factors.append((z, y, x))
    return levels, factors


def _assemble(
    spec: VariableSpec, plan: PreviewPlan, part: Callable[[tuple[int, ...]], Values | None]
) -> Values | None:
    """Level 0, (picks,) z, y, x; None unless every brick of it has its part."""
    shape = (1, 1, 1, *spec.shape)[-3:] if spec.ndim > 2 else (1, *spec.shape)
    small = [-(-n // f) for n, f in zip(shape, plan.factors, strict=True)]
    result = np.zeros((len(plan.picks), *small), plan.dtype)
    for number, pick in enumerate(plan.picks):
        for grid in np.ndindex(*spec.grid_shape[spec.lead :]):
            block = part((*pick, *grid))
            if block is None:
                return None
            corner = (0,) * (3 - len(grid)) + grid
            at = tuple(
                slice(g * (b // f), g * (b // f) + n)
                for g, b, f, n in zip(
                    corner, spec.brick_shape, plan.factors, block.shape, strict=True
                )
            )
            result[number][at] = block
    return result if spec.lead else result[0]


def _axes(spec: VariableSpec, plan: PreviewPlan) -> tuple[int, list[dict[str, str]]]:
    """Number of leading axes of the preview (0 or 1), and the OME axes."""
    unit = {} if spec.spacing_mm is None else {"unit": "millimeter"}
    space = [{"name": name, "type": "space", **unit} for name in "zyx"]
    if not spec.lead:
        return 0, space
    in_time = spec.lead == 1 and spec.dims[0].lower() in ("t", "time")
    first = {"name": "t", "type": "time"} if in_time else {"name": "c", "type": "channel"}
    return 1, [first, *space]


def _ome_attributes(
    spec: VariableSpec,
    plan: PreviewPlan,
    axes: list[dict[str, str]],
    factors: list[tuple[int, int, int]],
) -> dict[str, Any]:
    spacing = spec.spacing_mm or (1.0, 1.0, 1.0)
    lead = len(axes) - 3
    datasets = []
    for number, steps in enumerate(factors):
        scale = [1.0] * lead + [s * f for s, f in zip(spacing, steps, strict=True)]
        shift = [0.0] * lead + [s * (f - 1) / 2 for s, f in zip(spacing, steps, strict=True)]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [{"name": spec.name, "axes": axes, "datasets": datasets}],
        },
        "psc_archive": {
            "what": "block means; for looking, not for measuring",
            "leading_indices": [list(pick) for pick in plan.picks] if lead else [],
        },
    }
