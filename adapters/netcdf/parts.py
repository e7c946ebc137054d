"""Which variables of a NetCDF file are volumes, and which are kept beside them, under which names.

A variable of numbers with two axes or more is a volume, unless it is a coordinate of others
(latitude, longitude, named in a ``coordinates`` or ``bounds`` attribute) or small. Everything else
becomes a plain array: exact, under its own name. What neither can hold (compound types, lists of
any length) is only in the original, which is then kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import SideArray, Volume
from adapters.netcdf.array import NetcdfArray
from adapters.netcdf.schema import shown_attributes, variables_of, walk_groups

__all__ = ["group_attributes", "mark_parts", "side_arrays", "volumes_of"]

_LEAST_POINTS = 16  # of both last axes, or
_LEAST_VALUES = 1 << 16  # of the whole
_MOST_AXES = 8
_LARGEST_COORDINATE = 256 << 20
_LATITUDE_LONGITUDE = frozenset(
    f"degree{plural}_{direction}"
    for plural in ("", "s")
    for direction in ("north", "n", "east", "e")
)
_NAMING = (
    "coordinates",
    "bounds",
    "climatology",
    "grid_mapping",
    "ancillary_variables",
    "cell_measures",
    "formula_terms",
)


def mark_parts(dataset: Any, document: dict[str, Any]) -> None:
    """Write into each variable's record what it is: ``"volume"`` or ``"array"``, and its name."""
    named = _named_as_coordinates(dataset)
    for variable, record in _pairs(dataset, document):
        name = record["key"].strip("/")
        if _is_volume(variable, record, named):
            record["volume"] = name
            record["view"] = _view(variable)
        elif not record["type"].startswith("user:"):
            record["array"] = name


def group_attributes(dataset: Any) -> dict[str, dict[str, Any]]:
    """Attributes of all groups by path; ``""`` is the root."""
    return {group.path.strip("/"): shown_attributes(group) for group in walk_groups(dataset)}


def volumes_of(dataset: Any, document: dict[str, Any], path: Path) -> tuple[Volume, ...]:
    """Give the variables that `mark_parts` called volumes, in file order."""
    return tuple(
        _volume(variable, record, path)
        for variable, record in _pairs(dataset, document)
        if "volume" in record
    )


def side_arrays(dataset: Any, document: dict[str, Any], path: Path) -> tuple[SideArray, ...]:
    """Give the variables that `mark_parts` called arrays, in file order."""
    return tuple(
        SideArray(
            name=record["array"],
            array=NetcdfArray(path, record["key"], tuple(record["shape"]), _type_name(variable)),
            dims=tuple(record["dims"]),
            attrs=shown_attributes(variable),
        )
        for variable, record in _pairs(dataset, document)
        if "array" in record
    )


def _pairs(dataset: Any, document: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    records = [variable for group in document["groups"] for variable in group["variables"]]
    variables = [variable for _, variable in variables_of(dataset)]
    return list(zip(variables, records, strict=True))


def _type_name(variable: Any) -> str:
    if variable.dtype is str:
        return "O"
    return str(np.dtype(variable.dtype).newbyteorder("=").str)


def _named_as_coordinates(dataset: Any) -> set[str]:
    names: set[str] = set()
    holders = [dataset, *(variable for _, variable in variables_of(dataset))]
    for holder in holders:
        for attribute in _NAMING:
            if attribute in holder.ncattrs():
                names.update(str(holder.getncattr(attribute)).replace(":", " ").split())
    return names


def _is_volume(variable: Any, record: dict[str, Any], named: set[str]) -> bool:
    if record["type"][:4] in ("user", "enum", "stri") or np.dtype(variable.dtype).kind not in "iuf":
        return False
    shape, dims = variable.shape, record["dims"]
    if not 2 <= variable.ndim <= _MOST_AXES or 0 in shape or len(set(dims)) != len(dims):
        return False
    if min(shape[-2:]) < _LEAST_POINTS and variable.size < _LEAST_VALUES:
        return False
    units = str(variable.getncattr("units")) if "units" in variable.ncattrs() else ""
    coordinate = variable.name in named or units.lower() in _LATITUDE_LONGITUDE
    return not coordinate or variable.size * variable.dtype.itemsize > _LARGEST_COORDINATE


def _view(variable: Any) -> str | None:
    """Type under which readers see an integer variable with ``_Unsigned``; None for its own."""
    dtype = np.dtype(variable.dtype).newbyteorder("=")
    if dtype.kind not in "iu" or "_Unsigned" not in variable.ncattrs():
        return None
    wanted = {"true": "u", "false": "i"}.get(str(variable.getncattr("_Unsigned")).lower())
    return f"{wanted}{dtype.itemsize}" if wanted not in (None, dtype.kind) else None


def _volume(variable: Any, record: dict[str, Any], path: Path) -> Volume:
    attrs = shown_attributes(variable)
    unit, declared = attrs.get("units"), _type_name(variable)
    view = record["view"]
    return Volume(
        name=record["volume"],
        array=NetcdfArray(
            path, record["key"], tuple(record["shape"]), np.dtype(view or declared).str
        ),
        dims=tuple(record["dims"]),
        affine=None,
        spacing_mm=None,
        unit=unit if isinstance(unit, str) else None,
        slope=_number(attrs.get("scale_factor")),
        intercept=_number(attrs.get("add_offset")),
        special_values=_special_values(attrs, np.dtype(declared), view),
        coordinates=(),
        attrs=attrs,
        raw_dtype=None if view is None else np.dtype(declared).name,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray) and value.shape == (1,):
        value = value[0]
    return float(value) if isinstance(value, np.number) else None


def _special_values(
    attrs: dict[str, Any], dtype: np.dtype[Any], view: str | None
) -> tuple[float | int, ...]:
    """Fill and missing values as stored; the library's default fill where none is named."""
    import netCDF4

    stated: list[Any] = []
    for name in ("_FillValue", "missing_value"):
        if name in attrs and not isinstance(attrs[name], str | list):
            stated += np.atleast_1d(attrs[name]).tolist()
    default = netCDF4.default_fillvals.get(dtype.str[1:])
    if "_FillValue" not in attrs and default is not None and dtype.itemsize > 1:
        stated.append(default)
    special: list[float | int] = []
    for value in stated:
        stored = _as_stored(value, dtype)
        if stored is None and view is not None:
            stored = _as_stored(value, np.dtype(view))
        elif stored is not None and view is not None:
            stored = np.array(stored, dtype).view(view)[()].item()
        if stored is not None and stored not in special:
            special.append(stored)
    return tuple(special)


def _as_stored(value: Any, dtype: np.dtype[Any]) -> float | int | None:
    """A stated value in the stored type; None where that has no such finite value."""
    if not isinstance(value, int | float) or not np.isfinite(value):
        return None
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        fits = float(value).is_integer() and limits.min <= value <= limits.max
        return int(value) if fits else None
    with np.errstate(over="ignore"):
        stored: float = dtype.type(value).item()
    return stored if np.isfinite(stored) else None
