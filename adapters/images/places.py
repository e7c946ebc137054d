"""What TIFF files say of the axes of their pages: OME, ImageJ, and maps of GeoTIFF.

None of it is needed to read a file, and much of it is written by hand: what makes no sense is left
out, and never a reason to refuse a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from adapters.base import Array, Coordinate
from adapters.errors import SourceError
from adapters.images.pictures import Picture
from adapters.images.tiff import opened_tiff

__all__ = ["Places", "places_of"]

_AXES = {"T": "t", "C": "c", "Z": "z"}
_UNITS = {"µm": "um", "μm": "um", "micron": "um", "microns": "um", "micrometer": "um"}
_NO_UNITS = ("", "pixel", "pixels", "reference frame")
_LONGEST = 24
_NODATA, _POINTS, _OWN_CODES = 42113, 2, 32767


@dataclass(frozen=True)
class _Step:
    """Distance of neighbours along an axis, and where the first one is."""

    size: float
    unit: str | None
    start: float = 0.0


@dataclass(frozen=True)
class Places:
    """Where the pages of a file are.

    Attributes
    ----------
    pages : tuple of int
        Numbers of the pages, in the order of their axes.
    indices : dict of axis to (pages,) int
        Index along ``t``, ``c`` and ``z`` of each of them.
    steps : dict of axis to _Step
        Of these, and of ``y`` and ``x``.
    channels : tuple of str
        Names along ``c``.
    facts : dict
        Attributes.
    nodata : float or None
        The value that stands for none.
    """

    pages: tuple[int, ...]
    indices: Mapping[str, Array] = field(default_factory=dict)
    steps: Mapping[str, _Step] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    nodata: float | None = None

    def coordinates(self, pages: Sequence[Picture], suffix: str) -> list[Coordinate]:
        """Coordinates of a volume of these pages, whose axes end in a suffix."""
        if sorted(page.page for page in pages) != sorted(self.pages):
            return []
        made = []
        for axis, size in (("y", pages[0].rows), ("x", pages[0].columns)):
            if axis in self.steps:
                made.append(_coordinate(axis, axis, np.arange(size), self.steps[axis], suffix))
        rank = {page: n for n, page in enumerate(self.pages)}
        order = np.array([rank[page.page] for page in pages])
        for axis, index in self.indices.items() if len(pages) > 1 else ():
            step = self.steps.get(axis, _Step(1, None))
            made.append(_coordinate(axis, "page", index[order], step, suffix))
        if len(pages) > 1 and self.channels and "c" in self.indices:
            names = np.array([self.channels[int(n)] for n in self.indices["c"][order]])
            made.append(Coordinate(f"channel{suffix}", (f"page{suffix}",), names, {}))
        return made

    def special_values(self, dtype: np.dtype[Any]) -> tuple[float | int, ...]:
        """The value that stands for none, where numbers of this type can be it."""
        value = self.nodata
        if value is None or not math.isfinite(value):
            return ()
        if dtype.kind == "f":
            return (float(dtype.type(value)),) if abs(value) <= np.finfo(dtype).max else ()
        limits = np.iinfo(dtype)
        return (int(value),) if value == int(value) and limits.min <= value <= limits.max else ()


def _coordinate(axis: str, dim: str, index: Array, step: _Step, suffix: str) -> Coordinate:
    plain = step.unit is None and (step.size, step.start) == (1, 0)
    values = index.astype(np.int64) if plain else step.start + index * step.size
    attrs = {} if step.unit is None else {"units": step.unit}
    return Coordinate(f"{axis}{suffix}", (f"{dim}{suffix}",), values, attrs)


def places_of(path: Path) -> list[Places]:
    """Give what a TIFF file says of its pages; one for each of its series that makes sense."""
    try:
        with opened_tiff(path, alone=True) as file:
            found = [_series(file, number) for number in range(len(file.series))]
    except (SourceError, ElementTree.ParseError):
        return []
    return [places for places in found if places is not None]


def _series(file: Any, number: int) -> Places | None:
    series = file.series[number]
    lead = series.axes.split("Y")[0].replace("S", "")
    sizes = [size for axis, size in zip(series.axes, series.shape, strict=True) if axis in lead]
    count = math.prod(sizes)
    pages = tuple(range(count)) if series.is_truncated else _numbers(series)
    if len(pages) != count or len(set(lead)) != len(lead):
        return None
    positions = np.unravel_index(np.arange(count), sizes) if sizes else ()
    indices = {
        _AXES[axis]: np.asarray(index)
        for axis, index, size in zip(lead, positions, sizes, strict=True)
        if axis in _AXES and size > 1
    }
    steps, channels = dict[str, _Step](), tuple[str, ...]()
    if series.kind == "ome":
        steps, channels = _of_ome(file, number, len(file.series))
    elif series.kind == "imagej":
        steps = _of_imagej(file)
    wanted = dict(zip(lead, sizes, strict=True)).get("C", 1)
    if len(channels) != wanted or not any(channels):
        channels = ()
    first = file.pages[pages[0] if not series.is_truncated else 0]
    map_steps, facts = _of_map(first)
    return Places(pages, indices, {**map_steps, **steps}, channels, facts, _nodata(first))


def _numbers(series: Any) -> tuple[int, ...]:
    found = [getattr(page, "index", None) for page in series.pages]
    return tuple(number for number in found if isinstance(number, int))


def _step(size: Any, unit: Any, *, start: float = 0.0) -> _Step | None:
    """Make a step, of a number and a unit that make sense."""
    try:
        value = float(size)
    except (TypeError, ValueError):
        return None
    text = str(unit or "").strip()
    text = _UNITS.get(text, text)
    known = 0 < len(text) <= _LONGEST and text.isprintable() and text not in _NO_UNITS
    good = math.isfinite(value) and value > 0 and known
    return _Step(value, text, start) if good else None


def _of_ome(file: Any, number: int, count: int) -> tuple[dict[str, _Step], tuple[str, ...]]:
    """Sizes and names of channels of the image of OME's XML that a series is."""
    root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    images = root.findall("{*}Image/{*}Pixels")
    if len(images) != count:
        return {}, ()
    given = images[number].attrib
    found = {
        axis.lower(): _step(
            given.get(f"PhysicalSize{axis}"), given.get(f"PhysicalSize{axis}Unit", "um")
        )
        for axis in "XYZ"
    }
    found["t"] = _step(given.get("TimeIncrement"), given.get("TimeIncrementUnit", "s"))
    names = tuple(channel.get("Name", "") for channel in images[number].findall("{*}Channel"))
    return {axis: step for axis, step in found.items() if step is not None}, names


def _of_imagej(file: Any) -> dict[str, _Step]:
    """Sizes of ImageJ: pixels per unit in the tags of resolution, the rest in its description."""
    given = file.imagej_metadata or {}
    unit = str(given.get("unit", "")).replace("\\u00B5", "µ")
    found = {"z": _step(given.get("spacing"), unit), "t": _step(given.get("finterval"), "s")}
    for axis, code in (("x", 282), ("y", 283)):
        tag = file.pages[0].tags.get(code)
        pixels, length = tag.value if tag is not None else (0, 0)
        found[axis] = _step(length / pixels, unit) if pixels else None
    return {axis: step for axis, step in found.items() if step is not None}


def _of_map(page: Any) -> tuple[dict[str, _Step], dict[str, Any]]:
    """Centres of the pixels of a map that lies north up, and the code of its projection."""
    tags = page.geotiff_tags or {}
    facts: dict[str, Any] = {}
    for key in ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"):
        code = tags.get(key)
        if isinstance(code, int) and 0 < int(code) < _OWN_CODES:
            facts.setdefault("epsg", int(code))
    scale, tie = tags.get("ModelPixelScale"), tags.get("ModelTiepoint")
    if scale is None or tie is None or len(scale) < 2 or len(tie) != 6 or not all(scale[:2]):
        return {}, facts
    half = 0.0 if tags.get("GTRasterTypeGeoKey") == _POINTS else 0.5
    steps = {}
    for axis, place, size in (("x", 0, float(scale[0])), ("y", 1, -float(scale[1]))):
        start = float(tie[3 + place]) + (half - float(tie[place])) * size
        if math.isfinite(start) and math.isfinite(size):
            steps[axis] = _Step(size, None, start)
    return steps, facts


def _nodata(page: Any) -> float | None:
    tag = page.tags.get(_NODATA)
    try:
        return None if tag is None else float(str(tag.value).strip().strip("\0"))
    except ValueError:
        return None
