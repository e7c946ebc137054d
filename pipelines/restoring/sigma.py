"""The uncertainty of an archive, one sigma per voxel, as NIfTI, NetCDF or NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import xarray as xr

from pipelines.collection import only_archive
from pipelines.restoring.roi import box_text, roi_from_indices
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.levels import Level, check_level
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.targets import refuse_within_archive
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["sigma_lines", "write_sigma"]

ENDINGS = (".nii", ".nii.gz", ".nc", ".npy")


def write_sigma(
    archive: str,
    target: Path,
    *,
    variable: str | None = None,
    roi: str | None = None,
    level: Level = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Decode sigma and write it in physical units (stored units times the slope).

    Parameters
    ----------
    archive : str
        Path or URL of a sealed archive.
    target : Path
        ``.nii`` and ``.nii.gz`` carry the affine of the region, ``.nc`` the attributes that
        :func:`xarray.open_dataset` shows, ``.npy`` the numbers alone, array axes as in the archive.
    variable : str or None
        None takes the only one there is.
    roi : str or None
        Half-open indices by axis; None is everything.
    level : int, str or None
        A number, ``"preview"``, ``"bounded"`` or ``"lossless"``; None is the last level, where
        exact archives have sigma 0.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    dict
        JSON-able: variable, region, shape, level, mean sigma and unit. A level that was asked for
        by its name is told by it: its number may differ from brick to brick.

    Raises
    ------
    ParameterError : ending, variable or region that do not exist here.
    StorageError : the target exists (kind ``"target-exists"``).
    """
    check_level(level)
    archive = only_archive(archive)
    ending = next((e for e in ENDINGS if target.name.lower().endswith(e)), None)
    if ending is None:
        raise ParameterError(
            f"expected a file that ends in {', '.join(ENDINGS)}, found {target.name!r}",
            kind="bad-target",
        )
    refuse_within_archive(target)
    if target.exists():
        raise StorageError(
            f"the target {str(target)!r} exists already",
            kind="target-exists",
            hint="nothing is ever replaced; choose another name",
        )
    dataset = xr.open_dataset(archive, engine="psc", level=level, uncertainty=True, device=device)
    with dataset, ArchiveReader.open(archive) as reader:
        spec = _spec(reader, variable)
        box = tuple(slice(0, size) for size in spec.shape)
        if roi is not None:
            box = roi_from_indices(roi, dims=spec.dims, shape=spec.shape)
        found = dataset[f"{spec.name}_sigma"].isel(dict(zip(spec.dims, box, strict=True))).load()
    if ending == ".npy":
        np.save(target, found.values)
    elif ending == ".nc":
        found.to_netcdf(target, engine="h5netcdf")
    else:
        nibabel.save(_nifti(found.values, spec, box), target)
    covered = found.attrs.get("measured_coverage_percent")
    return {
        "file": str(target),
        "variable": spec.name,
        "region": box_text(box, spec.dims),
        "shape": list(found.shape),
        "level": found.attrs.get("level", level),
        "mean": float(found.mean()) if found.size else None,
        "unit": spec.unit,
        "measured_coverage_percent": None if covered is None else np.ravel(covered).tolist(),
    }


def _spec(reader: ArchiveReader, variable: str | None) -> VariableSpec:
    names = list(reader.variables)
    name = names[0] if variable is None and len(names) == 1 else variable
    if name not in reader.variables:
        raise ParameterError(
            f"expected one of the variables {', '.join(names)}, found {name!r}",
            kind="unknown-variable",
            hint="name it with --variable",
        )
    return reader.variables[name]


def _nifti(
    values: np.ndarray[Any, Any], spec: VariableSpec, box: tuple[slice, ...]
) -> nibabel.Nifti1Image:
    """Axes reversed to (x, y, z, ...) as NIfTI has them, the affine moved to the region."""
    affine = None
    if spec.affine is not None:
        corner = [part.start for part in box[-3:]]
        corner = [0] * (3 - len(corner)) + corner
        moved = np.asarray(spec.affine, np.float64).copy()
        moved[:3, 3] = moved[:3, :3] @ corner + moved[:3, 3]
        affine = moved[:, [2, 1, 0, 3]]
    return nibabel.Nifti1Image(np.asarray(values, np.float32).T, affine)


def sigma_lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    covered = report["measured_coverage_percent"]
    unit = report["unit"] or "stored units"
    lines = [
        f"{report['file']}: sigma of {report['variable']} [{report['region']}], level "
        f"{report['level']}, mean {report['mean']:.4g} {unit}"
    ]
    if covered:
        shares = ", ".join(f"{share:.1f}" for share in covered)
        lines.append(f"voxels within 1, 2, 3 sigma: {shares} %")
    return lines
