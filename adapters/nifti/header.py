"""NIfTI-1 and NIfTI-2 headers: what the bytes say, checked, and the affine they mean.

nibabel interprets the header fields, after its own repairs (a qfac of 0 is 1, a negative voxel size
is positive, an unknown code is none), so that geometry is what nibabel gives for the file. The
bytes themselves are kept verbatim and never rewritten by these repairs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array
from adapters.errors import SourceError

__all__ = ["NiftiHeader", "affine_of", "notes_of_scaling", "parse_header", "usable_form"]

_SIZES = {348: "nifti1", 540: "nifti2"}
_MAGICS = {
    "nifti1": {b"n+1\0": "single", b"ni1\0": "pair"},
    "nifti2": {b"n+2\0": "single", b"ni2\0": "pair"},
}
_QUIET = logging.getLogger(f"{__name__}.nibabel")  # what nibabel says of its repairs
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False
# Voxels that are several numbers, by the code of their type: type of one, how many, and the name
# of the axis that they make. Extended floats are kept as words.
_COMPONENTS = {
    32: ("f4", 2, "complex"),
    128: ("u1", 3, "colour"),
    1536: ("u8", 2, "word"),
    1792: ("f8", 2, "complex"),
    2048: ("u8", 4, "word"),
    2304: ("u1", 4, "colour"),
}
FLATTEST = 1e-6  # volume of a voxel over that of a box with its edges
_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}


@dataclass(frozen=True)
class NiftiHeader:
    """The checked facts of one header.

    ``fields`` is nibabel's header object over the verbatim bytes. ``shape`` is in array order
    (..., z, y, x), padded to three axes, with an axis before them for voxels of several numbers,
    whose name is ``component``; ``file_dims`` in file order (x, y, z, ...). ``dtype`` is that of
    one number.
    """

    fields: Any
    flavour: str
    layout: str
    shape: tuple[int, ...]
    file_dims: tuple[int, ...]
    dtype: np.dtype[Any]
    components: int
    component: str | None
    data_offset: int
    slope: float | None
    intercept: float | None
    spatial_unit: str
    time_unit: str

    @property
    def data_bytes(self) -> int:
        """Bytes of voxel data the header announces."""
        count = self.components
        for size in self.file_dims:
            count *= size
        return count * self.dtype.itemsize

    @cached_property
    def repaired(self) -> Any:
        """``fields`` as nibabel reads them: a copy after its own repairs."""
        fixed = self.fields.copy()
        fixed.check_fix(logger=_QUIET, error_level=100)
        return fixed

    @property
    def dtype_order(self) -> str:
        """Byte order of header and voxels, ``"<"`` or ``">"``."""
        return str(self.fields.endianness)

    @property
    def mm_per_unit(self) -> float:
        """Millimetres in one spatial unit of the header (1 when it names none)."""
        return _MM.get(self.spatial_unit, 1.0)


def parse_header(data: bytes, path: Path) -> NiftiHeader:
    """Read the first bytes of a header file.

    Parameters
    ----------
    data : bytes
        At least the first 540 bytes of the (decompressed) file, or all of it when shorter.
    path : Path
        For messages only.

    Raises
    ------
    SourceError : kind ``"not-nifti"``, ``"truncated"``, ``"damaged"`` or ``"unsupported-dtype"``.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    flavour, order, layout = _recognise(data, path)
    size = 348 if flavour == "nifti1" else 540
    kind: Any = Nifti1Header if flavour == "nifti1" else Nifti2Header
    fields = kind(data[:size], endianness=order, check=False)
    dims = _dims(fields["dim"], path)
    dtype, components, component = _numbers(fields, order, path)
    slope, intercept = _scaling(fields)
    spatial_unit, time_unit = _units(fields)
    padded = dims + (1,) * (3 - len(dims))
    return NiftiHeader(
        fields=fields,
        flavour=flavour,
        layout=layout,
        shape=(components,) * (component is not None) + padded[::-1],
        file_dims=dims,
        dtype=dtype,
        components=components,
        component=component,
        data_offset=_data_offset(fields, size + 4 if layout == "single" else 0, path),
        slope=slope,
        intercept=intercept,
        spatial_unit=spatial_unit,
        time_unit=time_unit,
    )


def _recognise(data: bytes, path: Path) -> tuple[str, str, str]:
    """Give (flavour, byte order, layout)."""
    for order, byteorder in (("<", "little"), (">", "big")):
        flavour = _SIZES.get(int.from_bytes(data[:4], byteorder))  # type: ignore[arg-type]
        if flavour is None:
            continue
        magic = data[344:348] if flavour == "nifti1" else data[4:8]
        layout = _MAGICS[flavour].get(magic)
        if len(data) < (348 if flavour == "nifti1" else 540):
            raise SourceError(
                f"expected a header of 348 or 540 bytes, found {len(data)}",
                kind="truncated",
                path=path,
            )
        axes = int.from_bytes(data[40:42], byteorder)  # type: ignore[arg-type]
        if flavour == "nifti1" and magic == bytes(4) and 1 <= axes <= 7 and ".hdr" in path.suffixes:
            raise SourceError(
                "expected a NIfTI magic, found none: an Analyze 7.5 image does not say how it lies",
                kind="unsupported-volume",
                path=path,
                hint="--mode lossless keeps it as it is",
            )
        if layout is None:
            raise SourceError(
                f"expected the NIfTI magic 'n+1' or 'ni1' (or 'n+2', 'ni2'), found {magic!r}",
                kind="not-nifti",
                path=path,
                hint="the file is damaged, or not NIfTI",
            )
        return flavour, order, layout
    raise SourceError(
        f"expected a NIfTI header (size word 348 or 540), the file begins with {data[:4]!r}",
        kind="not-nifti",
        path=path,
        hint="the file is not NIfTI, whatever its name says",
    )


def _dims(dim: Array, path: Path) -> tuple[int, ...]:
    count = int(dim[0])
    dims = tuple(int(size) for size in dim[1 : count + 1]) if 1 <= count <= 7 else ()
    if not dims or min(dims) < 0:
        raise SourceError(
            f"expected 1 to 7 dimensions, found dim = {dim.tolist()!r}", kind="damaged", path=path
        )
    if not min(dims):
        raise SourceError(
            f"expected at least one voxel, found dim = {dim.tolist()!r}",
            kind="no-volume",
            path=path,
        )
    return dims


def _numbers(fields: Any, order: str, path: Path) -> tuple[np.dtype[Any], int, str | None]:
    """Type of the numbers of a voxel, how many, and what the axis of several is called."""
    from nibabel.spatialimages import HeaderDataError

    code = int(fields["datatype"])
    if code in _COMPONENTS:
        name, count, axis = _COMPONENTS[code]
        return np.dtype(order + name), count, axis
    try:
        dtype: np.dtype[Any] = fields.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise _bad_dtype(str(code), path) from error
    if dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8):
        raise _bad_dtype(str(code), path)
    return dtype, 1, None


def _bad_dtype(found: str, path: Path) -> SourceError:
    return SourceError(
        f"expected voxels of numbers or colours, found data type {found}",
        kind="unsupported-dtype",
        path=path,
        hint="the file can be kept as it is: --mode lossless",
    )


def _data_offset(fields: Any, least: int, path: Path) -> int:
    offset = float(fields["vox_offset"])
    if not least <= offset < 2**40:
        raise SourceError(
            f"expected voxel data at offset {least} or later, the header says {offset!r}",
            kind="damaged",
            path=path,
        )
    return int(offset)


def _scaling(fields: Any) -> tuple[float | None, float | None]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or not np.isfinite(intercept):
        return None, None
    return slope, intercept


def notes_of_scaling(header: NiftiHeader) -> list[str]:
    """What to say where the values are shown as stored, though the header has a scale."""
    slope, intercept = (float(header.fields[name]) for name in ("scl_slope", "scl_inter"))
    if not np.isfinite(slope) or slope == 0:
        return []
    if not np.isfinite(intercept):
        return [f"scl_inter is {intercept}: stored values are shown, without scl_slope"]
    if header.component == "complex" and intercept:
        return ["readers do not agree on scl_inter of complex values: stored values are shown"]
    return []


def _units(fields: Any) -> tuple[str, str]:
    try:
        spatial, time = fields.get_xyzt_units()
    except KeyError:
        return "unknown", "unknown"
    return str(spatial), str(time)


def affine_of(header: NiftiHeader) -> tuple[Array | None, list[str]]:
    """Give the affine for array indices (z, y, x, 1) in mm, and notes about it.

    The sform is taken when its code is set, else the qform, else voxel sizes alone (with a note),
    as nibabel does. A form that holds NaN or infinity, has an impossible rotation or is singular
    gives way to the other one; without a usable one there is no affine (with a note).
    """
    notes = []
    for name in ("sform", "qform", "voxel sizes"):
        affine = usable_form(header, name)
        if affine is not None:
            break
        if _is_coded(header, name):
            notes.append(f"the {name} is no geometry (singular or not finite)")
    if affine is None:
        return None, [*notes, "no affine"]
    if name == "voxel sizes" and not notes:
        notes.append("no orientation is coded (sform and qform codes are 0): voxel sizes only")
    elif notes:
        notes[-1] += f": the {name} is taken"
    if header.spatial_unit == "unknown":
        notes.append("the header names no spatial unit: taken as millimetres")
    scale = np.diag([header.mm_per_unit] * 3 + [1.0])
    return scale @ affine[:, [2, 1, 0, 3]], notes


def _is_coded(header: NiftiHeader, name: str) -> bool:
    fields = header.repaired
    if name == "voxel sizes":
        return int(fields["sform_code"]) <= 0 and int(fields["qform_code"]) <= 0
    return int(fields[f"{name}_code"]) > 0


def usable_form(header: NiftiHeader, name: str) -> Array | None:
    """Affine (x, y, z, 1) of a form whose code is set, unit of the header; None if it is none.

    Parameters
    ----------
    header : NiftiHeader
    name : str
        ``"sform"``, ``"qform"``, or ``"voxel sizes"``: what is left if neither is coded.
    """
    from nibabel.spatialimages import HeaderDataError

    fields = header.repaired
    if not _is_coded(header, name):
        return None
    read = {"sform": fields.get_sform, "qform": fields.get_qform}.get(name, fields.get_base_affine)
    try:
        affine = np.asarray(read(), np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        return None
    if not np.isfinite(affine).all():
        return None
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(float(np.linalg.det(affine[:3, :3])))
    return affine if sizes.min() > 0 and volume > FLATTEST * float(np.prod(sizes)) else None
