"""A restored file beside its source, both as a reader of the format sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from adapters import registry
from adapters.base import Array, Candidate, Volume

__all__ = ["difference"]

_SLAB_VALUES = 1 << 22
_CORNER_MM = 1e-3
_ROUNDING = 1e-6  # share of the bound: sums of float values are not exact


def difference(
    source: Candidate, restored: Sequence[Path], bounds: Mapping[str, float | None]
) -> str | None:
    """Say how restored files differ from their source beyond what was promised, or None.

    Parameters
    ----------
    source : Candidate
    restored : sequence of Path
        Files that were written from the archive, all volumes, whole.
    bounds : mapping
        Volume -> largest error of its stored values; None compares no values.

    Raises
    ------
    SourceError : one of them cannot be read.
    """
    folder = restored[0].parent if len(restored) > 1 else restored[0]
    found = [c for c in registry.discover(folder).candidates if c.kind == source.kind]
    wanted = {volume.name: volume for volume in registry.open_source(source).volumes}
    made = [volume for candidate in found for volume in registry.open_source(candidate).volumes]
    if sorted(wanted) != sorted(volume.name for volume in made):
        return f"expected the volumes {sorted(wanted)}, found {sorted(v.name for v in made)}"
    for volume in made:
        what = _volume_difference(wanted[volume.name], volume, bounds.get(volume.name))
        if what is not None:
            return f"volume {volume.name!r}: {what}"
    return None


def _volume_difference(first: Volume, second: Volume, bound: float | None) -> str | None:
    if first.array.shape != second.array.shape or first.dims != second.dims:
        return f"axes {second.dims} of {second.array.shape} for {first.dims} of {first.array.shape}"
    if first.unit != second.unit:
        return f"unit {second.unit!r} for {first.unit!r}"
    if not _same_geometry(first, second):
        return "another place in space"
    repeated = {coordinate.name for coordinate in second.coordinates}
    wanted = [c for c in first.coordinates if c.name in repeated or c.name not in first.said_beside]
    for coordinate, other in zip(wanted, second.coordinates, strict=False):
        same = np.array_equal(coordinate.values, other.values) or (
            coordinate.values.dtype.kind == "f"
            and np.allclose(coordinate.values, other.values, rtol=1e-9, equal_nan=True)
        )
        if coordinate.name != other.name or not same:
            return f"coordinate {coordinate.name!r} is another"
    if len(wanted) != len(second.coordinates):
        return "another number of coordinates"
    return None if bound is None else _value_difference(first, second, bound)


def _same_geometry(first: Volume, second: Volume) -> bool:
    if first.affine is None or second.affine is None:
        return first.affine is second.affine
    last = np.maximum(np.array(first.array.shape[-3:]), 1) - 1
    corners = np.array([[*(corner * last), 1] for corner in np.ndindex(2, 2, 2)])
    away = np.abs(corners @ (first.affine - second.affine)[:3].T)
    return bool(away.max() <= _CORNER_MM)


def _value_difference(first: Volume, second: Volume, bound: float) -> str | None:
    """Values are compared scaled, as readers give them: the two may be stored otherwise."""
    allowed = bound * _largest_slope(first) * (1 + _ROUNDING)
    for box in _slabs(first.array.shape):
        mine, its = _scaled(first, box), _scaled(second, box)
        with np.errstate(invalid="ignore"):
            away = np.abs(mine - its)
        bad = ~((away <= allowed) | (mine == its) | (np.isnan(mine) & np.isnan(its)))
        if bad.any():
            place = np.argwhere(bad)[0] + [part.start for part in box]
            return f"a value at {tuple(place.tolist())} is off by more than {bound:g}"
    return None


def _largest_slope(volume: Volume) -> float:
    table = volume.attrs.get("slice_slope")
    slopes = np.asarray(volume.slope or 1.0 if table is None else table, np.float64)
    return float(np.abs(slopes).max()) or 1.0


def _scaled(volume: Volume, box: tuple[slice, ...]) -> Array:
    stored = volume.array[box].astype(np.float64)
    table = volume.attrs.get("slice_slope")
    if table is None:
        return stored * (volume.slope or 1.0) + (volume.intercept or 0.0)
    slopes = np.asarray(table, np.float64)
    lead = box[-2 - slopes.ndim : -2]
    offsets = np.asarray(volume.attrs["slice_intercept"], np.float64)
    return np.asarray(stored * slopes[lead][..., None, None] + offsets[lead][..., None, None])


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Boxes of whole planes that cover an array."""
    planes = shape[:-2]
    rows = max(1, _SLAB_VALUES // max(1, shape[-1])) if len(shape) > 1 else _SLAB_VALUES
    for index in np.ndindex(*planes):
        lead = tuple(slice(i, i + 1) for i in index)
        for start in range(0, shape[-2], rows):
            yield (*lead, slice(start, min(start + rows, shape[-2])), slice(0, shape[-1]))
