"""The structure of a NetCDF file as JSON: groups, dimensions, types, attributes, variables.

Everything a writer needs to make the same structure again, with the types of attributes (int16
stays int16, text stays NC_CHAR or NC_STRING). Numbers are kept as base64 of little-endian bytes,
so NaN and every bit survive.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array
from adapters.errors import SourceError

__all__ = [
    "attribute_value",
    "dim_key",
    "plain_attributes",
    "read_schema",
    "variables_of",
    "walk_groups",
]


def walk_groups(group: Any) -> Iterator[Any]:
    """Give a group and all groups below it, parents first."""
    yield group
    for child in group.groups.values():
        yield from walk_groups(child)


def variables_of(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Give (group, variable) for every variable, in file order."""
    for group in walk_groups(dataset):
        for variable in group.variables.values():
            yield group, variable


def dim_key(dimension: Any) -> str:
    """Name a dimension uniquely: the path of its group, a slash, its name."""
    path = dimension.group().path
    return f"{'' if path == '/' else path}/{dimension.name}"


def read_schema(dataset: Any, path: Path) -> tuple[dict[str, Any], list[str]]:
    """Describe an open data set; variables carry no values yet.

    Returns
    -------
    schema : dict
        ``{"data_model", "groups": [{"path", "dims", "enums", "attrs", "variables"}]}``.
    notes : list of str

    Raises
    ------
    SourceError : kind ``"unsupported-type"``, a variable of compound, opaque or vlen type.
    """
    notes: list[str] = []
    with _text_types(path, dataset.data_model) as texts:
        groups = [
            {
                "path": group.path,
                "dims": [
                    {"name": d.name, "size": len(d), "unlimited": bool(d.isunlimited())}
                    for d in group.dimensions.values()
                ],
                "enums": [_enum(name, enum) for name, enum in group.enumtypes.items()],
                "attrs": _attributes(group, group.path, texts, notes),
                "variables": [
                    _variable(variable, group.path, texts, notes, path)
                    for variable in group.variables.values()
                ],
            }
            for group in walk_groups(dataset)
        ]
    return {"data_model": dataset.data_model, "groups": groups}, notes


def _enum(name: str, enum: Any) -> dict[str, Any]:
    members = {key: int(value) for key, value in enum.enum_dict.items()}
    return {"name": name, "dtype": np.dtype(enum.dtype).str, "members": members}


def _variable(
    variable: Any, group_path: str, texts: Any, notes: list[str], path: Path
) -> dict[str, Any]:
    where = f"{group_path.rstrip('/')}/{variable.name}"
    chunking = variable.chunking()
    return {
        "name": variable.name,
        "type": _type_of(variable, path),
        "dims": [dimension.name for dimension in variable.get_dims()],
        "dim_keys": [dim_key(dimension) for dimension in variable.get_dims()],
        "shape": [int(size) for size in variable.shape],
        "attrs": _attributes(variable, where, texts, notes),
        "filters": variable.filters() or {},
        "chunks": chunking if isinstance(chunking, str) or chunking is None else list(chunking),
        "endian": variable.endian(),
        "prefilled": _is_prefilled(variable),
    }


def _is_prefilled(variable: Any) -> bool:
    """Tell whether unwritten values read as fill value (False: the variable is in no-fill mode)."""
    if not isinstance(variable.datatype, np.dtype) or variable.dtype.kind not in "iuf":
        return True
    return variable.get_fill_value() is not None


def _type_of(variable: Any, path: Path) -> str:
    """Give ``"string"``, ``"enum:<name>"`` or a little-endian NumPy type string."""
    import netCDF4

    if variable.dtype is str:
        return "string"
    if isinstance(variable.datatype, netCDF4.EnumType):
        return f"enum:{variable.datatype.name}"
    if isinstance(variable.datatype, netCDF4.CompoundType | netCDF4.VLType):
        raise SourceError(
            f"variable {variable.name!r} has a compound or variable-length type, which is not "
            "supported",
            kind="unsupported-type",
            path=path,
            hint="remove the variable, for example with nco, before archiving",
        )
    return str(np.dtype(variable.dtype).newbyteorder("<").str)


@contextmanager
def _text_types(path: Path, data_model: str) -> Iterator[Any]:
    """Give the file as h5py sees it, which tells NC_CHAR from NC_STRING; None when classic."""
    if data_model != "NETCDF4":
        yield None
        return
    import h5py

    with h5py.File(path, "r") as file:
        yield file


def _is_string(file: Any, where: str, name: str) -> bool:
    """Tell whether a text attribute is an NC_STRING; the netCDF4 package reads both alike."""
    import h5py

    if file is None or where not in file or name not in file[where].attrs:
        return False
    info = h5py.check_string_dtype(file[where].attrs.get_id(name).dtype)
    return info is not None and info.length is None


def _attributes(holder: Any, where: str, texts: Any, notes: list[str]) -> list[dict[str, Any]]:
    attributes = []
    for name in holder.ncattrs():
        try:
            value = holder.getncattr(name)
        except (KeyError, AttributeError, RuntimeError, ValueError, TypeError):
            notes.append(f"attribute {name!r} of {where!r} has a user-defined type: not kept")
            continue
        if isinstance(value, list):
            entry: dict[str, Any] = {"type": "string", "value": [str(part) for part in value]}
        elif isinstance(value, str) and _is_string(texts, where, name):
            entry = {"type": "string", "value": value}
        elif isinstance(value, str):
            raw = holder.getncattr(name, encoding="latin-1").encode("latin-1")
            entry = _text_entry(raw)
        else:
            numbers = np.asarray(value)
            little = numbers.astype(numbers.dtype.newbyteorder("<"))
            data = base64.b64encode(little.tobytes()).decode()
            entry = {"type": little.dtype.str, "base64": data, "scalar": numbers.ndim == 0}
        attributes.append({"name": name, **entry})
    return attributes


def _text_entry(raw: bytes) -> dict[str, Any]:
    try:
        return {"type": "char", "value": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"type": "char", "base64": base64.b64encode(raw).decode()}


def attribute_value(entry: dict[str, Any]) -> Any:
    """Give back an attribute: bytes for NC_CHAR, str or list for NC_STRING, NumPy for numbers."""
    if entry["type"] == "string":
        return entry["value"]
    if entry["type"] == "char":
        if "value" in entry:
            return str(entry["value"]).encode()
        return base64.b64decode(entry["base64"])
    values: Array = np.frombuffer(base64.b64decode(entry["base64"]), np.dtype(entry["type"]))
    values = values.astype(values.dtype.newbyteorder("="))
    return values[0] if entry["scalar"] else values


def plain_attributes(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Give attributes as plain JSON for reading, not for writing back: NaN becomes ``"NaN"``."""
    plain: dict[str, Any] = {}
    for entry in entries:
        value = attribute_value(entry)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        elif isinstance(value, np.generic):
            value = _finite(value.item())
        elif isinstance(value, np.ndarray):
            value = [_finite(part) for part in value.tolist()]
        plain[entry["name"]] = value
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
