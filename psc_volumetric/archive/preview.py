"""A small plain pyramid beside the coded data: OME-Zarr 0.5, readable without this package.

The values are block means of the source, taken brick by brick while archiving, in 8 bits: stored =
value * ``scale_factor`` + ``add_offset``. Blocks divide a brick, so a brick's part depends on that
brick alone and memory stays bounded by the pyramid, which is at most a 64th of a volume. Of the
pyramid those levels are written, coarsest first, that together are small beside the bricks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.preview_values import NOTHING, Scale, block_means, small_shape
from psc_volumetric.archive.stage import Stage
from psc_volumetric.bitstream.frames import pack_frame

__all__ = [
    "DOCUMENT",
    "MIDDLE",
    "SHARE",
    "Parts",
    "PreviewPlan",
    "middle_factor",
    "plan_preview",
    "preview_part",
    "read_parts",
    "write_preview",
]

Values = NDArray[Any]
PLANE_FACTOR = 4
LONGEST = 128  # of one volume; of several half as many
LEADING = 16
SMALLEST = 16
MAX_LEVELS = 4
SHARE = 0.015  # of the bytes of the bricks
DOCUMENT = 1000  # bytes of a level besides its values, about: metadata and lines of the manifest
LISTS = 1500  # bytes that list the images, about
MIDDLE = "middle"
WIDE = 256  # pixels of the middle slice
MIDDLE_SHARE = 0.6  # of the room of a preview
OME = "0.5"


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


Part = Callable[[tuple[int, ...]], Values | None]


@dataclass(frozen=True)
class Parts:
    """What was kept of each brick for the preview; None where nothing was.

    Attributes
    ----------
    means : callable
        Chunk grid index -> block means (z, y, x).
    middle : callable
        Chunk grid index of the bricks of the middle slice -> block means (1, y, x) of it.
    """

    means: Part
    middle: Part


def middle_index(spec: VariableSpec) -> tuple[int, ...]:
    """Index of the middle slice along all axes but the last two."""
    return tuple(size // 2 for size in spec.shape[:-2])


def middle_factor(spec: VariableSpec) -> int:
    """Voxels averaged along y and x of the middle slice, a power of two that divides the brick."""
    factor, longest = 1, max(spec.shape[-2:])
    _, brick_y, brick_x = spec.brick_shape
    while longest // (2 * factor) >= WIDE and not (
        brick_y % (2 * factor) or brick_x % (2 * factor)
    ):
        factor *= 2
    return factor


def preview_part(spec: VariableSpec, position: tuple[int, ...], values: Values) -> bytes:
    """What is kept of a brick for the preview: its block means, then those of the middle slice.

    Nothing where the brick shows in neither. Read by `read_parts`.
    """
    plan, kept = plan_preview(spec), b""
    if position[: spec.lead] in plan.picks:
        kept = _means(spec, values, plan.factors, plan.dtype)
    at = _inside(spec, position)
    if at is not None:
        factor = middle_factor(spec)
        kept += _means(spec, values[at : at + 1], (1, factor, factor), plan.dtype)
    return kept


def read_parts(spec: VariableSpec, kept: Callable[[tuple[int, ...]], bytes | None]) -> Parts:
    """The parts of bricks again; ``kept`` is what `preview_part` gave for a position."""
    plan, factor = plan_preview(spec), middle_factor(spec)

    def cut(position: tuple[int, ...], *, middle: bool) -> Values | None:
        data, valid = kept(position), spec.valid(position)
        shapes = (
            [] if position[: spec.lead] not in plan.picks else [small_shape(valid, plan.factors)]
        )
        if _inside(spec, position) is not None:
            shapes.append(small_shape((1, *valid[1:]), (1, factor, factor)))
        sizes = [math.prod(shape) * plan.dtype.itemsize for shape in shapes]
        if data is None or len(data) != sum(sizes):
            return None
        start = len(data) - sizes[-1] if middle else 0
        shape = shapes[-1 if middle else 0]
        found = np.frombuffer(data, plan.dtype.newbyteorder("<"), math.prod(shape), start)
        return found.reshape(shape)

    return Parts(partial(cut, middle=False), partial(cut, middle=True))


def _means(
    spec: VariableSpec, values: Values, factors: Sequence[int], dtype: np.dtype[Any]
) -> bytes:
    small = block_means(values, factors, special=spec.special_values, dtype=dtype)
    return small.astype(dtype.newbyteorder("<")).tobytes()


def _inside(spec: VariableSpec, position: tuple[int, ...]) -> int | None:
    """Where the middle slice is in a brick, along its first axis; None where it is not."""
    index = middle_index(spec)
    box = spec.box(position)
    if not all(part.start <= at < part.stop for part, at in zip(box, index, strict=False)):
        return None
    return index[-1] - box[-3].start if spec.ndim > 2 else 0


def write_preview(spec: VariableSpec, parts: Parts, stage: Stage, *, limit: float) -> list[str]:
    """Write ``preview/<variable>/``; nothing when no brick has means, or there is no room.

    Parameters
    ----------
    spec : VariableSpec
    parts : Parts
    stage : Stage
        Not flushed here.
    limit : float
        Bytes that it may have; levels that go beyond are left out.

    Returns
    -------
    list of str
        Groups that were written, the widest picture first.
    """
    plan = plan_preview(spec)
    level = _assemble(spec, plan, parts.means)
    if level is None:
        return []
    room = limit - LISTS - DOCUMENT  # the pyramid's own group
    middle = _fitting_middle(spec, parts.middle, MIDDLE_SHARE * room)
    if middle is not None and middle[0].shape[-1] <= level.shape[-1]:
        middle = None
    left = room - (0 if middle is None else middle[1])
    lead, names = _axes(spec, plan)
    levels, factors = _pyramid(level, plan, spec.special_values, lead)
    scale = Scale.of(level, spec.special_values)
    shown = [scale.apply(values) for values in levels]
    chosen = 0
    for values in reversed(shown):
        left -= len(pack_frame(values.tobytes())) + DOCUMENT
        if left < 0:
            break
        chosen += 1
    if not chosen:
        return []
    path = f"preview/{spec.node}"
    about = _ome_attributes(spec, plan.picks if lead else (), names, factors[-chosen:])
    stage.group(path, about)
    for number, values in enumerate(shown[-chosen:]):
        _fill(stage, f"{path}/{number}", values, scale, names)
    if middle is None:
        return [path]
    values, _, factor = middle
    _write_middle(spec, values, factor, stage)
    return [f"{path}/{MIDDLE}", path]


def _fitting_middle(
    spec: VariableSpec, part: Part, room: float
) -> tuple[Values, float, int] | None:
    """The middle slice, its bytes and its factor; half as wide if need be; None without room."""
    factor = middle_factor(spec)
    values = _middle(spec, part)
    for _ in range(2):
        if values is None:
            return None
        shown = Scale.of(values, spec.special_values).apply(values)
        nbytes = len(pack_frame(shown.tobytes())) + 2 * DOCUMENT
        if nbytes <= room:
            return values, nbytes, factor
        steps = (1, 2, 2)
        values = block_means(values, steps, special=spec.special_values, dtype=values.dtype)
        factor *= 2
    return None


def _middle(spec: VariableSpec, part: Part) -> Values | None:
    """Block means (1, y, x) of the middle slice; None unless every brick of it has its part."""
    index = middle_index(spec)
    rows: list[list[Values]] = []
    for row in range(spec.grid_shape[-2]):
        rows.append([])
        for column in range(spec.grid_shape[-1]):
            chunk = zip(index, spec.chunk_shape, strict=False)
            found = part((*(at // size for at, size in chunk), row, column))
            if found is None:
                return None
            rows[-1].append(found)
    return np.concatenate([np.concatenate(line, axis=-1) for line in rows], axis=-2)


def _write_middle(spec: VariableSpec, values: Values, factor: int, stage: Stage) -> None:
    path = f"preview/{spec.node}/{MIDDLE}"
    unit = {} if spec.spacing_mm is None else {"unit": "millimeter"}
    axes = [{"name": name, "type": "space", **unit} for name in "zyx"]
    first = middle_index(spec)[-1] if spec.ndim > 2 else 0
    about = _ome_attributes(spec, (), axes, [(1, factor, factor)], first=first)
    stage.group(path, about)
    scale = Scale.of(values, spec.special_values)
    _fill(stage, f"{path}/0", scale.apply(values), scale, axes)


def _fill(
    stage: Stage, path: str, shown: Values, scale: Scale, axes: Sequence[Mapping[str, str]]
) -> None:
    stage.fill(
        path,
        shown,
        dims=[axis["name"] for axis in axes],
        attributes={
            "scale_factor": scale.factor,
            "add_offset": scale.offset,
            "_FillValue": NOTHING,
        },
    )


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


def _assemble(spec: VariableSpec, plan: PreviewPlan, part: Part) -> Values | None:
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
    picks: Sequence[tuple[int, ...]],
    axes: list[dict[str, str]],
    factors: list[tuple[int, int, int]],
    *,
    first: int = 0,
) -> dict[str, Any]:
    """Attributes of a pyramid whose first block begins at slice ``first``."""
    spacing = spec.spacing_mm or (1.0, 1.0, 1.0)
    lead = len(axes) - 3
    datasets = []
    for number, steps in enumerate(factors):
        scale = [1.0] * lead + [s * f for s, f in zip(spacing, steps, strict=True)]
        shift = [0.0] * lead + [s * (f - 1) / 2 for s, f in zip(spacing, steps, strict=True)]
        shift[lead] += spacing[0] * first
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
            "version": OME,
            "multiscales": [{"name": spec.name, "axes": axes, "datasets": datasets}],
        },
        "psc_archive": {
            "what": "block means; for looking, not for measuring",
            "leading_indices": [list(pick) for pick in picks],
        },
    }
