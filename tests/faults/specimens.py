"""Eight kinds of archive, each with a twin of the same shape and other values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import netCDF4
import nibabel
import numpy as np

from pipelines.archiving.archive import ArchiveOptions, archive, plan
from psc_volumetric.bitstream.constants import MAGIC
from tests.faults.sources import smooth, write_dicom, write_netcdf, write_nifti
from tests.faults.trees import Tree, read_tree

__all__ = ["KINDS", "Specimen", "make_specimen"]


@dataclass(frozen=True)
class Kind:
    """How an archive is made."""

    name: str
    write: Callable[[Path, int], Path]
    zipped: bool = False
    mode: str = "lossless"
    max_error: float | None = None
    step: float | None = None

    @property
    def suffix(self) -> str:
        """What the archive's name ends with."""
        return ".psc.zarr.zip" if self.zipped else ".psc.zarr"


@dataclass(frozen=True)
class Specimen:
    """An archive and its twin, in memory.

    Attributes
    ----------
    kind : Kind
    tree, twin : Tree
    bricks : tuple of str
        Keys of the bricks.
    arrays : tuple of str
        Variables and coordinates.
    """

    kind: Kind
    tree: Tree
    twin: Tree

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the arrays that are cut into bricks."""
        return tuple(sorted({key.split("/c/")[0] for key in self.bricks}))

    @property
    def bricks(self) -> tuple[str, ...]:
        """Keys of bricks."""
        return tuple(
            key
            for key, data in sorted(self.tree.items())
            if "/c/" in key and isinstance(data, bytes) and data[:4] == MAGIC
        )

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of plain arrays at the top."""
        tops = {key.split("/", 1)[0] for key in self.tree if "/c/" in key}
        taken = {"tiles", "preview", "source", "priors", *self.variables}
        return tuple(sorted(tops - taken))


def write_labels(folder: Path, shift: int) -> Path:
    """A label map of two time points, large even regions."""
    values = smooth((20, 24, 8, 2))
    labels = np.digitize(values, [-300, 0, 300, 600]).astype(np.int16) + shift
    path = folder / "labels.nii"
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    return path


def write_floats(folder: Path, shift: int) -> Path:
    """Two fields of floats with missing values, one of them at four heights."""
    path = folder / "floats.nc"
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in (("height", 4), ("time", 4), ("lat", 18), ("lon", 20)):
            nc.createDimension(name, size)
            nc.createVariable(name, "f8", (name,))[:] = np.arange(size) * 1.5 + shift
        nc["lat"].units, nc["lon"].units = "degrees_north", "degrees_east"
        for name, dims in (
            ("ta", ("height", "time", "lat", "lon")),
            ("ps", ("time", "lat", "lon")),
        ):
            field = nc.createVariable(name, "f4", dims, fill_value=-9999.0)
            shape = [nc.dimensions[dim].size for dim in dims]
            values = smooth(tuple(shape)).astype("f4") / 8 + shift
            values[..., :2, :3] = np.nan
            field[:] = values
            field.units = "K"
    return path


KINDS = {
    kind.name: kind
    for kind in (
        Kind("dicom", write_dicom),
        Kind("nifti", write_nifti),
        Kind("netcdf", write_netcdf),
        Kind("zip", write_nifti, zipped=True),
        Kind("lossy", write_nifti, mode="lossy", step=0.05),
        Kind("bounded", write_floats, mode="bounded", max_error=0.01),
        Kind("labels", write_labels, mode="lossy", step=0.05),
        Kind("levels", write_floats, max_error=0.05),
    )
}


def make_specimen(kind: Kind, folder: Path) -> Specimen:
    """Archive a source of a kind, and the same source with other values."""
    trees = []
    for shift in (0, 1):
        work = folder / f"{kind.name}-{shift}"
        work.mkdir(parents=True)
        source = kind.write(work, shift)
        options = ArchiveOptions(
            mode=kind.mode,
            max_error=kind.max_error,
            step=kind.step,
            base="wavelet" if kind.mode == "lossy" else "auto",
            coders="fast",
        )
        target = work / f"archive{kind.suffix}"
        archive(plan(source, str(target), options))
        trees.append(read_tree(target))
    return Specimen(kind, *trees)
