"""What a stripped archive is restored from: a fresh header with geometry, type and units, no more.

The record that an adapter needs is made by the adapter itself, from a file without values that is
written for it: NIfTI where one spatial variable fits, else NetCDF. It never saw the first source.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import adapters
from adapters.base import SourceItem
from adapters.kept import Blocks
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.skeleton import PlainCoordinate
from psc_volumetric.errors import ParameterError

__all__ = ["DERIVED", "STRIPPED", "DerivedSource", "derived_source"]

DERIVED = "stripped"  # key in the source document
STRIPPED = "derived (source headers left out)"  # what a file is that was restored without them
_NIFTI_AXES = range(3, 8)
_LARGEST_NIFTI1 = 32767
_FILL = "_FillValue"
_NOT_SET = ("_FillValue", "slice_slope", "slice_intercept")  # set apart, or no words of CF


@dataclass(frozen=True)
class DerivedSource:
    """Record of a source that holds nothing but geometry, types and units.

    Attributes
    ----------
    kind : str
        ``"nifti"`` or ``"netcdf"``.
    document : dict
    blobs : mapping
    volumes : dict
        Name of each variable -> name of its volume in the record.
    """

    kind: str
    document: dict[str, Any]
    blobs: Mapping[str, bytes | Blocks]
    volumes: dict[str, str]


def derived_source(
    variables: Sequence[VariableSpec],
    coordinates: Mapping[str, PlainCoordinate],
    attributes: Mapping[str, Mapping[str, Any]],
) -> DerivedSource:
    """Make the record for variables that are kept and everything else that is left out.

    Parameters
    ----------
    variables : sequence of VariableSpec
    coordinates : mapping
        Name -> one-dimensional numbers along an axis.
    attributes : mapping
        Variable or coordinate -> the attributes that stay.

    Raises
    ------
    ParameterError : kind ``"cannot-strip"``: neither format can hold these variables.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if len(variables) == 1:
            item = _nifti(place / "volume.nii", variables[0])
            if item is not None:
                return _record(item, {variables[0].name: item.volumes[0].name})
        try:
            item = _netcdf(place / "volumes.nc", variables, coordinates, attributes)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise _cannot(f"the variables cannot be written as NetCDF ({error})") from error
    found = {v.name: (tuple(v.array.shape), v.array.dtype) for v in item.volumes}
    named = {spec.name: name for spec, name in zip(variables, _file_names(variables), strict=True)}
    for spec in variables:
        if found.get(named[spec.name]) != (spec.shape, spec.dtype):
            raise _cannot(
                f"variable {spec.name!r} ({spec.dtype.name}, shape {spec.shape!r}) cannot be "
                "restored without the headers of its source"
            )
    return _record(item, named)


def _cannot(why: str) -> ParameterError:
    return ParameterError(
        why,
        kind="cannot-strip",
        hint="restore the archive, and write the values in a format of your choice",
    )


def _record(item: SourceItem, volumes: dict[str, str]) -> DerivedSource:
    document = {**item.document, DERIVED: True}
    return DerivedSource(item.kind, document, item.blobs, volumes)


def _open(path: Path) -> SourceItem:
    return adapters.open_source(adapters.discover(path).candidates[0])


def _nifti(path: Path, spec: VariableSpec) -> SourceItem | None:
    """The adapter's view of a NIfTI header for a variable; None where NIfTI cannot hold it."""
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    if spec.affine is None or spec.ndim not in _NIFTI_AXES or "slice_slope" in spec.attrs:
        return None
    small = max(spec.shape) <= _LARGEST_NIFTI1
    kind: Any = nibabel.Nifti1Header if small else nibabel.Nifti2Header
    header = kind()
    try:
        header.set_data_dtype(spec.dtype.newbyteorder("<"))
    except HeaderDataError:
        return None
    header.set_data_shape(spec.shape[::-1])
    affine = np.asarray(spec.affine, np.float64)[:, [2, 1, 0, 3]]
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner", strip_shears=True)
    header.set_xyzt_units("mm", "unknown")
    slope = 1.0 if spec.slope is None else float(spec.slope)
    header.set_slope_inter(slope, 0.0 if spec.intercept is None else float(spec.intercept))
    header["magic"] = header.single_magic
    header["vox_offset"] = start = header.single_vox_offset
    with path.open("wb") as stream:
        stream.write(header.binaryblock)
        stream.truncate(int(start) + spec.nbytes)  # a hole: no values are written
    item = _open(path)
    found = item.volumes[0].array
    same = len(item.volumes) == 1 and tuple(found.shape) == spec.shape and found.dtype == spec.dtype
    return item if same else None


def _file_names(variables: Sequence[VariableSpec]) -> list[str]:
    return [spec.name.replace("/", "_") for spec in variables]


def _netcdf(
    path: Path,
    variables: Sequence[VariableSpec],
    coordinates: Mapping[str, PlainCoordinate],
    attributes: Mapping[str, Mapping[str, Any]],
) -> SourceItem:
    """The adapter's view of a NetCDF file with these variables, none of which has values."""
    import netCDF4

    with netCDF4.Dataset(path, "w", format="NETCDF4") as dataset:
        dims = {spec.name: _dims(dataset, spec) for spec in variables}
        for name, coordinate in coordinates.items():
            made = dataset.createVariable(name, coordinate.values.dtype, coordinate.dims)
            made.setncatts(_settable(attributes.get(name, {})))
            made.set_auto_maskandscale(False)
            made[...] = coordinate.values
        for spec, name in zip(variables, _file_names(variables), strict=True):
            own = dict(attributes.get(spec.name, {}))
            fill = own.pop(_FILL, None)
            stored = spec.dtype if spec.raw_dtype is None else np.dtype(spec.raw_dtype)
            made = dataset.createVariable(
                name,
                stored,
                dims[spec.name],
                zlib=True,
                complevel=1,
                fill_value=None if fill is None else stored.type(fill),
            )
            made.setncatts(_settable(own))
            if spec.affine is not None:
                made.setncattr("affine_zyx_to_mm_ras", np.asarray(spec.affine, np.float64).ravel())
    return _open(path)


def _dims(dataset: Any, spec: VariableSpec) -> list[str]:
    """Make the axes of a variable; those of another group may have the same name."""
    names = []
    for dim, size in zip(spec.dims, spec.shape, strict=True):
        there = dataset.dimensions.get(dim)
        name = dim if there is None or there.size == size else f"{dim}_{size}"
        if name not in dataset.dimensions:
            dataset.createDimension(name, size)
        names.append(name)
    return names


def _settable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in _NOT_SET}
