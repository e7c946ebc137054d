"""Restoring the rest of a damaged archive: what was lost is filled, named, and marked by a mask.

The mask stands beside the files that were written: for DICOM and NIfTI a NIfTI file
in the same place of the world, for others a NetCDF file with the same variables and axes.
"""

from __future__ import annotations

import gzip
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import RestoreInfo, WrittenFile
from adapters.output import slabs
from psc_volumetric.archive.damage import Finding
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.levels import Level
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.salvage import Salvage, fill_of
from psc_volumetric.errors import FormatError, ParameterError, StorageError

__all__ = ["FILLED", "NO_DAMAGE", "Damage", "Rescue", "levels_of"]

FILLED = "derived (damaged regions filled)"
METHOD = "EXACT, DAMAGED REGIONS FILLED"
_LARGEST_NIFTI1 = 32767
_FORMATS = {"dicom": ".nii.gz", "nifti": ".nii.gz"} | dict.fromkeys(
    ("netcdf", "fits", "images", "trajectories"), ".nc"
)
_SUFFIXES = (
    ".nii.gz",
    ".nii",
    ".hdr",
    ".img",
    ".hdr.gz",
    ".img.gz",
    ".nc4",
    ".nc",
    ".cdf",
    ".fits",
    ".fit",
    ".fts",
    ".fits.gz",
    ".fits.fz",
    ".png",
    ".tif",
    ".tiff",
    ".tf2",
    ".tf8",
    ".btf",
    ".dcd",
    ".xtc",
)

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Damage:
    """What could not be read.

    Attributes
    ----------
    findings : tuple of Finding
        With array, tile, level, voxels of the whole variable, and place.
    fills : dict
        Variable -> the stored value that is there now.
    masks : tuple of str
        Files that say which voxels these are: 1 where a value was filled in.
    """

    findings: tuple[Finding, ...] = ()
    fills: dict[str, float] = field(default_factory=dict)
    masks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"findings": findings, "fills": self.fills, "masks": list(self.masks)}


NO_DAMAGE = Damage()


def levels_of(reader: ArchiveReader, name: str, *, skip_damaged: bool) -> int:
    """Quality levels of a variable; 0 where its table is damaged, and that is to be skipped."""
    try:
        return reader.tile_table(name).levels
    except FormatError:
        if not skip_damaged:
            raise
        return 0


class Rescue:
    """What is lost of the regions that are restored; does nothing unless it is asked for.

    Attributes
    ----------
    salvage : Salvage or None
        Reads what is left.
    """

    def __init__(
        self,
        reader: ArchiveReader,
        boxes: Mapping[str, Box],
        level: Level,
        fills: Mapping[str, float],
        salvage: Salvage | None,
    ) -> None:
        self._reader = reader
        self._boxes = boxes
        self._level = level
        self.salvage = salvage
        self._fills = fills
        self._lost: dict[str, list[Finding]] = {}
        if salvage is not None:
            self._lost = {name: salvage.lost_in(name, box, level) for name, box in boxes.items()}
            self._lost |= {name: list(_lost_objects(reader, name)) for name in reader.arrays}

    @classmethod
    def of(
        cls,
        reader: ArchiveReader,
        boxes: Mapping[str, Box],
        level: Level,
        fill: float | None,
        wanted: bool,
    ) -> Rescue:
        """Find out what is lost: every brick of the regions is compared with the manifest.

        Raises
        ------
        ParameterError : a variable cannot hold the fill value, or nothing is to be filled (kind
            ``"bad-fill"``).
        """
        if fill is not None and not wanted:
            raise ParameterError(
                "a value to fill with is for damaged regions",
                kind="bad-fill",
                hint="ask for it with --skip-damaged",
            )
        if not wanted:
            return cls(reader, boxes, level, {}, None)
        fills = {name: fill_of(reader.variables[name], fill) for name in boxes}
        return cls(reader, boxes, level, fills, Salvage(reader, fill))

    def is_damaged(self, name: str, position: tuple[int, ...]) -> bool:
        """Whether a brick is not whole at the level that is restored."""
        return self.salvage is not None and bool(self.salvage.lost(name, position, self._level))

    def told(self, info: RestoreInfo) -> RestoreInfo:
        """What files are to say of their values."""
        if not any(self._lost.get(name) for name in self._boxes):
            return info
        return replace(info, lossless=False, method=METHOD, max_error=None)

    def finish(self, kind: str, target: Path, written: Sequence[WrittenFile]) -> Damage:
        """Write the masks of what was lost; none where nothing was.

        Raises
        ------
        StorageError : kind ``"target-exists"``: something stands where a mask goes.
        """
        findings = tuple(finding for lost in self._lost.values() for finding in lost)
        if not findings:
            return NO_DAMAGE
        damaged = [name for name in self._boxes if self._lost[name]]
        fills = {name: self._fills[name] for name in damaged}
        base = target if kind == "dicom" else written[0].path
        ending = _FORMATS.get(kind)
        if not damaged or ending is None:
            return Damage(findings, fills)
        stem = base.name.removesuffix(_ending(base.name))
        if ending == ".nc":
            path = base.with_name(f"{stem}.damaged{ending}")
            _write_aside(path, lambda beside: self._netcdf(beside, damaged))
            return Damage(findings, fills, (str(path),))
        masks = []
        for number, name in enumerate(damaged):
            path = base.with_name(f"{stem}.damaged{f'-{number + 1}' if number else ''}{ending}")
            _write_aside(path, lambda beside, name=name: self._nifti(beside, name))
            masks.append(str(path))
        return Damage(findings, fills, tuple(masks))

    def _mask(self, name: str) -> _MaskArray:
        assert self.salvage is not None
        return _MaskArray(self.salvage, name, self._boxes[name], self._level)

    def _nifti(self, path: Path, name: str) -> None:
        import nibabel

        spec, box, mask = self._reader.variables[name], self._boxes[name], self._mask(name)
        small = max(mask.shape) <= _LARGEST_NIFTI1
        header: Any = nibabel.Nifti1Header() if small else nibabel.Nifti2Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(mask.shape[::-1])
        affine = _affine(spec, box)
        if affine is not None:
            header.set_sform(affine, code="scanner")
            header.set_qform(affine, code="scanner", strip_shears=True)
            header.set_xyzt_units("mm", "unknown")
        header["magic"] = header.single_magic
        header["vox_offset"] = start = header.single_vox_offset
        header["descrip"] = b"1: damaged, a value was filled in"
        with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as stream:
            stream.write(header.binaryblock.ljust(int(start), b"\0"))
            for _, values in slabs(mask):
                stream.write(values.tobytes())

    def _netcdf(self, path: Path, names: Sequence[str]) -> None:
        import netCDF4

        with netCDF4.Dataset(path, "w", format="NETCDF4") as dataset:
            for name in names:
                spec, mask = self._reader.variables[name], self._mask(name)
                group, _, own = name.rpartition("/")
                place = dataset.createGroup(group) if group else dataset
                for dim, size in zip(spec.dims, mask.shape, strict=True):
                    if dim not in place.dimensions:
                        place.createDimension(dim, size)
                made = place.createVariable(own, "u1", spec.dims, zlib=True, complevel=1)
                made.long_name = f"whether a value of {own} was lost and filled in"
                made.flag_values = np.array([0, 1], np.uint8)
                made.flag_meanings = "read damaged"
                for key, values in slabs(mask):
                    made[key] = values


@dataclass(frozen=True)
class _MaskArray:
    """A mask as a writer of slabs takes it: uint8, one value per voxel of a region."""

    salvage: Salvage
    name: str
    box: Box
    level: Level

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(part.stop - part.start for part in self.box)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        place = tuple(
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(self.box, key, strict=True)
        )
        return self.salvage.mask(self.name, place, level=self.level).astype(np.uint8)


def _affine(spec: VariableSpec, box: Box) -> Any:
    """(4, 4) of NIfTI: index (x, y, z, 1) of a region to world mm; None without geometry."""
    if spec.affine is None:
        return None
    affine = np.array(spec.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box[-3:]]
    return affine[:, [2, 1, 0, 3]]


def _lost_objects(reader: ArchiveReader, name: str) -> list[Finding]:
    """Damaged chunks of a plain array of the source."""
    found = []
    for key in reader.manifest.under(f"{node_path(name)}/c"):
        try:
            reader.sealed.compare(key)
        except FormatError as error:
            found.append(Finding(key, error.kind, str(error), name))
    return found


def _ending(name: str) -> str:
    return next((name[-len(s) :] for s in _SUFFIXES if name.lower().endswith(s)), "")


def _write_aside(path: Path, write: Any) -> None:
    """Write a file that appears under its name when it is whole, and never replaces another."""
    beside = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        write(beside)
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.link(beside, path)
    except FileExistsError as error:
        raise StorageError(
            f"the mask {str(path)!r} exists already",
            kind="target-exists",
            hint="nothing is ever replaced; choose another target",
        ) from error
    except OSError as error:
        raise StorageError(
            f"the mask {str(path)!r} cannot be written ({error.strerror})",
            kind="storage-failed",
            hint="check the rights and the free space",
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()
