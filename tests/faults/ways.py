"""Ways of reading an archive, each giving all it found as arrays by name."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from pipelines.archiving.strip import strip
from pipelines.checking.info import archive_info, info_lines, list_lines, list_target
from pipelines.restoring.restore import RestoreOptions, restore
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.checking import verify_archive
from psc_volumetric.archive.salvage import Salvage

__all__ = ["MORE", "PLAIN", "WAYS", "Found", "same"]

Found = dict[str, Any]


def by_restore(path: Path, scratch: Path) -> Found:
    """The source files, by their digests."""
    out = scratch / "restored"
    try:
        report = restore(str(path), out, RestoreOptions())
        files = [Path(file) for file in report.files]
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    finally:
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True) if out.is_file() else None


def by_verify(path: Path, _: Path) -> Found:
    """What verify says."""
    return {"findings": sorted({f"{f.key} {f.kind}" for f in verify_archive(path)})}


def by_deep_verify(path: Path, _: Path) -> Found:
    """What verify says when it decodes."""
    return {"findings": sorted({f"{f.key} {f.kind}" for f in verify_archive(path, deep=True)})}


def by_reader(path: Path, _: Path) -> Found:
    """Variables and coordinates through the archive's own reader."""
    with ArchiveReader.open(path) as reader:
        names = list(reader.metadata.get("coordinates", ()))
        reader.info()
        return {
            **{name: reader.read(name) for name in reader.variables},
            **{name: reader.coordinate(name).values for name in names},
        }


def by_salvage(path: Path, _: Path) -> Found:
    """Variables of which only the rest is read: lost voxels are masked."""
    with ArchiveReader.open(path) as reader:
        salvage = Salvage(reader)
        return {
            name: np.ma.MaskedArray(salvage.read(name), salvage.mask(name))
            for name in reader.variables
        }


def by_info(path: Path, _: Path) -> Found:
    """What ``info`` and ``ls`` say."""
    found = archive_info(str(path))
    return {"info": info_lines(found), "ls": list_lines(list_target(str(path)))}


def by_strip(path: Path, scratch: Path) -> Found:
    """What a copy without headers leaves out; the copy is verified."""
    out = scratch / "stripped.psc.zarr"
    try:
        left_out = strip(str(path), str(out)).left_out
        return {"left out": sorted(left_out), "findings": len(list(verify_archive(out)))}
    finally:
        shutil.rmtree(out, ignore_errors=True)


def by_engine(path: Path, _: Path) -> Found:
    """The whole dataset through ``engine="psc"``, attributes too."""
    with xr.open_dataset(path, engine="psc") as dataset:
        return _of_dataset(dataset, attributes=True)


def by_zarr(path: Path, _: Path) -> Found:
    """Every array at the top through plain Zarr."""
    group = zarr.open_group(_store(path), mode="r")
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def by_open_zarr(path: Path, _: Path) -> Found:
    """The dataset through ``xarray.open_zarr``: values and coordinates."""
    with xr.open_zarr(_store(path), consolidated=False) as dataset:
        return _of_dataset(dataset, attributes=False)


def _store(path: Path) -> Any:
    return zarr.storage.ZipStore(path, mode="r") if path.is_file() else path


def _of_dataset(dataset: xr.Dataset, *, attributes: bool) -> Found:
    dataset.load()
    found: Found = {str(name): np.asarray(array) for name, array in dataset.variables.items()}
    found |= {f"{name} axes": array.dims for name, array in dataset.variables.items()}
    if attributes:
        found |= {f"{name} attributes": repr(a.attrs) for name, a in dataset.variables.items()}
        found["attributes"] = repr(dataset.attrs)
    return found


WAYS: dict[str, Callable[[Path, Path], Found]] = {
    "restore": by_restore,
    "verify": by_verify,
    "verify --deep": by_deep_verify,
    "reader": by_reader,
    "skip_damaged": by_salvage,
    "info": by_info,
    'engine="psc"': by_engine,
    "zarr": by_zarr,
    "open_zarr": by_open_zarr,
}
MORE = {"strip": by_strip}  # for hostile archives only
PLAIN = ("zarr", "open_zarr")  # these raise what Zarr and xarray raise


def quietly(way: str, path: Path, scratch: Path) -> Found:
    """Read without warnings: damaged archives make Zarr talk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {**WAYS, **MORE}[way](path, scratch)


def same(found: Any, expected: Any) -> bool:
    """Whether two things that were read are equal, bit for bit, but for masked values."""
    if isinstance(expected, np.ma.MaskedArray):
        found = np.where(found.mask, expected.data, found.data)
        return found.tobytes() == expected.data.tobytes()
    if isinstance(expected, np.ndarray):
        return (
            isinstance(found, np.ndarray)
            and (found.dtype, found.shape) == (expected.dtype, expected.shape)
            and (
                bool(np.all(found == expected))
                if expected.dtype.kind in "OT"
                else found.tobytes() == expected.tobytes()
            )
        )
    return bool(found == expected)
