"""What a page must know of an archive and its variables before it draws anything, as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.checking.info import reader_info, shown_entries
from pipelines.reporting.measures import is_labels, palette_of, unit_of
from pipelines.reporting.planes import TITLES, Plane, coordinates_of, planes_of
from pipelines.reporting.promises import promises
from pipelines.viewing.previews import previews_of
from pipelines.viewing.shelf import Shown
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import SOFT_TISSUE, colours_of, is_hounsfield
from psc_volumetric.archive.skeleton import PlainCoordinate
from psc_volumetric.errors import PscError

__all__ = ["archive_text", "levels_of", "variable_text"]

MOST_LABELS = 20_000  # of one axis
WINDOWS = {
    "lung": (-1350.0, 150.0),
    "bone": (-500.0, 1300.0),
    "soft tissue": SOFT_TISSUE,
}
"""Windows of Hounsfield units as radiologists name them: lowest and highest value told apart."""


def archive_text(shown: Shown) -> dict[str, Any]:
    """Variables, the largest first, and what the archive is; reads nothing more than was opened."""
    reader = shown.reader
    kept = [one.spec for one in reader.kept.values()]
    specs = sorted([*reader.variables.values(), *kept], key=lambda spec: -spec.nbytes)
    return {
        "name": shown.name,
        "mode": reader.mode,
        "created": reader.created,
        "bytes": reader.manifest.size + len(reader.manifest.to_bytes()),
        "variables": [
            {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype.name}
            for spec in specs
        ],
    }


def variable_text(shown: Shown, name: str) -> dict[str, Any]:
    """How a variable is drawn: planes, axes, previews, windows.

    Raises
    ------
    ParameterError : kind ``"unknown-variable"``.
    """
    reader = shown.reader
    spec = reader.described(name)
    damage: list[str] = []
    coordinates = coordinates_of(reader, spec, damage)
    planes = planes_of(reader, spec, coordinates)
    labels = is_labels(spec)
    colours = colours_of(spec)
    return {
        "name": name,
        "title": _title(spec),
        "dims": list(spec.dims),
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "unit": "" if labels else unit_of(spec),
        "slope": 1.0 if spec.slope is None else spec.slope,
        "intercept": 0.0 if spec.intercept is None else spec.intercept,
        "special": [float(value) for value in spec.special_values],
        "labels": labels,
        "meanings": _meanings(spec) if labels else {},
        "palette": palette_of(spec),
        "colours": None if colours is None else vars(colours),
        "affine": None if spec.affine is None else np.asarray(spec.affine).tolist(),
        "windows": WINDOWS if is_hounsfield(spec) else {},
        "planes": [_plane(plane, spec) for plane in planes],
        "axes": [_axis(spec, axis, coordinates.get(dim)) for axis, dim in enumerate(spec.dims)],
        "previews": [preview.text() for preview in previews_of(reader, spec, damage)],
        "solid": spec.affine is not None and spec.ndim >= 3 and min(spec.shape[-3:]) > 1,
        "damage": damage,
    }


def levels_of(shown: Shown, name: str) -> dict[str, Any]:
    """Levels of a variable with rates and errors, its methods, and what is promised.

    Where the table of tiles is damaged, the header of the first brick says how many there are.
    """
    reader = shown.reader
    spec = reader.described(name)
    try:
        info = reader_info(reader)
    except PscError as error:
        if name in reader.kept:
            raise
        index = reader.brick_index(name, next(iter(spec.positions())))
        rows = [{"level": n, "name": None, "bpv": None} for n in range(index.levels)]
        return {"levels": rows, "methods": [], "promises": [], "damage": [str(error)]}
    entry = shown_entries(info)[name]
    of = {
        part: {n: e for n, e in info[part].items() if n == name} for part in ("variables", "kept")
    }
    return {
        "levels": entry["levels"],
        "methods": list(entry.get("brick_methods", ("the source file itself",))),
        "promises": promises(info | of),
        "damage": [],
    }


def _title(spec: VariableSpec) -> str:
    """What a variable is called and what it is made of."""
    known = [spec.attrs.get(key) for key in ("long_name", "standard_name")]
    named = [text for text in known if isinstance(text, str) and text and text != spec.name]
    extents = " × ".join(f"{dim} {size}" for dim, size in zip(spec.dims, spec.shape, strict=True))
    return f"{' – '.join([spec.name, *named[:1]])} · {spec.dtype.name}, {extents}"


def _plane(plane: Plane, spec: VariableSpec) -> dict[str, Any]:
    first = plane.title.split(",")[0]
    return {
        "title": first
        if first in TITLES.values()
        else "slice"
        if spec.affine is not None
        else "map",
        "axes": list(plane.axes),
        "flips": list(plane.flips),
        "pitch": list(plane.pitch),
        "edges": list(plane.edges),
        "start": [part.start for part in plane.selection],
    }


def _meanings(spec: VariableSpec) -> dict[str, str]:
    """Names of labels, where CF attributes give them; some files have texts for the values."""
    try:
        values = np.ravel(np.asarray(spec.attrs.get("flag_values", ()), np.float64))
    except (TypeError, ValueError):
        return {}
    words = str(spec.attrs.get("flag_meanings", "")).split()
    if len(values) != len(words):
        return {}
    return {f"{value:g}": word for value, word in zip(values.tolist(), words, strict=True)}


def _axis(spec: VariableSpec, axis: int, found: PlainCoordinate | None) -> dict[str, Any]:
    """An axis with what its places are called; numbers where nothing calls them."""
    dim, size = spec.dims[axis], spec.shape[axis]
    text: dict[str, Any] = {"dim": dim, "size": size, "unit": "", "values": None, "labels": None}
    if found is None or np.shape(found.values) != (size,) or size > MOST_LABELS:
        return text
    values = np.asarray(found.values)
    units = str(found.attrs.get("units", ""))
    if values.dtype.kind in "iuf":
        if " since " in units:
            text["labels"] = _dates(found)
        text["values"] = [float(v) if np.isfinite(v) else None for v in values]
        text["unit"] = "" if text["labels"] else units
    elif values.dtype.kind in "OUS":
        text["labels"] = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)
                          for v in values.tolist()]  # fmt: skip
    return text


def _dates(found: PlainCoordinate) -> list[str] | None:
    """Times as people write them; None where the calendar is not known."""
    import xarray as xr  # takes half a second, which an address is not waited for

    attrs = {key: found.attrs[key] for key in ("units", "calendar") if key in found.attrs}
    try:
        variable = xr.Variable(("t",), np.asarray(found.values), attrs)
        decoded = xr.decode_cf(xr.Dataset(coords={"t": variable}), use_cftime=None)["t"].values
    except (ValueError, OverflowError, TypeError):
        return None
    texts = [str(value)[:19].replace("T", " ") for value in decoded]
    short = all(text.endswith(" 00:00:00") for text in texts)
    return [text[:10] if short else text for text in texts]
