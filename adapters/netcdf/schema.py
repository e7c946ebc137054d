"""The structure of a NetCDF file as JSON: groups, dimensions, types, attributes, variables.

Everything a writer needs to make the same structure again, with the types of attributes (int16
stays int16, text stays NC_CHAR or NC_STRING). Numbers are kept as base64 of little-endian bytes,
so NaN and every bit survive.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np

from adapters.base import Array
from adapters.netcdf.hdf5 import Inspection

__all__ = [
    "attribute_value",
    "dim_key",
    "read_schema",
    "shown_attributes",
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


def read_schema(dataset: Any, found: Inspection) -> tuple[dict[str, Any], list[str]]:
    """Describe an open data set; variables carry no values.

    Parameters
    ----------
    dataset : netCDF4.Dataset
    found : Inspection
        Of the same file; empty for the classic formats.

    Returns
    -------
    schema : dict
        ``{"data_model", "groups": [{"path", "dims", "enums", "attrs", "variables"}]}``.
    beyond : list of str
        Why the file cannot be made again from the schema and the values, in words.
    """
    beyond = list(found.hidden)
    groups = [
        {
            "path": group.path,
            "dims": [
                {"name": d.name, "size": len(d), "unlimited": bool(d.isunlimited())}
                for d in group.dimensions.values()
            ],
            "enums": [_enum(name, enum) for name, enum in group.enumtypes.items()],
            "attrs": _attributes(group, group.path, found, beyond),
            "variables": [
                _variable(variable, group.path, found, beyond)
                for variable in group.variables.values()
            ],
        }
        for group in walk_groups(dataset)
    ]
    for group in walk_groups(dataset):
        types = (*group.cmptypes, *group.vltypes)
        beyond += [f"type {name!r} is compound or of any length" for name in types]
    shown = {variable["key"] for group in groups for variable in group["variables"]}
    beyond += [
        f"{key!r} is of type {kind}, which NetCDF does not show"
        for key, kind in found.kinds.items()
        if key not in shown
    ]
    return {"data_model": dataset.data_model, "groups": groups}, beyond


def _enum(name: str, enum: Any) -> dict[str, Any]:
    members = {key: int(value) for key, value in enum.enum_dict.items()}
    return {"name": name, "dtype": np.dtype(enum.dtype).str, "members": members}


def _variable(
    variable: Any, group_path: str, found: Inspection, beyond: list[str]
) -> dict[str, Any]:
    key = f"{group_path.rstrip('/')}/{variable.name}"
    chunking = variable.chunking()
    kind = _type_of(variable)
    record = {
        "name": variable.name,
        "key": key,
        "type": kind,
        "dims": [dimension.name for dimension in variable.get_dims()],
        "dim_keys": [dim_key(dimension) for dimension in variable.get_dims()],
        "shape": [int(size) for size in variable.shape],
        "attrs": _attributes(variable, key, found, beyond),
        "filters": variable.filters() or {},
        "chunks": chunking if isinstance(chunking, str) or chunking is None else list(chunking),
        "endian": variable.endian(),
        "prefilled": _is_prefilled(variable),
        "fill": found.fills.get(key),
    }
    stored = found.kinds.get(key)
    if kind.startswith("user:"):
        beyond.append(f"variable {key!r} is {kind[5:]}")
    elif stored is not None and stored != _expected_kind(kind):
        beyond.append(f"variable {key!r} is stored as {stored}")
    elif found.fills and any(a["name"] == "_FillValue" for a in record["attrs"]):
        (fill,) = [a for a in record["attrs"] if a["name"] == "_FillValue"]
        if kind != "string" and not kind.startswith("enum:") and fill["type"] not in (kind, "char"):
            beyond.append(f"_FillValue of {key!r} is of type {fill['type']}, its values of {kind}")
    return record


def _expected_kind(kind: str) -> str:
    """What HDF5 stores a type as, in the words of ``Inspection.kinds``."""
    if kind == "string":
        return "text"
    if kind.startswith("enum:"):
        return "enumeration"
    dtype = np.dtype(kind)
    return "text of 1 bytes" if dtype.kind == "S" else f"{dtype.kind}{dtype.itemsize}"


def _is_prefilled(variable: Any) -> bool:
    """Tell whether unwritten values read as fill value (False: the variable is in no-fill mode)."""
    if not isinstance(variable.datatype, np.dtype) or variable.dtype.kind not in "iuf":
        return True
    return variable.get_fill_value() is not None


def _type_of(variable: Any) -> str:
    """Give ``"string"``, ``"enum:<name>"``, ``"user:<what>"`` or a little-endian NumPy type."""
    import netCDF4

    if variable.dtype is str:
        return "string"
    if isinstance(variable.datatype, netCDF4.VLType):
        return "user:of a variable-length type"
    if isinstance(variable.datatype, netCDF4.CompoundType):
        return "user:of a compound type"
    if isinstance(variable.datatype, netCDF4.EnumType):
        return f"enum:{variable.datatype.name}"
    dtype = np.dtype(variable.dtype)
    if dtype.kind not in "iufS":
        return f"user:of type {dtype}"
    return str(dtype.newbyteorder("<").str)


def _attributes(
    holder: Any, where: str, found: Inspection, beyond: list[str]
) -> list[dict[str, Any]]:
    attributes = []
    for name in holder.ncattrs():
        try:
            value = holder.getncattr(name)
        except (KeyError, AttributeError, RuntimeError, ValueError, TypeError):
            beyond.append(f"attribute {name!r} of {where!r} has a user-defined type")
            continue
        is_string = found.texts.get((where, name), False)
        if isinstance(value, list):
            entry: dict[str, Any] = {"type": "string", "value": [str(part) for part in value]}
            if found.texts and not is_string:
                beyond.append(f"attribute {name!r} of {where!r} is a list of texts of one length")
        elif isinstance(value, str) and is_string:
            entry = {"type": "string", "value": value}
        elif isinstance(value, bytes):
            entry = _text_entry(value)
        elif isinstance(value, str):
            raw = holder.getncattr(name, encoding="latin-1").encode("latin-1")
            entry = _text_entry(raw)
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf":
            numbers = np.asarray(value)
            little = numbers.astype(numbers.dtype.newbyteorder("<"))
            data = base64.b64encode(little.tobytes()).decode()
            entry = {"type": little.dtype.str, "base64": data, "scalar": numbers.ndim == 0}
        else:
            beyond.append(f"attribute {name!r} of {where!r} has a user-defined type")
            continue
        attributes.append({"name": name, **entry})
    return attributes


def shown_attributes(holder: Any) -> dict[str, Any]:
    """Attributes as the netCDF4 package gives them; those it cannot read are left out."""
    shown: dict[str, Any] = {}
    for name in holder.ncattrs():
        try:
            value = holder.getncattr(name)
        except (KeyError, AttributeError, RuntimeError, ValueError, TypeError):
            continue
        known = isinstance(value, str | bytes | list) or value.dtype.kind in "iuf"
        if known:
            shown[name] = value
    return shown


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
