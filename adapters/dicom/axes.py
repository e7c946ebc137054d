"""From frames to axes: which frames make one volume, along which leading axes, in which order.

Frames at one place along the normal are told apart by what the headers say: segment, kind of
image, echo, b-value, position in time. What every place has in the same way becomes an axis with
coordinates, named for what it is. The rest is put in the order of acquisition. Nothing is guessed:
frames that do not fill such a grid stay a list of frames, with all that is known of them beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapters.base import Array
from adapters.dicom.frames import NM_VECTORS, Frame
from adapters.dicom.geometry import along_normal

__all__ = ["Arrangement", "AxisValues", "arrange", "places_of", "sort_key", "typed"]

_DIMS = {  # trait -> the axis that it makes
    "ReferencedSegmentNumber": "segment",
    **NM_VECTORS,
    "ImageType": "frame_type",
    "EchoNumbers": "echo",
    "EchoTime": "echo",
    "EffectiveEchoTime": "echo",
    "InversionTime": "inversion_time",
    "DiffusionBValue": "b_value",
    "DiffusionGradientOrientation": "direction",  # after the b-value, which says more
    "TemporalPositionIndex": "time",
    "TemporalPositionIdentifier": "time",
    "TriggerTime": "time",
    "NominalCardiacTriggerDelayTime": "time",
    "FrameReferenceTime": "time",
    "AcquisitionNumber": "time",
    "FrameAcquisitionNumber": "time",
}
_NAMES = {  # trait -> name, unit and meaning of its coordinate
    "ReferencedSegmentNumber": ("segment", None, "segment number"),
    "ImageType": ("frame_type", None, "kind of image"),
    "EchoNumbers": ("echo", None, "echo number"),
    "EchoTime": ("echo_time", "ms", "echo time"),
    "EffectiveEchoTime": ("echo_time", "ms", "echo time"),
    "InversionTime": ("inversion_time", "ms", "inversion time"),
    "DiffusionBValue": ("b_value", "s/mm2", "diffusion weighting"),
    "TemporalPositionIndex": ("temporal_position", None, "number of the time point"),
    "TemporalPositionIdentifier": ("temporal_position", None, "number of the time point"),
    "TriggerTime": ("trigger_time", "ms", "time after the trigger"),
    "NominalCardiacTriggerDelayTime": ("trigger_time", "ms", "time after the trigger"),
    "FrameReferenceTime": ("frame_reference_time", "ms", "time from the start of the series"),
    "AcquisitionNumber": ("acquisition_number", None, "number of the acquisition"),
    "FrameAcquisitionNumber": ("acquisition_number", None, "number of the acquisition"),
    **{name: (axis, None, f"number of the {axis}") for name, axis in NM_VECTORS.items()},
}
_KINDS = ("ImageType", "EchoNumbers", "EchoTime", "EffectiveEchoTime", "InversionTime")
_MOST_LEADS = 3


@dataclass(frozen=True)
class AxisValues:
    """A coordinate along leading axes (and z): its dims, values, unit and meaning."""

    name: str
    dims: tuple[str, ...]
    values: Array
    unit: str | None
    meaning: str


@dataclass(frozen=True)
class Arrangement:
    """Frames in a grid: ``table`` holds their numbers, (leads ..., z) or (leads ...), -1 if absent.

    ``leads`` names the leading axes; ``spatial`` tells whether the last axis is z.
    """

    table: np.ndarray
    leads: tuple[str, ...]
    coordinates: tuple[AxisValues, ...] = ()
    spatial: bool = True
    notes: tuple[str, ...] = field(default=())


def _same_place_mm(pixel_spacing: Sequence[float] | None) -> float:
    """Distance along the normal below which two slices lie at one place: 1 % of a pixel."""
    return min(0.01, 0.01 * min(pixel_spacing)) if pixel_spacing else 0.01


def places_of(frames: Sequence[Frame], numbers: Sequence[int]) -> list[list[int]]:
    """Give frame numbers by position along the normal, ascending."""
    first = frames[numbers[0]]
    assert first.orientation is not None
    positions = np.array([frames[n].position for n in numbers])
    distances = along_normal(positions, first.orientation)
    near = _same_place_mm(first.pixel_spacing)
    places: list[list[int]] = []
    last = -np.inf
    for i in np.argsort(distances, kind="stable"):
        if distances[i] - last < near:
            places[-1].append(numbers[int(i)])
        else:
            places.append([numbers[int(i)]])
            last = distances[i]
    return places


def arrange(frames: Sequence[Frame], places: Sequence[Sequence[int]]) -> list[Arrangement]:
    """Arrange frames at places along z into one grid, or several.

    Parameters
    ----------
    frames : sequence of Frame
    places : sequence of sequences of int
        Frame numbers by place, ascending along the normal; one place for frames without geometry.

    Returns
    -------
    list of Arrangement
        Usually one. A scan that was stopped gives its complete volumes, and what is left as a
        grid of its own. Frames that fit no grid give one list along ``frame``.
    """
    counts = sorted({len(place) for place in places})
    if counts == [1]:
        return [Arrangement(np.array([place[0] for place in places]), ())]
    if len(counts) == 1:
        found = _grid(frames, places)
        return [found] if found is not None else [_as_list(frames, places)]
    return (
        _apart(frames, places, counts[-1], _KINDS)
        or _incomplete(frames, places, counts)
        or _apart(frames, places, counts[-1], _DIMS)
        or [_as_list(frames, places)]
    )


def _apart(
    frames: Sequence[Frame], places: Sequence[Sequence[int]], most: int, traits: Iterable[str]
) -> list[Arrangement] | None:
    """Split frames by a trait whose values each fill a grid of their own; None when none does.

    A trait with more values than frames at one place (a clock) would shred the series.
    """
    for trait in traits:
        names = {n: dict(frames[n].traits).get(trait) for place in places for n in place}
        values = sorted({str(v) for v in names.values() if v is not None}, key=sort_key)
        if not 1 < len(values) <= most or None in names.values():
            continue
        parts = []
        for value in values:
            mine = [[n for n in place if names[n] == value] for place in places]
            parts += arrange(frames, [place for place in mine if place])
        if all(part.spatial for part in parts):
            return parts
    return None


def _incomplete(
    frames: Sequence[Frame], places: Sequence[Sequence[int]], counts: list[int]
) -> list[Arrangement] | None:
    """Split off the last volume of a scan that was stopped.

    One that has two complete ones before it, or whose slices say that they are of another time.
    """
    full = counts[0]
    ranked = [_ranked(frames, place) for place in places]
    rows = [row for row in ranked if row is not None]
    clear = counts[-1] == full + 1 and len(rows) == len(places)
    if not clear or (full < 2 and not _told_apart(frames, rows)):
        return None
    whole = _grid(frames, [row[:full] for row in rows])
    if whole is None:
        return None
    rest = np.array([row[full] for row in rows if len(row) > full])
    note = f"the last volume was not finished: its {len(rest)} slice(s) are a variable of their own"
    return [
        Arrangement(whole.table, whole.leads, whole.coordinates, notes=(note,)),
        Arrangement(rest, ()),
    ]


def _told_apart(frames: Sequence[Frame], rows: Sequence[Sequence[int]]) -> bool:
    """Whether some trait has one value in the first volume and another one in the second."""
    for trait in _DIMS:
        firsts = {dict(frames[row[0]].traits).get(trait) for row in rows}
        seconds = {dict(frames[row[1]].traits).get(trait) for row in rows if len(row) > 1}
        if len(firsts) == len(seconds) == 1 and None not in firsts | seconds and firsts != seconds:
            return True
    return False


def _grid(frames: Sequence[Frame], places: Sequence[Sequence[int]]) -> Arrangement | None:
    """Fill leading axes with the frames of every place; None when the places differ."""
    leads, cells = _crossed(frames, places)
    rest = len(places[0]) // max(1, int(np.prod([len(values) for _, values in leads])))
    sizes = [len(values) for _, values in leads]
    names = [name for name, _ in leads]
    table = np.full((len(places), *sizes, rest), -1)
    for z, place in enumerate(places):
        for cell in np.ndindex(*sizes):
            inside = [n for n in place if cells[n] == cell]
            ranked = _ranked(frames, inside)
            if ranked is None:
                return None
            table[(z, *cell)] = ranked
    table = np.moveaxis(table, 0, -1)
    if rest > 1:
        names.append(_name_of_rest(frames, table, names))
    else:
        table = table.reshape(*sizes, len(places))
    if len(names) > _MOST_LEADS:
        table, names = table.reshape(-1, len(places)), ["frame"]
    dims = tuple(names)
    return Arrangement(table, dims, tuple(_coordinates(frames, table, dims)))


def _crossed(
    frames: Sequence[Frame], places: Sequence[Sequence[int]]
) -> tuple[list[tuple[str, list[str]]], dict[int, tuple[int, ...]]]:
    """Find traits that every place has in the same way and that cross one another evenly.

    Returns
    -------
    leads : list of (axis, values)
    cells : dict of frame number to index along these axes
    """
    leads: list[tuple[str, list[str]]] = []
    cells: dict[int, tuple[int, ...]] = {n: () for place in places for n in place}
    for trait, axis in _DIMS.items():
        if axis in (name for name, _ in leads):
            continue
        values = {n: dict(frames[n].traits).get(trait) for n in cells}
        distinct = sorted({v for v in values.values() if v is not None}, key=sort_key)
        if len(distinct) < 2 or None in values.values():
            continue
        trial = {n: (*cell, distinct.index(str(values[n]))) for n, cell in cells.items()}
        share = Counter(trial[n] for n in places[0])
        if any(Counter(trial[n] for n in place) != share for place in places):
            continue  # a clock, or the like: another value in every slice
        expected = len(distinct) * int(np.prod([len(found) for _, found in leads]))
        if len(set(share.values())) > 1 or len(share) != expected:
            break  # b-values with several directions: what is left stays in the order it came in
        leads.append((axis, distinct))
        cells = trial
    return leads, cells


def _ranked(frames: Sequence[Frame], place: Sequence[int]) -> list[int] | None:
    """Order frames at one place as they were acquired; None when nothing tells them apart."""
    if len(place) == 1:
        return list(place)
    for key in (_by_number, _by_clock, _by_traits):
        keys = [key(frames[n]) for n in place]
        if None not in keys and len(set(keys)) == len(keys):
            return [place[i] for i in sorted(range(len(place)), key=lambda i: keys[i])]  # type: ignore[arg-type, return-value]
    return None


def _by_number(frame: Frame) -> int | None:
    return frame.order


def _by_clock(frame: Frame) -> float | None:
    return frame.clock


def _by_traits(frame: Frame) -> tuple[tuple[float, str], ...]:
    return tuple(sort_key(value) for name, value in frame.traits if name in _DIMS)


def sort_key(value: str | None) -> tuple[float, str]:
    """Order numbers by size, and texts behind them."""
    try:
        return float(value or ""), ""
    except ValueError:
        return float("inf"), value or ""


def _name_of_rest(frames: Sequence[Frame], table: np.ndarray, taken: Sequence[str]) -> str:
    """Name the axis along which frames were put in order: for the trait that varies along it."""
    flat = table.reshape(-1, *table.shape[-2:])[0]
    for trait, axis in _DIMS.items():
        values = [{dict(frames[n].traits).get(trait) for n in row} for row in flat]
        steady = all(len(found) == 1 for found in values)
        if axis not in taken and steady and len(set(map(str, values))) > 1:
            return axis
    clocks = {frames[n].clock for n in flat[:, 0]} - {None}
    numbered = frames[int(flat[0, 0])].position is not None
    return "time" if (len(clocks) > 1 or numbered) and "time" not in taken else "frame"


def _coordinates(
    frames: Sequence[Frame], table: np.ndarray, leads: tuple[str, ...]
) -> list[AxisValues]:
    """Give what is known along the leading axes, each along as few of them as it depends on."""
    found: dict[str, AxisValues] = {}
    for trait, (name, unit, meaning) in _NAMES.items():
        values = [dict(frames[n].traits).get(trait) for n in table.ravel()]
        if name in found or None in values or len(set(values)) < 2:
            continue
        array = typed([str(value) for value in values]).reshape(table.shape)
        made = _along(name, array, leads, unit, meaning)
        if made is not None:
            found[name] = made
    clocks = [frames[n].clock for n in table.ravel()]
    if "acquisition_time" not in found and None not in clocks and len(set(clocks)) > 1:
        seconds = np.array(clocks, np.float64).reshape(table.shape)
        made = _along(
            "acquisition_time", seconds - seconds.min(), leads, "s", "time from the first frame"
        )
        if made is not None:
            found["acquisition_time"] = made
    last = leads[-1] if leads else ""
    if last == "time" and not any("time" in values.dims for values in found.values()):
        count = np.arange(1, table.shape[len(leads) - 1] + 1)
        known = AxisValues("temporal_position", ("time",), count, None, "order of acquisition")
        found[known.name] = known
    return list(found.values())


def typed(values: list[str]) -> Array:
    """Turn texts into numbers where all are numbers."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return np.array(values)
    whole = bool(np.all(numbers == np.rint(numbers)) and np.all(np.abs(numbers) < 2**53))
    return numbers.astype(np.int64) if whole and all("." not in v for v in values) else numbers


def _along(
    name: str, values: Array, leads: tuple[str, ...], unit: str | None, meaning: str
) -> AxisValues | None:
    """Drop the axes along which values do not change; None when a name would stand for two."""
    dims = [*leads, "z"]
    for axis in range(values.ndim - 1, -1, -1):
        first = np.take(values, [0], axis)
        if np.all(values == first):
            values = np.squeeze(first, axis)
            del dims[axis]
    if not dims or dims == ["z"] or (name in dims and len(dims) > 1):
        return None
    if name in leads and dims != [name]:
        return None
    return AxisValues(name, tuple(dims), values, unit, meaning)


def _as_list(frames: Sequence[Frame], places: Sequence[Sequence[int]]) -> Arrangement:
    """Keep frames as a list, ordered by place and then as they were acquired."""
    order: list[int] = []
    for place in places:
        order += _ranked(frames, place) or list(place)
    most = max(len(place) for place in places)
    note = (
        f"{len(order)} slices, up to {most} at one position, do not fill a grid: kept as a list "
        "of frames, no affine"
    )
    table = np.array(order)
    known = _coordinates(frames, table[:, None], ("frame",))
    return Arrangement(table, ("frame",), tuple(known), spatial=False, notes=(note,))
