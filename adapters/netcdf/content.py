"""All that a NetCDF file says, whatever bytes its container has: for digests and comparisons.

Chunking, filters and byte order are encodings and do not count. For HDF5 files the record includes
what the NetCDF library does not show.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array
from adapters.errors import SourceError
from adapters.netcdf.array import blocks_of, opened
from adapters.netcdf.hdf5 import Inspection, inspect, is_hdf5
from adapters.netcdf.schema import read_schema, variables_of

__all__ = ["content_differences", "content_record", "content_sha256", "value_bytes"]

_BLOCK_BYTES = 8 << 20
_ENCODINGS = ("filters", "chunks", "endian")
_MOST_SHOWN = 8


def value_bytes(values: Array, kind: str) -> bytes:
    """Give values as little-endian bytes, text (``kind`` ``"string"``) as JSON."""
    if kind == "string":
        return json.dumps(values.ravel().tolist()).encode()
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def content_record(path: Path) -> dict[str, Any]:
    """Describe a file: schema, digest of the values of each variable, what HDF5 holds beyond.

    A file that the NetCDF library must not or cannot open is described by its own digest.

    Raises
    ------
    SourceError : it is damaged.
    """
    found = inspect(path) if is_hdf5(path) else Inspection()
    if not found.perilous:
        try:
            return _record(path, found)
        except SourceError as error:
            if error.kind != "damaged" or not is_hdf5(path):
                raise
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return {"file": digest.hexdigest()}


def _record(path: Path, found: Inspection) -> dict[str, Any]:
    values = {}
    with opened(path) as dataset:
        schema, _ = read_schema(dataset, found)
        records = [record for group in schema["groups"] for record in group["variables"]]
        for (_, variable), record in zip(variables_of(dataset), records, strict=True):
            for name in _ENCODINGS:
                del record[name]
            values[record["key"]] = _digest(variable, record)
    shown = {record["key"] for record in records}
    beyond = [note for note in found.record if note[1] != "array" or note[0] not in shown]
    kinds = [[key, found.kinds[key]] for key in sorted(shown) if key in found.kinds]
    return {"schema": schema, "values": values, "hdf5": {"beyond": beyond, "types": kinds}}


def _digest(variable: Any, record: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    if record["type"].startswith("user:"):
        return ""  # the HDF5 types differ, and that is enough
    width = 8 if record["type"] == "string" else max(1, np.dtype(variable.dtype).itemsize)
    for box in blocks_of(variable.shape, width, _BLOCK_BYTES):
        values = np.asarray(variable[box] if box else variable[...])
        digest.update(value_bytes(values, record["type"]))
    return digest.hexdigest()


def content_sha256(path: Path) -> str:
    """Give one digest of `content_record`."""
    record = content_record(path)
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def content_differences(first: Path, second: Path) -> list[str]:
    """Say in words where two files differ, at most some; an empty list says that they do not."""
    found = list(_differences("", content_record(first), content_record(second)))
    more = len(found) - _MOST_SHOWN
    return found[:_MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])


def _differences(where: str, first: Any, second: Any) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        return [
            text
            for key in keys
            for text in _differences(f"{where}/{key}", first.get(key), second.get(key))
        ]
    if isinstance(first, list) and isinstance(second, list):
        one, two = _named(first), _named(second)
        if one is not None and two is not None:
            found = _differences(where, one, two)
            if not found and list(one) != list(two):
                found = [f"{where}: the order is another one"]
            return found
    if first == second:
        return []
    return [f"{where}: {_shown(first)} became {_shown(second)}"]


def _named(entries: list[Any]) -> dict[str, Any] | None:
    """Entries by their names, where each has one."""
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return None
    keys = [entry.get("name", entry.get("path")) for entry in entries]
    return None if None in keys else dict(zip(keys, entries, strict=True))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
