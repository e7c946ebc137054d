"""One digest for all that a NetCDF file says, whatever bytes its container has."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from adapters.base import Array
from adapters.netcdf_restore import written_filters
from adapters.netcdf_schema import variables_of

__all__ = ["content_digest", "value_bytes"]

_BLOCK_BYTES = 8 << 20


def value_bytes(values: Array, kind: str) -> bytes:
    """Give values as little-endian bytes, text (``kind`` ``"string"``) as JSON."""
    if kind == "string":
        return json.dumps(values.ravel().tolist()).encode()
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def content_digest(dataset: Any, schema: dict[str, Any]) -> str:
    """Give the SHA-256 of a file's schema and of the values of all its variables.

    Parameters
    ----------
    dataset : netCDF4.Dataset
        Open, without masking and scaling. Read block by block along the first axis.
    schema : dict
        As from ``read_schema``. Filters count as what a restored file has in their place.
    """
    for group in schema["groups"]:
        for record in group["variables"]:
            record["filters"] = written_filters(dataset, record["filters"])
    digest = hashlib.sha256(json.dumps(schema, sort_keys=True).encode())
    records = [record for group in schema["groups"] for record in group["variables"]]
    for (_, variable), record in zip(variables_of(dataset), records, strict=True):
        for block in _blocks(variable):
            digest.update(value_bytes(np.asarray(block), record["type"]))
    return digest.hexdigest()


def _blocks(variable: Any) -> Any:
    if not variable.shape:
        yield variable[...]
        return
    width = 8 if variable.dtype is str else np.dtype(variable.dtype).itemsize
    rows = max(1, _BLOCK_BYTES // max(1, width * math.prod(variable.shape[1:])))
    for start in range(0, variable.shape[0], rows):
        yield variable[start : start + rows]
