"""NetCDF files (classic and NetCDF-4) as volumes, one per gridded variable, packed as stored.

A numeric variable with at least two axes whose last two have 16 points or more is a volume, unless
it is a coordinate of others (latitude, longitude, named in a ``coordinates`` or ``bounds``
attribute): those, and all other variables, are kept exactly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    EQUAL_DATA,
    Array,
    Candidate,
    Coordinate,
    Discovery,
    Promise,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
    file_records,
    safe_name,
    selection_bounds,
)
from adapters.errors import SourceError
from adapters.netcdf_classic import check_classic_length
from adapters.netcdf_content import content_digest, value_bytes
from adapters.netcdf_restore import restore_netcdf
from adapters.netcdf_schema import dim_key, plain_attributes, read_schema, variables_of

__all__ = ["NetcdfAdapter"]

_SUFFIXES = (".nc", ".nc4", ".cdf")
_LEAST_POINTS = 16
_MOST_AXES = 6
_LARGEST_COORDINATE = 256 << 20
_LATITUDE_LONGITUDE = frozenset(
    f"degree{plural}_{direction}"
    for plural in ("", "s")
    for direction in ("north", "n", "east", "e")
)
_DIFFERS = "the bytes of the container, which its library lays out anew"
# The NetCDF library is not safe to call from several threads.
_library = threading.Lock()


class NetcdfAdapter:
    """Reads and writes NetCDF; see ``adapters.base.Adapter``."""

    kind = "netcdf"

    def sniff(self, path: Path) -> bool:
        """Tell by name, or by the signature of the classic formats."""
        if path.name.lower().endswith(_SUFFIXES):
            return True
        with path.open("rb") as stream:
            return stream.read(4) in (b"CDF\1", b"CDF\2", b"CDF\5")

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per file that has a volume."""
        candidates, skipped = [], []
        for path in files:
            try:
                with _opened(path) as dataset:
                    _check_has_volume(dataset, path)
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                continue
            name = safe_name(path.stem, "netcdf")
            candidates.append(Candidate("netcdf", name, (path,), path.as_posix()))
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Open one file; all variables that are not volumes are read now."""
        (path,) = candidate.paths
        with _opened(path) as dataset:
            volume_keys = _check_has_volume(dataset, path)
            document, notes = read_schema(dataset, path)
            blobs = _keep_values(dataset, document, volume_keys)
            volumes = _volumes(dataset, document, path)
        document["document_version"] = 0
        document["name"] = path.name
        return SourceItem(
            kind="netcdf",
            name=candidate.name,
            volumes=volumes,
            document=document,
            blobs=blobs,
            files=(file_records([path])[0].promising(Promise(EQUAL_DATA, _DIFFERS)),),
            suggested_prior="climate-grid",
            notes=tuple(notes),
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: dict[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write NetCDF of the same data model; see ``adapters.netcdf_restore``."""
        with _library:
            return restore_netcdf(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of structure, types, attributes, encodings and every value of every variable."""
        with _opened(path) as dataset:
            schema, _ = read_schema(dataset, path)
            return content_digest(dataset, schema)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file for reading raw values, one thread at a time."""
    import netCDF4

    check_classic_length(path)
    with _library:
        try:
            dataset = netCDF4.Dataset(path, "r")
        except (OSError, RuntimeError, ValueError, AttributeError) as error:
            with path.open("rb") as stream:
                start = stream.read(4)
            known = start[:3] == b"CDF" or start == b"\x89HDF"
            raise SourceError(
                "the NetCDF file is cut off or damaged"
                if known
                else f"expected a NetCDF signature, the file begins with {start!r}",
                kind="damaged" if known else "not-netcdf",
                path=path,
            ) from error
        try:
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            yield dataset
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise SourceError(
                f"the NetCDF library cannot read it: {error}", kind="damaged", path=path
            ) from error
        finally:
            dataset.close()


def _key(group: Any, variable: Any) -> str:
    return f"{'' if group.path == '/' else group.path}/{variable.name}"


def _check_has_volume(dataset: Any, path: Path) -> set[str]:
    named = _named_as_coordinates(dataset)
    found = {_key(g, v) for g, v in variables_of(dataset) if _is_volume(v, named)}
    if not found:
        raise SourceError(
            "expected a numeric variable whose last two axes have at least "
            f"{_LEAST_POINTS} points, found none",
            kind="no-volume",
            path=path,
            hint="station data and time series are not volumes",
        )
    return found


def _named_as_coordinates(dataset: Any) -> set[str]:
    names: set[str] = set()
    holders = [dataset, *(variable for _, variable in variables_of(dataset))]
    for holder in holders:
        for attribute in ("coordinates", "bounds", "climatology"):
            if attribute in holder.ncattrs():
                names.update(str(holder.getncattr(attribute)).split())
    return names


def _is_volume(variable: Any, named: set[str]) -> bool:
    if variable.dtype is str or not isinstance(variable.datatype, np.dtype):
        return False
    if variable.dtype.kind not in "iuf" or not 2 <= variable.ndim <= _MOST_AXES:
        return False
    if min(variable.shape[-2:]) < _LEAST_POINTS or 0 in variable.shape:
        return False
    units = str(variable.getncattr("units")) if "units" in variable.ncattrs() else ""
    coordinate = variable.name in named or units.lower() in _LATITUDE_LONGITUDE
    return not coordinate or variable.size * variable.dtype.itemsize > _LARGEST_COORDINATE


def _keep_values(dataset: Any, document: dict[str, Any], volume_keys: set[str]) -> dict[str, bytes]:
    """Read all variables that are not volumes into blobs; note in the schema which is which."""
    blobs: dict[str, bytes] = {}
    taken: set[str] = set()
    for (group, variable), record in zip(variables_of(dataset), _records(document), strict=True):
        if _key(group, variable) in volume_keys:
            parts = [*group.path.strip("/").split("/"), variable.name]
            name = safe_name(".".join(part for part in parts if part), "variable")
            while name in taken:
                name += "_"
            taken.add(name)
            record["volume"] = name
        else:
            record["blob"] = f"variables/{len(blobs):04d}"
            blobs[record["blob"]] = _value_bytes(variable, record)
    return blobs


def _records(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [variable for group in document["groups"] for variable in group["variables"]]


def _value_bytes(variable: Any, record: dict[str, Any]) -> bytes:
    values = np.asarray(variable[...])
    if record["type"] != "string":
        record["blob_dtype"] = values.dtype.newbyteorder("<").str
    return value_bytes(values, record["type"])


def _volumes(dataset: Any, document: dict[str, Any], path: Path) -> tuple[Volume, ...]:
    chosen = [
        (group, variable, record)
        for (group, variable), record in zip(variables_of(dataset), _records(document), strict=True)
        if "volume" in record
    ]
    names = _dim_names(record["dim_keys"] for _, _, record in chosen)
    attributes = {
        _key(group, variable): record["attrs"]
        for (group, variable), record in zip(variables_of(dataset), _records(document), strict=True)
    }
    return tuple(
        _volume(g, v, record, path, _coordinates(g, v, record, names, attributes), names)
        for g, v, record in chosen
    )


def _dim_names(used: Any) -> dict[str, str]:
    """Give each dimension in use one name; same-named ones of other groups get a prefix."""
    names: dict[str, str] = {}
    for key in dict.fromkeys(key for keys in used for key in keys):
        short = key.rsplit("/", 1)[1]
        names[key] = short if short not in names.values() else key.strip("/").replace("/", ".")
    return names


def _volume(
    group: Any,
    variable: Any,
    record: dict[str, Any],
    path: Path,
    coordinates: Iterator[Coordinate],
    names: dict[str, str],
) -> Volume:
    attrs = plain_attributes(record["attrs"])
    dims: list[str] = []
    for key in record["dim_keys"]:
        name = names[key]
        dims.append(name if name not in dims else f"{name}_{len(dims)}")
    unit = attrs.get("units")
    return Volume(
        name=record["volume"],
        array=NetcdfArray(
            path=path,
            key=_key(group, variable),
            shape=tuple(record["shape"]),
            type_name=np.dtype(record["type"]).newbyteorder("=").str,
        ),
        dims=tuple(dims),
        affine=None,
        spacing_mm=None,
        unit=unit if isinstance(unit, str) else None,
        slope=_number(attrs.get("scale_factor")),
        intercept=_number(attrs.get("add_offset")),
        special_values=_special_values(variable),
        coordinates=tuple(coordinates),
        attrs=attrs,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float) else None


def _special_values(variable: Any) -> tuple[float | int, ...]:
    """Give fill and missing values as stored; the library's default fill where none is named."""
    import netCDF4

    dtype = np.dtype(variable.dtype).newbyteorder("=")
    stated: list[Any] = []
    for name in ("_FillValue", "missing_value"):
        if name in variable.ncattrs():
            stated += np.atleast_1d(variable.getncattr(name)).tolist()
    default = netCDF4.default_fillvals.get(dtype.str[1:])
    if "_FillValue" not in variable.ncattrs() and default is not None and dtype.itemsize > 1:
        stated.append(default)
    special: list[float | int] = []
    for value in stated:
        if not isinstance(value, int | float) or not np.isfinite(value):
            continue
        with np.errstate(over="ignore"):
            fits = dtype.kind == "f" or (
                float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
            )
            stored = dtype.type(value).item() if fits else None
        if stored is not None and np.isfinite(stored) and stored not in special:
            special.append(stored)
    return tuple(special)


def _coordinates(
    group: Any,
    variable: Any,
    record: dict[str, Any],
    names: dict[str, str],
    attributes: dict[str, list[dict[str, Any]]],
) -> Iterator[Coordinate]:
    wanted = [dimension.name for dimension in variable.get_dims()]
    if "coordinates" in variable.ncattrs():
        wanted += str(variable.getncattr("coordinates")).split()
    for name in dict.fromkeys(wanted):
        found = _look_up(group, name)
        if found is None or found is variable or found.dtype is str:
            continue
        keys = [dim_key(dimension) for dimension in found.get_dims()]
        fits = len(set(keys)) == len(keys) > 0 and set(keys) <= set(record["dim_keys"])
        if not fits or np.dtype(found.dtype).kind not in "iuf":
            continue
        is_dimension = len(keys) == 1 and keys[0].rsplit("/", 1)[1] == name
        values = np.asarray(found[...])
        own = f"variable {_key(found.group(), found)}"
        if own not in names:
            taken = names.values()
            names[own] = name if name not in taken else own[9:].strip("/").replace("/", ".") + "_"
        yield Coordinate(
            name=names[keys[0]] if is_dimension else names[own],
            dims=tuple(names[key] for key in keys),
            values=values.astype(values.dtype.newbyteorder("=")),
            attrs=plain_attributes(attributes[_key(found.group(), found)]),
        )


def _look_up(group: Any, name: str) -> Any:
    while group is not None:
        if name in group.variables:
            return group.variables[name]
        group = group.parent
    return None


@dataclass(frozen=True)
class NetcdfArray:
    """Stored (packed) values of one variable. See ``LazyArray``."""

    path: Path
    key: str
    shape: tuple[int, ...]
    type_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.type_name)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        if any(start == stop for start, stop in bounds):
            return np.empty(tuple(stop - start for start, stop in bounds), self.dtype)
        with _opened(self.path) as dataset:
            values = dataset[self.key][tuple(slice(start, stop) for start, stop in bounds)]
        return np.ascontiguousarray(values).astype(self.dtype, copy=False)
