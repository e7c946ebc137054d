"""Writing NetCDF again from its schema: same data model, groups, types, attributes and encodings.

HDF5 files are not reproducible byte by byte, so the promise is equality of values, types,
attributes, dimensions (also unlimited ones) and encodings. A region of a volume cuts every variable
that shares its dimensions. Filters that the installed NetCDF library cannot write become zlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    selection_bounds,
)
from adapters.errors import SourceError
from adapters.netcdf.schema import attribute_value
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
from adapters.source_files import safe_target
from adapters.staging import staged_file

__all__ = ["restore_netcdf"]

_SUFFIXES = (".nc", ".nc4", ".cdf")
_FILL = "_FillValue"
_PLACEHOLDER = "_fill_value"
_LOSS_NOTE = "psc_archive_restoration"

Cuts = dict[str, tuple[int, int]]  # dimension key -> start, stop


def restore_netcdf(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write one file, block by block; volumes that are not given are left out.

    ``volumes`` are regions or wholes of volumes, and the whole of each side array.

    Raises
    ------
    SourceError : kind ``"bad-region"`` (also when volumes are cut differently along a dimension
        they share), ``"target-exists"``, ``"bad-document"``.
    """
    import netCDF4

    try:
        known = _records(document, "volume")
        beside = _records(document, "array")
        arrays = [volume for volume in volumes if volume.name in beside]
        volumes = [volume for volume in volumes if volume.name not in beside]
        _check(volumes, known, arrays, beside)
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
                parts = {volume.name: volume for volume in (*volumes, *arrays)}
                _write(dataset, document, parts, cuts)
                if not info.lossless:
                    dataset.setncattr(_LOSS_NOTE, loss_note(info))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise unusable_record("NetCDF", error) from error
    if not complete:
        outcome = CUT
    return [WrittenFile(place, 0, outcome if info.lossless else LOSSY)]


def _records(document: dict[str, Any], what: str) -> dict[str, dict[str, Any]]:
    """Variables that are a ``"volume"`` or an ``"array"``, by their names there."""
    return {
        variable[what]: variable
        for group in document["groups"]
        for variable in group["variables"]
        if what in variable
    }


def _check(
    volumes: Sequence[RestoredVolume],
    known: dict[str, dict[str, Any]],
    arrays: Sequence[RestoredVolume],
    beside: dict[str, dict[str, Any]],
) -> None:
    """Refuse parts that are not those of the document (SourceError, kind ``"bad-region"``)."""
    if volumes or known:
        check_volumes_exist(
            [(volume.name, volume.full_shape) for volume in volumes],
            {name: tuple(record["shape"]) for name, record in known.items()},
        )
    for volume in volumes:
        record = known[volume.name]
        stored = np.dtype(record.get("view") or record["type"])
        check_stored_type(volume.array.dtype, stored, volume.name)
    whole = {a.name: a.array.shape for a in arrays if a.is_whole}
    if whole != {name: tuple(record["shape"]) for name, record in beside.items()}:
        raise SourceError(
            f"expected the arrays {sorted(beside)!r} whole, found {sorted(whole)!r}",
            kind="bad-region",
        )


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
    dataset: Any, document: dict[str, Any], parts: dict[str, RestoredVolume], cuts: Cuts
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
            name = variable.get("volume", variable.get("array"))
            if name in parts:
                created.append((_create(group, variable, cuts), variable, parts[name]))
    for made, record, part in created:
        _fill(made, record, part, cuts)
        if _fills_late(record):
            made.renameAttribute(_PLACEHOLDER, _FILL)


def _fill(made: Any, record: dict[str, Any], part: RestoredVolume, cuts: Cuts) -> None:
    """Copy values slab by slab; of an array that shares a cut axis, what lies in the cut."""
    array = part.array
    if "array" in record:
        sizes = zip(record["dim_keys"], array.shape, strict=True)
        array = _Cut(array, tuple(cuts.get(key, (0, n)) for key, n in sizes))
    if 0 in array.shape:
        return
    if not array.shape:
        made[...] = np.asarray(array[()])
        return
    chunks, rows = made.chunking(), 1
    if isinstance(chunks, list):  # whole chunks are written at once, few have to be kept
        rows = chunks[0]
        made.set_var_chunk_cache(SLAB_BYTES)
    declared = np.dtype(record["type"]).newbyteorder("=") if record.get("view") else None
    for where, values in slabs(array, rows=rows):
        made[where] = values if declared is None else values.view(declared)


@dataclass(frozen=True, eq=False)
class _Cut:
    """A box of an array, read where it is asked for. See ``LazyArray``."""

    array: Array | LazyArray
    box: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.box)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        moved = (
            slice(first + start, first + stop)
            for (first, _), (start, stop) in zip(self.box, bounds, strict=True)
        )
        return np.asarray(self.array[tuple(moved)])


def _create(group: Any, record: dict[str, Any], cuts: Cuts) -> Any:
    options = _storage(group, record, cuts)
    if _is_big_endian(group, record):
        options["endian"] = "big"
    early = group.data_model.startswith("NETCDF4") and record["type"] != "string"
    fill = _fill_value(record) if early else None
    if fill is not None:
        options["fill_value"] = fill
    elif early and not record["prefilled"]:
        options["fill_value"] = False
    variable = group.createVariable(
        record["name"], _type(group, record), tuple(record["dims"]), **options
    )
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    if fill is not None:
        variable.delncattr(_FILL)  # what is unwritten stays so; the attribute comes in its order
    for entry in record["attrs"]:
        if entry["name"] != _FILL:
            _set_attribute(variable, entry)
        else:
            # The package lets nobody set this name, and would put it first.
            _set_attribute(variable, {**entry, "name": _PLACEHOLDER})
            if not _fills_late(record):
                variable.renameAttribute(_PLACEHOLDER, _FILL)
    return variable


def _fills_late(record: dict[str, Any]) -> bool:
    """Whether the library would refuse values beside this fill value: of another type, or many."""
    stated = next((entry for entry in record["attrs"] if entry["name"] == _FILL), None)
    if stated is None or record["type"] == "string" or record["type"].startswith("enum:"):
        return False
    return not _is_one_value(stated, record)


def _is_one_value(stated: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether a stated fill value is one value of the variable's type."""
    if stated["type"] == "char":
        return bool(record["type"] == "|S1" and len(attribute_value(stated)) == 1)
    return bool(stated["type"] == record["type"] and stated["scalar"])


def _fill_value(record: dict[str, Any]) -> Any:
    """What unwritten values of a NetCDF-4 variable read as; None for the library's default."""
    import netCDF4

    stated = next((entry for entry in record["attrs"] if entry["name"] == _FILL), None)
    if stated is not None:
        enum = record["type"].startswith("enum:")
        if enum or _is_one_value(stated, record):
            return attribute_value(stated)
    if record.get("fill") is None or not record["prefilled"]:
        return None
    fill = np.frombuffer(bytes.fromhex(record["fill"]), record["type"])[0]
    default = netCDF4.default_fillvals[np.dtype(record["type"]).str[1:]]
    return None if fill == fill.dtype.type(default) else fill


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


def _set_attribute(holder: Any, entry: dict[str, Any]) -> None:
    value = attribute_value(entry)
    if entry["type"] == "string":
        holder.setncattr_string(entry["name"], value)
    else:
        holder.setncattr(entry["name"], value)
