"""Attributes of an archive as xarray shows them: in types that every file format can write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from psc_volumetric.archive import ArchiveReader, VariableSpec

__all__ = ["fit_for_netcdf", "sigma_attributes", "split"]

_IN_ENCODING = ("least_significant_digit",)


def split(attrs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes to show, and those that xarray keeps in the encoding."""
    shown = fit_for_netcdf(attrs)
    return shown, {key: shown.pop(key) for key in _IN_ENCODING if key in shown}


def fit_for_netcdf(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in types that every file format of xarray can write; None is left out."""
    return {
        str(key): value if key == "_FillValue" else _fit(value)
        for key, value in attrs.items()
        if value is not None
    }


def sigma_attributes(
    spec: VariableSpec, reader: ArchiveReader, level: int | str | None
) -> dict[str, Any]:
    """What is said of the uncertainty of a variable at a level; None is the last one."""
    from psc_volumetric.archive.summary import mean_coverage
    from psc_volumetric.sigma.tables import NOMINAL

    attrs: dict[str, Any] = {
        "long_name": f"uncertainty of {spec.name} (one sigma)",
        "comment": "standard deviation of the error of each decoded value at this level, rounding "
        "of integers included; 0 where the value is exact",
        "nominal_coverage_percent": [round(100 * share, 2) for share in NOMINAL],
    }
    table = reader.tile_table(spec.name)
    number = table.levels - 1 if level is None else level
    if isinstance(number, int):
        attrs["level"] = min(number, table.levels - 1)
        measured = mean_coverage(spec, table, attrs["level"])
        if measured is not None:
            attrs["measured_coverage_percent"] = [round(100 * share, 2) for share in measured]
    attrs |= {key: spec.attrs[key] for key in ("units",) if key in spec.attrs}
    factor = spec.attrs.get("scale_factor")
    if isinstance(factor, (int, float, np.number)):
        attrs["scale_factor"] = abs(factor)
    return attrs


def _fit(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (str, float, np.generic)):
        return value
    if isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "iuf":
        return value
    if isinstance(value, (list, tuple)) and value:
        if all(isinstance(part, str) for part in value):
            return list(value)
        if all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in value):
            numbers = np.array(value)
            return numbers if numbers.dtype.kind in "iuf" else str(value)
    return json.dumps(value, default=str)
