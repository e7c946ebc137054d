"""Regions in coordinate values: ``lat=40:60,time=2001-02-01:2001-03-01``, ends included.

Numbers are those stored in the archive. Dates are those that the coordinate's units stand for, in
its calendar; a date without a time is the whole day, as in xarray, a month the whole month.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.restoring.roi import axis_of, malformed, parse_ranges
from psc_volumetric.errors import ParameterError

__all__ = ["roi_from_coordinates"]

_TINY = 1e-6
_DATE = re.compile(
    r"\d{4}-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d{1,9})?)?)?)?)?", flags=re.ASCII
)

Values = NDArray[np.generic]


def roi_from_coordinates(
    text: str,
    *,
    dims: Sequence[str],
    shape: Sequence[int],
    coordinates: Mapping[str, Values],
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[slice, ...]:
    """Index box of the grid points whose coordinates lie in the given ranges, ends included.

    Parameters
    ----------
    text : str
        For example ``"lat=40:60,lon=0:30"`` (longitudes are not wrapped), or
        ``"time=2001-02-01:2001-03"``.
    dims, shape : sequences of equal length
        Axis names and sizes of the variable.
    coordinates : mapping
        Dimension name to its one-dimensional, strictly rising or falling values.
    attrs : mapping, optional
        Dimension name to the attributes of its coordinate; dates need ``units``.

    Raises
    ------
    ParameterError : malformed, unknown axis, no usable coordinate (kind ``"no-coordinate"``), or a
        range that reaches beyond the grid or holds no grid point (kind ``"roi-outside"``).
    """
    box = [slice(0, size) for size in shape]
    named: set[str] = set()
    for part in text.split(","):
        name, _, span = (piece.strip() for piece in part.partition("="))
        dates = _dates(text, span)
        if dates is None:
            ((name, (first, last)),) = parse_ranges(part).items()
        axis = axis_of(name, dims)
        if dims[axis] in named:
            raise malformed(text, f"axis {dims[axis]!r} is given twice")
        named.add(dims[axis])
        values = _monotone(name, dims[axis], coordinates, shape[axis])
        if dates is None:
            box[axis] = _between(name, dims[axis], values, first, last)
        else:
            own = (attrs or {}).get(dims[axis], {})
            box[axis] = _between_dates(text, name, values, own, dates)
    return tuple(box)


def _dates(text: str, span: str) -> tuple[str | None, str | None] | None:
    """Both sides of a range of dates, None where it is open; None for anything without dates."""
    if _DATE.fullmatch(span):
        return span, span
    cuts = [
        (span[:at].strip(), span[at + 1 :].strip()) for at, sign in enumerate(span) if sign == ":"
    ]
    found = [
        (first or None, last or None)
        for first, last in cuts
        if (first or last) and all(not side or _DATE.fullmatch(side) for side in (first, last))
    ]
    if len(found) > 1:
        raise malformed(text, f"{span!r} can be read as several ranges")
    return found[0] if found else None


def _between(
    name: str, dim: str, values: NDArray[np.float64], first: float | None, last: float | None
) -> slice:
    low, high = float(values.min()), float(values.max())
    start = low if first is None else first
    stop = high if last is None else last
    cell = (high - low) / max(len(values) - 1, 1)
    inside = np.flatnonzero((values >= start) & (values <= stop))
    if start < low - cell - _TINY or stop > high + cell + _TINY or not inside.size:
        raise ParameterError(
            f"region {name}={start:g}:{stop:g} is outside the volume or holds no grid point: "
            f"{dim!r} runs from {low:g} to {high:g} in {len(values)} points",
            kind="roi-outside",
            hint=f"valid are ranges within {name}={low:g}:{high:g}; longitudes do not wrap",
        )
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _between_dates(
    text: str,
    name: str,
    values: NDArray[np.float64],
    attrs: Mapping[str, Any],
    dates: tuple[str | None, str | None],
) -> slice:
    import xarray as xr

    falls = len(values) > 1 and values[1] < values[0]
    kept = {key: str(attrs[key]) for key in ("units", "calendar") if key in attrs}
    if " since " not in kept.get("units", ""):
        raise ParameterError(
            f"axis {name!r} has no dates: its units are {attrs.get('units')!r}",
            kind="no-coordinate",
            hint="give the range in stored values",
        )
    try:
        coordinate = xr.Variable((name,), values[::-1] if falls else values, kept)
        index = xr.decode_cf(xr.Dataset(coords={name: coordinate})).indexes[name]
        found = index.slice_indexer(*dates)
        low, high = str(index[0]), str(index[-1])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise malformed(text, f"these are no dates of axis {name!r} ({error})") from error
    start, stop = int(found.start or 0), int(found.stop)
    if start >= stop:
        raise ParameterError(
            f"region {name}={dates[0] or ''}:{dates[1] or ''} holds no grid point: axis {name!r} "
            f"runs from {low} to {high} in {len(values)} points",
            kind="roi-outside",
            hint="give a range that lies within, the earlier date first",
        )
    return slice(len(values) - stop, len(values) - start) if falls else slice(start, stop)


def _monotone(
    name: str, dim: str, coordinates: Mapping[str, Values], size: int
) -> NDArray[np.float64]:
    values = coordinates.get(dim)
    if values is not None and values.shape == (size,) and values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
        steps = np.diff(numbers)
        if np.isfinite(numbers).all() and ((steps > 0).all() or (steps < 0).all()):
            return numbers
    raise ParameterError(
        f"axis {name!r} has no one-dimensional rising or falling coordinate",
        kind="no-coordinate",
        hint="give the region in indices with --roi",
    )
