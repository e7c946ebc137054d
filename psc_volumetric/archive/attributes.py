"""Attributes as JSON and as xarray expects them (CF packing, ``_FillValue`` of Zarr v3).

JSON knows neither the order nor the types of attributes. So each node has, under
``psc_archive.attribute_types``, a list in the order of the source. An entry is a name, where the
plain attribute of that name is text, an integer or a JSON value that is neither number nor text;
``[name, type]`` where that does not say its type; ``[name, type, value]`` where it is not, or not
in this form, among the plain ones.
Types are ``text``, ``texts``, ``bytes`` (as Latin-1), ``int``, ``float``, ``json``, a NumPy dtype
(``float32``: a scalar of it) or a dtype with ``[]`` (an array). See SPEC section 11.2.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from psc_volumetric.errors import FormatError

__all__ = [
    "checked_attributes",
    "json_safe",
    "plain_attributes",
    "read_attributes",
    "typed_attributes",
]

OWN = "psc_archive"
PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset")
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
NUMBERS = frozenset(
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
_OF_RAW = ("_Unsigned", "_Encoding")  # about the bits that the source declares
_LEFT_OUT = object()


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


def typed_attributes(
    attrs: Mapping[str, Any], dtype: np.dtype[Any] | None = None, raw_dtype: str | None = None
) -> dict[str, Any]:
    """A node's ``attributes``: plain ones for any reader, and the list that makes them exact.

    Parameters
    ----------
    attrs : mapping
        As the source's reader gives them, NumPy scalars and arrays included.
    dtype : numpy.dtype, optional
        Of the array they belong to; None for a group.
    raw_dtype : str, optional
        Type in the source, where ``dtype`` is another view of its bits (``_Unsigned``, text).
    """
    plain = plain_attributes(attrs, dtype, raw_dtype)
    record = []
    for name, value in attrs.items():
        kind, coded = _coded(value)
        same = name in plain and plain[name] == coded and type(plain[name]) is type(coded)
        plainly = same and kind == _plain_kind(plain[name])
        record.append(name if plainly else [name, kind] if same else [name, kind, coded])
    return {**plain, OWN: {"attribute_types": record} if record else {}}


def _plain_kind(value: Any) -> str:
    """Type of a JSON value that needs no word."""
    return {str: "text", int: "int"}.get(type(value), "json")


def _coded(value: Any) -> tuple[str, Any]:
    """Type and JSON form of one attribute."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.name in NUMBERS:
        suffix = "[]" if isinstance(value, np.ndarray) else ""
        return value.dtype.name + suffix, json_safe(value)
    if isinstance(value, bytes):
        return "bytes", value.decode("latin-1")
    coded = json_safe(value)
    if isinstance(coded, list) and coded and all(isinstance(part, str) for part in coded):
        return "texts", coded
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return "json", coded
    return {int: "int", float: "float"}.get(type(value), "text"), coded


def _decoded(kind: str, coded: Any) -> Any:
    """Inverse of `_coded`; ValueError for a type this version does not know."""
    name = kind.removesuffix("[]")
    if name in NUMBERS:
        values = np.array(_finite_again(coded), np.dtype(name))
        return values if kind.endswith("[]") else values[()]
    if kind == "float":
        return float(_finite_again(coded))
    if kind == "bytes":
        return str(coded).encode("latin-1")
    if kind not in ("text", "texts", "int", "json"):
        raise ValueError(f"attribute type {kind!r}")
    return coded


def _finite_again(coded: Any) -> Any:
    if isinstance(coded, list):
        return [_finite_again(part) for part in coded]
    return NOT_FINITE.get(coded, coded) if isinstance(coded, str) else coded


def read_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a node as they were given to `typed_attributes`, in their order.

    Raises
    ------
    ValueError, TypeError, KeyError : the node's metadata are damaged.
    """
    own = attributes.get(OWN, {})
    if not isinstance(own, dict):
        raise TypeError(f"{OWN}: expected an object, found {type(own).__name__}")
    found = {}
    for entry in own.get("attribute_types", ()):
        if isinstance(entry, str):
            found[entry] = _decoded(_plain_kind(attributes[entry]), attributes[entry])
            continue
        name, kind, *given = entry
        found[str(name)] = _decoded(kind, given[0] if given else attributes[name])
    return found


def checked_attributes(attributes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """As `read_attributes`; whatever is wrong is a FormatError that names ``where``."""
    try:
        return read_attributes(attributes)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise FormatError(
            f"{where}: the attributes cannot be used ({error!r})",
            kind="bad-metadata",
            hint="the archive is damaged or of another format, run `psc-archive verify`",
        ) from error


def plain_attributes(
    attrs: Mapping[str, Any], dtype: np.dtype[Any] | None, raw_dtype: str | None = None
) -> dict[str, Any]:
    """Attributes for a plain Zarr node, so that xarray decodes them as from the source file.

    ``_FillValue`` is written as xarray's Zarr v3 encoding (base64 of a little-endian double for
    floats). What would make a reader fail or mask other values is left out: a fill value that is
    none of the dtype's, packing that is no number, a NaN ``missing_value``.
    """
    result: dict[str, Any] = {}
    for key, value in attrs.items():
        plain = json_safe(value)
        if key == OWN or (key in _OF_RAW and raw_dtype is not None):
            continue
        if dtype is not None and key == "_FillValue":
            plain = _plain_fill(_scalar(value), dtype, raw_dtype)
        elif dtype is not None and key in PACKING:
            plain = _plain_packing(value, many=key == "missing_value")
        if plain is not _LEFT_OUT:
            result[key] = plain
    return result


def _plain_packing(value: Any, *, many: bool) -> Any:
    scalar = _scalar(value)
    parts = scalar if isinstance(scalar, (list, tuple)) else [scalar]
    parts = [NOT_FINITE.get(part, part) if isinstance(part, str) else part for part in parts]
    number = all(
        isinstance(p, (int, float)) and not isinstance(p, bool) and math.isfinite(p) for p in parts
    )
    if not number or (len(parts) != 1 and not many):
        return _LEFT_OUT
    return parts if isinstance(scalar, (list, tuple)) else parts[0]


def _plain_fill(scalar: Any, dtype: np.dtype[Any], raw_dtype: str | None) -> Any:
    if isinstance(scalar, str) and dtype.kind == "f":
        scalar = NOT_FINITE.get(scalar, scalar)
    if isinstance(scalar, bool) or not isinstance(scalar, (int, float)):
        return scalar if isinstance(scalar, str) and dtype.kind in "OTU" else _LEFT_OUT
    if dtype.kind == "f":
        return base64.standard_b64encode(struct.pack("<d", float(scalar))).decode()
    raw = np.dtype(dtype if raw_dtype is None else raw_dtype)
    if raw.kind not in "iu" or not float(scalar).is_integer():
        return _LEFT_OUT
    if not np.iinfo(raw).min <= scalar <= np.iinfo(raw).max:
        return _LEFT_OUT
    return int(np.array(int(scalar), raw).view(dtype))


def _scalar(value: Any) -> Any:
    """Python scalar behind a NumPy scalar or a sequence of one."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return value.item() if isinstance(value, np.generic) else value
