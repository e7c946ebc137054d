"""A small plain picture beside the coded data: OME-Zarr 0.5, readable without this package.

Two images of a variable: whole slices, few and wide, and the volume, small along all axes. Values
are block means of the source, of labels one of each block, taken brick by brick while archiving, in
8 bits or in fewer grey levels: stored = value * ``scale_factor`` + ``add_offset``. Blocks divide a
brick, so a brick's part depends on that brick alone and memory stays bounded. What is written is
what fits beside the bricks: the wide slices first, then the finest volume for what they leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import PRIMARIES, colours_of, has_labels
from psc_volumetric.archive.preview_ome import axes_of, image_attributes, value_attributes
from psc_volumetric.archive.preview_values import (
    STEPS,
    Scale,
    block_means,
    middle_values,
    packed_bytes,
    small_shape,
)
from psc_volumetric.archive.preview_wide import (
    Wide,
    fitting_wide,
    wide_factor,
    wide_leads,
    wide_slices,
)
from psc_volumetric.archive.stage import Stage

__all__ = [
    "DOCUMENT",
    "MIDDLE",
    "Parts",
    "PreviewPlan",
    "plan_preview",
    "preview_part",
    "preview_room",
    "read_parts",
    "write_preview",
]

Values = NDArray[Any]
PLANE_FACTOR = 4
LONGEST = 128  # of one volume; of several half as many
LEADING = 16
SMALLEST = 16
FLATTEST = 3.0  # a block's extent along z over that along y; more is no volume
LEVELS = (STEPS, 127)  # grey levels, and
FEWEST = 63  # where nothing else fits
SHARE = 0.015  # of the bytes of the bricks
WITHIN, SMALL_MOST = 0.0275, 60_000  # of small bricks, and bytes; see `preview_room`
USUAL_BESIDE, LISTED = 2300, 3000  # bytes of an archive of one scan: about; root and manifest
DOCUMENT = 1000  # bytes of the volume besides its values, about: metadata and lines of the manifest
LISTS = 1200  # bytes that list the images, about
MIDDLE = "middle"


def preview_room(nbytes: float, beside: float = USUAL_BESIDE) -> float:
    """Bytes that the preview of a variable may have, whose bricks have ``nbytes``.

    1.5 % of them; where that is less than a slice takes, what else is left of 2.75 % by the other
    objects, so that an archive without loss stays within 1.03 of its bricks.

    Parameters
    ----------
    beside : float
        Bytes of the objects that are neither bricks nor previews, nor the root's metadata and the
        manifest; or the variable's share of them.
    """
    left = WITHIN * nbytes - beside - LISTED
    return max(SHARE * nbytes, min(left, SMALL_MOST))


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
    kinds: dict[str, np.dtype[Any]] = {"f": np.dtype("f4"), "b": np.dtype("u1")}
    dtype = kinds.get(spec.dtype.kind, spec.dtype)
    return PreviewPlan((factors[0], factors[1], factors[2]), _picks(spec), dtype)


def _picks(spec: VariableSpec) -> tuple[tuple[int, ...], ...]:
    """Every so many places along the leading axes; of colours the samples of each."""
    if spec.lead == 0 or colours_of(spec) is None:
        every = list(np.ndindex(*spec.shape[: spec.lead]))
        return tuple(every[:: -(-len(every) // LEADING)])
    rest = list(np.ndindex(*spec.shape[1 : spec.lead]))
    rest = rest[:: -(-PRIMARIES * len(rest) // LEADING)]
    return tuple((sample, *place) for sample in range(PRIMARIES) for place in rest)


Part = Callable[[tuple[int, ...]], Values | None]


@dataclass(frozen=True)
class Parts:
    """What was kept of each brick for the preview; None where nothing was.

    Attributes
    ----------
    means : callable
        Chunk grid index -> block means (z, y, x).
    wide : callable
        Chunk grid index -> means (n, y, x) of the wide slices that are in the brick.
    """

    means: Part
    wide: Part


def preview_part(spec: VariableSpec, position: tuple[int, ...], values: Values) -> bytes:
    """What is kept of a brick for the preview: its block means, then those of its wide slices.

    Nothing where the brick shows in neither. Read by `read_parts`.
    """
    plan, kept = plan_preview(spec), b""
    if position[: spec.lead] in plan.picks:
        kept = _small(spec, values, plan.factors, plan.dtype)
    inside = _inside(spec, position)
    if inside:
        factor = wide_factor(spec)
        kept += _small(spec, values[inside], (1, factor, factor), plan.dtype)
    return kept


def read_parts(spec: VariableSpec, kept: Callable[[tuple[int, ...]], bytes | None]) -> Parts:
    """The parts of bricks again; ``kept`` is what `preview_part` gave for a position."""
    plan, factor = plan_preview(spec), wide_factor(spec)

    def cut(position: tuple[int, ...], *, wide: bool) -> Values | None:
        data, valid = kept(position), spec.valid(position)
        shapes = (
            [] if position[: spec.lead] not in plan.picks else [small_shape(valid, plan.factors)]
        )
        inside = _inside(spec, position)
        if inside:
            shapes.append(small_shape((len(inside), *valid[1:]), (1, factor, factor)))
        sizes = [math.prod(shape) * plan.dtype.itemsize for shape in shapes]
        if data is None or len(data) != sum(sizes):
            return None
        start = len(data) - sizes[-1] if wide else 0
        shape = shapes[-1 if wide else 0]
        found = np.frombuffer(data, plan.dtype.newbyteorder("<"), math.prod(shape), start)
        return found.reshape(shape)

    return Parts(partial(cut, wide=False), partial(cut, wide=True))


def _small(
    spec: VariableSpec, values: Values, factors: Sequence[int], dtype: np.dtype[Any]
) -> bytes:
    small = _reduced(spec, values, factors, dtype)
    return small.astype(dtype.newbyteorder("<")).tobytes()


def _reduced(
    spec: VariableSpec, values: Values, factors: Sequence[int], dtype: np.dtype[Any]
) -> Values:
    if has_labels(spec, values):
        return middle_values(values, factors).astype(dtype)
    return block_means(values, factors, special=spec.special_values, dtype=dtype)


def _inside(spec: VariableSpec, position: tuple[int, ...]) -> list[int]:
    """Where wide slices are in a brick, along its first axis."""
    if position[: spec.lead] not in wide_leads(spec):
        return []
    if spec.ndim < 3:
        return [0]
    along = spec.box(position)[-3]
    return [index - along.start for index in wide_slices(spec) if along.start <= index < along.stop]


def write_preview(spec: VariableSpec, parts: Parts, stage: Stage, *, limit: float) -> list[str]:
    """Write ``preview/<variable>/``; nothing when no brick has means, or there is no room.

    Parameters
    ----------
    spec : VariableSpec
    parts : Parts
    stage : Stage
        Not flushed here.
    limit : float
        Bytes that it may have.

    Returns
    -------
    list of str
        Groups that were written, the widest picture first.
    """
    plan = plan_preview(spec)
    level = _assemble(spec, plan, parts.means)
    if level is None:
        return []
    room = limit - LISTS
    wide = fitting_wide(spec, parts.wide, room - DOCUMENT)
    found = _fitting_volume(spec, plan, level, room - (0 if wide is None else wide.nbytes))
    if wide is not None and found is not None and wide.values.shape[-1] <= found.shape[-1]:
        wide, found = None, _fitting_volume(spec, plan, level, room)
    path, images = f"preview/{spec.node}", []
    if found is not None:
        axes = axes_of(spec)
        picks = plan.picks if spec.lead else ()
        stage.group(path, image_attributes(spec, picks, axes, found.factors))
        _fill(stage, f"{path}/0", found.shown, found.scale, axes)
        images.append(path)
    if wide is not None:
        _write_wide(spec, wide, stage)
        images.insert(0, f"{path}/{MIDDLE}")
    return images


def _write_wide(spec: VariableSpec, wide: Wide, stage: Stage) -> None:
    path = f"preview/{spec.node}/{MIDDLE}"
    leads = wide_leads(spec)
    several = len(leads) > 1
    axes = axes_of(spec) if several else axes_of(spec)[-3:]
    apart = wide.slices[1] - wide.slices[0] if len(wide.slices) > 1 else 1
    about = image_attributes(
        spec,
        leads if several else (),
        axes,
        (apart, wide.factor, wide.factor),
        slices=wide.slices,
    )
    stage.group(path, about)
    shown = wide.scale.apply(wide.values)
    _fill(stage, f"{path}/0", shown if several else shown[0], wide.scale, axes)


def _fill(
    stage: Stage, path: str, shown: Values, scale: Scale, axes: Sequence[dict[str, str]]
) -> None:
    names = [axis["name"] for axis in axes]
    stage.fill(path, shown, dims=names, attributes=value_attributes(scale))


@dataclass(frozen=True)
class _Volume:
    """A volume as it is written: shown values, their scale, and voxels in a block."""

    shown: Values
    scale: Scale
    factors: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shown.shape


def _fitting_volume(
    spec: VariableSpec, plan: PreviewPlan, level: Values, room: float
) -> _Volume | None:
    """The finest volume for so many bytes; None where the coarsest is too large."""
    smaller: dict[tuple[int, int, int], Values] = {(1, 1, 1): level}
    for more, steps in _coarser(spec, plan, level):
        if more not in smaller:
            along = (*(1,) * (level.ndim - 3), *more)
            smaller[more] = _reduced(spec, level, along, level.dtype)
        scale = Scale.of(smaller[more], spec.special_values, steps)
        shown = scale.apply(smaller[more])
        if packed_bytes(shown, room - DOCUMENT) is not None:
            z, y, x = (a * b for a, b in zip(plan.factors, more, strict=True))
            return _Volume(shown, scale, (z, y, x))
    return None


def _coarser(
    spec: VariableSpec, plan: PreviewPlan, level: Values
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Blocks of the finest volume, and grey levels, the best first: wide before deep."""
    z, y, x = level.shape[-3:]
    in_plane, smallest, labels = 1, False, has_labels(spec, level)
    while not smallest:
        across = tuple(in_plane if size > 1 else 1 for size in (y, x))
        smallest = max(-(-y // in_plane), -(-x // in_plane)) <= SMALLEST
        deep = [(n, *across) for n in _depths(spec, plan, z, in_plane)]
        for more in deep:
            for steps in LEVELS[:1] if labels else LEVELS:
                yield (more[0], more[1], more[2]), steps
        for more in [] if labels else deep:
            yield (more[0], more[1], more[2]), FEWEST
        in_plane *= 2


def _depths(spec: VariableSpec, plan: PreviewPlan, size: int, in_plane: int) -> list[int]:
    """Slices that are averaged, while blocks are no slabs; colours along z are never mixed."""
    if spec.lead == 0 and colours_of(spec) is not None:
        return [1]
    high, wide = (1.0, 1.0) if spec.spacing_mm is None else spec.spacing_mm[:2]
    most = FLATTEST * wide * plan.factors[1] * in_plane / (high * plan.factors[0])
    found = [1]
    while 2 * found[-1] <= most and found[-1] < size:
        found.append(2 * found[-1])
    return found


def _assemble(spec: VariableSpec, plan: PreviewPlan, part: Part) -> Values | None:
    """The finest volume, (picks,) z, y, x; None unless every brick of it has its part."""
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
