"""Writing NetCDF again from its schema: same data model, groups, types, attributes and encodings.

HDF5 files are not reproducible byte by byte, so the promise is equality of values, types,
attributes, dimensions (also unlimited ones) and encodings. A region of a volume cuts every variable
that shares its dimensions. Filters that the installed NetCDF library cannot write become zlib.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    CUT,
    EQUAL_DATA,
    IDENTICAL,
    LOSSY,
    Array,
    LazyArray,
    RestoredVolume,
    RestoreInfo,
    WrittenFile,
    safe_target,
)
from adapters.errors import SourceError
from adapters.netcdf_schema import attribute_value
from adapters.originals import original_of
from adapters.output import (
    SLAB_BYTES,
    check_stored_type,
    check_volumes_exist,
    file_target,
    loss_note,
    slabs,
    unusable_record,
)
from adapters.staging import staged_file

__all__ = ["restore_netcdf", "written_filters"]

_SUFFIXES = (".nc", ".nc4", ".cdf")
_FILL = "_FillValue"
_LOSS_NOTE = "psc_archive_restoration"

Cuts = dict[str, tuple[int, int]]  # dimension key -> start, stop


def restore_netcdf(
    document: dict[str, Any],
    blobs: dict[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write one file; volumes that are not given are left out, all other variables are written.

    Raises
    ------
    SourceError : kind ``"bad-region"`` (also when volumes are cut differently along a dimension
        they share), ``"target-exists"``, ``"bad-document"``.
    """
    import netCDF4

    try:
        known = _volume_records(document)
        check_volumes_exist(
            [(volume.name, volume.full_shape) for volume in volumes],
            {name: tuple(record["shape"]) for name, record in known.items()},
        )
        for volume in volumes:
            stored = np.dtype(known[volume.name]["type"])
            check_stored_type(volume.array.dtype, stored, volume.name)
        cuts = _cuts(volumes, known)
        own = safe_target(target, str(document["name"])).name
        place = file_target(target, own, _SUFFIXES)
        complete = len(volumes) == len(known) and all(volume.is_whole for volume in volumes)
        original = original_of(document, blobs, 0) if info.lossless and complete else None
        outcome = EQUAL_DATA if original is None else IDENTICAL
        with staged_file(place) as staged:
            if original is not None:
                staged[0].write_bytes(original)
                return [WrittenFile(place, 0, outcome)]
            with netCDF4.Dataset(staged[0], "w", format=document["data_model"]) as dataset:
                _write(dataset, document, blobs, {v.name: v.array for v in volumes}, cuts)
                if not info.lossless:
                    dataset.setncattr(_LOSS_NOTE, loss_note(info))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise unusable_record("NetCDF", error) from error
    if not complete:
        outcome = CUT
    return [WrittenFile(place, 0, outcome if info.lossless else LOSSY)]


def _volume_records(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        variable["volume"]: variable
        for group in document["groups"]
        for variable in group["variables"]
        if "volume" in variable
    }


def _cuts(volumes: Sequence[RestoredVolume], known: dict[str, dict[str, Any]]) -> Cuts:
    cuts: Cuts = {}
    for volume in volumes:
        keys = known[volume.name]["dim_keys"]
        for key, start, size in zip(keys, volume.start, volume.array.shape, strict=True):
            cut = (start, start + size)
            if cuts.setdefault(key, cut) != cut:
                raise SourceError(
                    f"dimension {key!r} is cut to {cuts[key]} and to {cut}: variables that share "
                    "a dimension must be cut alike",
                    kind="bad-region",
                )
    return cuts


def _write(
    dataset: Any,
    document: dict[str, Any],
    blobs: dict[str, bytes],
    arrays: dict[str, Array | LazyArray],
    cuts: Cuts,
) -> None:
    created = []
    for record in document["groups"]:
        path = str(record["path"])
        group = dataset if path == "/" else dataset.createGroup(path)
        for dim in record["dims"]:
            key = f"{'' if path == '/' else path}/{dim['name']}"
            start, stop = cuts.get(key, (0, dim["size"]))
            group.createDimension(dim["name"], None if dim["unlimited"] else stop - start)
        for enum in record["enums"]:
            group.createEnumType(np.dtype(enum["dtype"]), enum["name"], enum["members"])
        for entry in record["attrs"]:
            _set_attribute(group, entry)
        for variable in record["variables"]:
            if "volume" not in variable or variable["volume"] in arrays:
                created.append((_create(group, variable, cuts), variable))
    for made, variable in created:
        if "volume" in variable:
            chunks = made.chunking() if dataset.data_model.startswith("NETCDF4") else None
            rows = 1
            if isinstance(chunks, list):  # whole chunks are written at once, few have to be kept
                rows = chunks[0]
                made.set_var_chunk_cache(SLAB_BYTES)
            for where, part in slabs(arrays[variable["volume"]], rows=rows):
                made[where] = part
        else:
            values = _kept_values(variable, blobs, cuts)
            if values.size:
                made[...] = values


def _create(group: Any, record: dict[str, Any], cuts: Cuts) -> Any:
    fill = next((entry for entry in record["attrs"] if entry["name"] == _FILL), None)
    options = _storage(group, record, cuts)
    if _is_big_endian(group, record):
        options["endian"] = "big"
    early = group.data_model.startswith("NETCDF4") and record["type"] != "string"
    if fill is not None and early:
        options["fill_value"] = attribute_value(fill)
    elif early and not record["prefilled"]:
        options["fill_value"] = False
    variable = group.createVariable(
        record["name"], _type(group, record), tuple(record["dims"]), **options
    )
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    for entry in record["attrs"]:
        if entry["name"] != _FILL:
            _set_attribute(variable, entry)
        elif not early:
            # The package wants the fill value first; a classic file keeps the source's order.
            _set_attribute(variable, {**entry, "name": "_fill_value"})
            variable.renameAttribute("_fill_value", _FILL)
    return variable


def _type(group: Any, record: dict[str, Any]) -> Any:
    name = record["type"]
    if name == "string":
        return str
    if name.startswith("enum:"):
        while group is not None:
            if name[5:] in group.enumtypes:
                return group.enumtypes[name[5:]]
            group = group.parent
        raise KeyError(name)
    return np.dtype(name).newbyteorder(">" if _is_big_endian(group, record) else "=")


def _is_big_endian(group: Any, record: dict[str, Any]) -> bool:
    """Tell whether a byte order was chosen; the classic formats have only one."""
    return bool(record["endian"] == "big" and group.data_model.startswith("NETCDF4"))


def _storage(group: Any, record: dict[str, Any], cuts: Cuts) -> dict[str, Any]:
    if not group.data_model.startswith("NETCDF4") or not record["dims"]:
        return {}
    storage: dict[str, Any] = {}
    filters = record["filters"]
    if filters and record["type"] != "string":
        storage["shuffle"] = bool(filters.get("shuffle"))
        storage["fletcher32"] = bool(filters.get("fletcher32"))
        storage |= _compression(group, filters)
    chunks = record["chunks"]
    if isinstance(chunks, list):
        sizes = [
            cuts[key][1] - cuts[key][0] if key in cuts else size
            for key, size in zip(record["dim_keys"], record["shape"], strict=True)
        ]
        storage["chunksizes"] = [max(1, min(c, n)) for c, n in zip(chunks, sizes, strict=True)]
        if all(key not in cuts for key in record["dim_keys"]) or sizes == record["shape"]:
            storage["chunksizes"] = chunks
    elif chunks == "contiguous" and not storage.get("compression"):
        storage["contiguous"] = True
    return storage


def _compression(group: Any, filters: dict[str, Any]) -> dict[str, Any]:
    level = int(filters.get("complevel") or 0)
    if filters.get("zlib"):
        return {"compression": "zlib", "complevel": level}
    for name, available in (("zstd", group.has_zstd_filter), ("bzip2", group.has_bzip2_filter)):
        if filters.get(name):
            if available():
                return {"compression": name, "complevel": level}
            return {"compression": "zlib", "complevel": 4}
    if filters.get("szip") or filters.get("blosc"):
        return {"compression": "zlib", "complevel": 4}
    return {}


def written_filters(group: Any, filters: dict[str, Any]) -> dict[str, Any]:
    """Give the filters a restored variable has where its source has ``filters``."""
    chosen = _compression(group, filters)
    names = ("zlib", "szip", "zstd", "bzip2", "blosc")
    made: dict[str, Any] = {name: chosen.get("compression") == name for name in names}
    made["complevel"] = int(chosen.get("complevel", 0))
    return made | {name: bool(filters.get(name)) for name in ("shuffle", "fletcher32")}


def _set_attribute(holder: Any, entry: dict[str, Any]) -> None:
    value = attribute_value(entry)
    if entry["type"] == "string":
        holder.setncattr_string(entry["name"], value)
    else:
        holder.setncattr(entry["name"], value)


def _kept_values(record: dict[str, Any], blobs: dict[str, bytes], cuts: Cuts) -> Array:
    data = blobs[record["blob"]]
    shape = tuple(record["shape"])
    values: Array
    if record["type"] == "string":
        values = np.empty(shape, object)
        values[...] = np.array(json.loads(data), object).reshape(shape)
    else:
        values = np.frombuffer(data, record["blob_dtype"]).reshape(shape)
    where = tuple(slice(*cuts[key]) if key in cuts else slice(None) for key in record["dim_keys"])
    return values[where]
