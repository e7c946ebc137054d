"""Attributes as JSON and as xarray expects them (CF packing, ``_FillValue`` of Zarr v3)."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from psc_volumetric.archive.layout import VariableSpec

__all__ = ["attribute_types", "cf_attributes", "json_safe", "plain_attributes", "read_attributes"]

PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset")
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_safe(value: Any) -> Any:
    """Copy of ``value`` in JSON types only; NaN and infinities become text."""
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def plain_attributes(attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Attributes for a plain Zarr array, so that xarray decodes them as from the source file.

    ``_FillValue`` of a float array is written as xarray's Zarr v3 encoding (base64 of a
    little-endian double); a NaN ``missing_value`` is left out, NaN is missing anyway.
    """
    result: dict[str, Any] = {}
    for key, value in attrs.items():
        scalar = _scalar(value)
        if key in PACKING and isinstance(scalar, str):
            scalar = NOT_FINITE.get(scalar, scalar)
        if key == "_FillValue" and isinstance(scalar, (int, float)) and dtype.kind == "f":
            result[key] = base64.standard_b64encode(struct.pack("<d", float(scalar))).decode()
        elif key == "_FillValue" and isinstance(scalar, float) and dtype.kind in "iu":
            if scalar.is_integer():
                result[key] = int(scalar)
        elif key == "missing_value" and isinstance(scalar, float) and math.isnan(scalar):
            continue
        elif key in PACKING:
            result[key] = json_safe(scalar)
        else:
            result[key] = json_safe(value)
    return result


def attribute_types(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Dtype of each packing attribute given as a NumPy scalar.

    JSON forgets it, and it decides whether CF decoding gives float32 or float64.
    """
    return {
        key: attrs[key].dtype.name
        for key in ("scale_factor", "add_offset")
        if isinstance(attrs.get(key), (np.floating, np.integer))
    }


def read_attributes(
    attrs: Mapping[str, Any], dtype: np.dtype[Any], types: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Inverse of :func:`plain_attributes` for what xarray would see; own keys are left out."""
    result = {key: value for key, value in attrs.items() if key != "psc_archive"}
    for key, name in (types or {}).items():
        if key in result:
            result[key] = np.dtype(name).type(result[key])
    fill = result.get("_FillValue")
    if isinstance(fill, str) and dtype.kind == "f":
        result["_FillValue"] = struct.unpack("<d", base64.standard_b64decode(fill))[0]
    if "_FillValue" in result and dtype.kind in "fiu":
        result["_FillValue"] = dtype.type(result["_FillValue"])
    return result


def _scalar(value: Any) -> Any:
    """Python scalar behind a NumPy scalar or a sequence of one."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return value.item() if isinstance(value, np.generic) else value


def cf_attributes(spec: VariableSpec) -> dict[str, Any]:
    """What xarray sees on a variable: the source's attributes, completed by unit and packing."""
    attrs = plain_attributes(spec.attrs, spec.dtype)
    if spec.unit is not None:
        attrs.setdefault("units", spec.unit)
    packed = "scale_factor" in attrs or "add_offset" in attrs
    if not packed and (spec.slope, spec.intercept) not in ((None, None), (1.0, 0.0)):
        attrs["scale_factor"] = 1.0 if spec.slope is None else float(spec.slope)
        attrs["add_offset"] = 0.0 if spec.intercept is None else float(spec.intercept)
    return attrs
