"""Regions of interest: text from the command line to a box of array indices.

A region is given in indices (``z=10:42,y=0:64``) or in millimetres of the RAS+ world
(``x=-20:30,z=0:45.5``); in coordinate values see `pipelines.restoring.roi_coordinates`. All end
as one half-open slice per axis, and a region that is not inside the volume is refused by naming the
range that would be valid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError

__all__ = [
    "axis_of",
    "box_text",
    "malformed",
    "own_axes",
    "parse_ranges",
    "roi_from_indices",
    "roi_from_mm",
]

Range = tuple[float | None, float | None]

_SPATIAL = ("z", "y", "x")
_TINY = 1e-6


def parse_ranges(text: str) -> dict[str, Range]:
    """Read ``name=start:stop,...``; either side may be left open, one number means one index.

    Parameters
    ----------
    text : str
        For example ``"z=10:42,y=0:64,x=:96"``.

    Returns
    -------
    dict
        Name to (start, stop); None where the side is open. ``"t=3"`` gives ``(3.0, 3.0)``.

    Raises
    ------
    ParameterError : malformed text, an empty part, a name given twice, a number not finite.
    """
    ranges: dict[str, Range] = {}
    for part in text.split(","):
        name, equals, span = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not span:
            raise malformed(text, f"{part.strip()!r} is not of the form name=start:stop")
        if name in ranges:
            raise malformed(text, f"axis {name!r} is given twice")
        start, colon, stop = (piece.strip() for piece in span.partition(":"))
        ranges[name] = (_number(text, start), _number(text, stop if colon else start))
    return ranges


def malformed(text: str, problem: str) -> ParameterError:
    """The error for a region that cannot be read."""
    return ParameterError(
        f"region {text!r} cannot be read: {problem}",
        kind="bad-roi",
        hint='write it as "z=10:42,y=0:64,x=32:96"',
    )


def _number(text: str, piece: str) -> float | None:
    if not piece:
        return None
    try:
        if "_" in piece or not piece.isascii():
            raise ValueError(piece)
        value = float(piece)
    except ValueError as error:
        raise malformed(text, f"{piece!r} is not a number") from error
    if not math.isfinite(value):
        raise malformed(text, f"{piece!r} is not finite")
    return value


def box_text(roi: Sequence[slice], dims: Sequence[str]) -> str:
    """The region as the command line would write it: ``z=10:42,y=0:64,x=32:96``."""
    return ",".join(
        f"{name}={part.start}:{part.stop}" for name, part in zip(dims, roi, strict=True)
    )


def axis_of(name: str, dims: Sequence[str]) -> int:
    """Axis number of a name; z, y and x also name the last three axes.

    Raises
    ------
    ParameterError : kind ``"unknown-axis"``.
    """
    if name in dims:
        return list(dims).index(name)
    if name in _SPATIAL and not set(_SPATIAL) & set(dims):
        axis = len(dims) - len(_SPATIAL) + _SPATIAL.index(name)
        if axis >= 0:
            return axis
    raise ParameterError(
        f"region names axis {name!r}; the variable has axes {', '.join(map(repr, dims))}",
        kind="unknown-axis",
        hint="`psc-archive ls` lists the axes of each variable",
    )


def own_axes(text: str, *, dims: Sequence[str], others: frozenset[str]) -> str | None:
    """The part of a region that is about axes of one variable, None when there is none.

    Parameters
    ----------
    text : str
        A region of a whole archive, for example ``"time=0:2,lat=4:9"``.
    dims : sequence of str
        Axes of the variable; a field over ``(lat, lon)`` is cut along ``lat`` only.
    others : frozenset of str
        Axes of all variables. A name that none has stays, and is an error later.
    """
    parts = []
    for part in text.split(","):
        name = part.partition("=")[0].strip()
        if name in dims or name not in others:
            parts.append(part)
    return ",".join(parts) if parts else None


def roi_from_indices(text: str, *, dims: Sequence[str], shape: Sequence[int]) -> tuple[slice, ...]:
    """Half-open index box from text; axes not named are taken whole.

    Parameters
    ----------
    text : str
        For example ``"z=10:42,y=0:64,x=32:96"``; ``"t=3"`` is ``3:4``.
    dims, shape : sequences of equal length
        Axis names and sizes of the variable, array order.

    Returns
    -------
    tuple of slice
        One per axis, 0 <= start < stop <= size, step None.

    Raises
    ------
    ParameterError : malformed, unknown axis, empty, or not wholly inside the volume
        (kind ``"roi-outside"``).
    """
    box = [slice(0, size) for size in shape]
    for name, (first, last) in parse_ranges(text).items():
        axis = axis_of(name, dims)
        single = _is_single(text, name)
        start = _index(text, name, first, 0)
        stop = start + 1 if single else _index(text, name, last, shape[axis])
        if not 0 <= start < stop <= shape[axis]:
            raise ParameterError(
                f"region {name}={start}:{stop} is not inside the volume: axis {dims[axis]!r} has "
                f"{shape[axis]} entries, valid are start < stop within 0:{shape[axis]}",
                kind="roi-outside",
                hint=f"the whole volume is {box_text([slice(0, n) for n in shape], dims)}",
            )
        box[axis] = slice(start, stop)
    return tuple(box)


def _is_single(text: str, name: str) -> bool:
    parts = (part.partition("=") for part in text.split(","))
    return any(key.strip() == name and ":" not in span for key, _, span in parts)


def _index(text: str, name: str, value: float | None, default: int) -> int:
    if value is None:
        return default
    if value != int(value):
        raise malformed(text, f"axis {name!r} needs whole numbers, found {value!r}")
    return int(value)


def _world_bounds(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """(2, 3) lowest and highest world x, y, z in mm over the corners of the voxel cells."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij")).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    return np.stack([world.min(axis=1), world.max(axis=1)])


def roi_from_mm(
    text: str, *, affine: NDArray[np.float64] | None, shape: Sequence[int]
) -> tuple[slice, ...]:
    """Index box that encloses a box given in world millimetres (RAS+).

    Parameters
    ----------
    text : str
        For example ``"x=-20:30,y=-50:10,z=0:45"``; world axes not named are unbounded.
    affine : (4, 4) float64 or None
        Array index (z, y, x, 1) of the last three axes to world mm (x, y, z), RAS+.
    shape : sequence of int
        Shape of the variable; axes before the last three are taken whole.

    Returns
    -------
    tuple of slice
        The smallest index box holding every voxel whose cell touches the world box. On an oblique
        grid it reaches beyond the world box; parts of the box beyond the volume are cut off.

    Raises
    ------
    ParameterError : no affine (kind ``"no-affine"``), or the box misses the volume
        (kind ``"roi-outside"``).
    """
    if affine is None or len(shape) < 3:
        raise ParameterError(
            "a region in mm needs an affine, and this variable has none",
            kind="no-affine",
            hint="give the region in indices with --roi",
        )
    matrix = np.asarray(affine, dtype=np.float64)
    bounds = _world_bounds(matrix, shape[-3:])
    low, high = bounds[0].copy(), bounds[1].copy()
    for name, (first, last) in parse_ranges(text).items():
        if name not in ("x", "y", "z"):
            raise malformed(text, f"world axes are x, y and z, found {name!r}")
        axis = "xyz".index(name)
        low[axis] = bounds[0][axis] if first is None else first
        high[axis] = bounds[1][axis] if last is None else last
        if low[axis] > high[axis]:
            raise malformed(text, f"{name} starts at {low[axis]:g} after its end {high[axis]:g}")
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
    index = np.linalg.solve(matrix[:3, :3], corners - matrix[:3, 3:])
    box = [slice(0, size) for size in shape[:-3]]
    for axis, size in enumerate(shape[-3:]):
        first_cell = math.floor(float(index[axis].min()) + 0.5 + _TINY)
        last_cell = max(math.ceil(float(index[axis].max()) + 0.5 - _TINY), first_cell + 1)
        start, stop = max(0, first_cell), min(size, last_cell)
        if start >= stop:
            raise ParameterError(
                f"region {text!r} mm is outside the volume, which spans {_mm_text(bounds)} (RAS+)",
                kind="roi-outside",
                hint=f'valid is any box that touches "{_mm_text(bounds)}"',
            )
        box.append(slice(start, stop))
    return tuple(box)


def _mm_text(bounds: NDArray[np.float64]) -> str:
    return ",".join(f"{n}={lo:.2f}:{hi:.2f}" for n, lo, hi in zip("xyz", *bounds, strict=True))
