"""NIfTI-1 and NIfTI-2 headers: what the bytes say, checked, and the affine they mean.

nibabel interprets the header fields; the bytes themselves are kept verbatim and never rewritten by
nibabel's own checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array
from adapters.errors import SourceError

__all__ = ["NiftiHeader", "affine_of", "parse_header"]

_SIZES = {348: "nifti1", 540: "nifti2"}
_MAGICS = {
    "nifti1": {b"n+1\0": "single", b"ni1\0": "pair"},
    "nifti2": {b"n+2\0": "single", b"ni2\0": "pair"},
}
_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}


@dataclass(frozen=True)
class NiftiHeader:
    """The checked facts of one header.

    ``fields`` is nibabel's header object over the verbatim bytes. ``shape`` is in array order
    (..., z, y, x), padded to three axes; ``file_dims`` in file order (x, y, z, ...).
    """

    fields: Any
    flavour: str
    layout: str
    shape: tuple[int, ...]
    file_dims: tuple[int, ...]
    dtype: np.dtype[Any]
    data_offset: int
    slope: float | None
    intercept: float | None
    spatial_unit: str
    time_unit: str

    @property
    def data_bytes(self) -> int:
        """Bytes of voxel data the header announces."""
        count = 1
        for size in self.file_dims:
            count *= size
        return count * self.dtype.itemsize

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
    from nibabel.spatialimages import HeaderDataError

    flavour, order, layout = _recognise(data, path)
    size = 348 if flavour == "nifti1" else 540
    kind: Any = Nifti1Header if flavour == "nifti1" else Nifti2Header
    fields = kind(data[:size], endianness=order, check=False)
    dims = _dims(fields["dim"], path)
    try:
        dtype = fields.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise _bad_dtype(str(int(fields["datatype"])), path) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise _bad_dtype(dtype.name, path)
    slope, intercept = _scaling(fields)
    spatial_unit, time_unit = _units(fields)
    padded = dims + (1,) * (3 - len(dims))
    return NiftiHeader(
        fields=fields,
        flavour=flavour,
        layout=layout,
        shape=padded[::-1],
        file_dims=dims,
        dtype=dtype,
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
        if layout is None:
            raise SourceError(
                f"expected the NIfTI magic 'n+1' or 'ni1' (or 'n+2', 'ni2'), found {magic!r}",
                kind="not-nifti",
                path=path,
                hint="Analyze 7.5 files have no orientation and are not supported",
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
    while len(dims) > 6 and dims[-1] == 1:
        dims = dims[:-1]
    if not dims or len(dims) > 6 or min(dims) < 1:
        raise SourceError(
            f"expected 1 to 6 dimensions of at least one voxel, found dim = {dim.tolist()!r}",
            kind="damaged",
            path=path,
        )
    return dims


def _bad_dtype(found: str, path: Path) -> SourceError:
    return SourceError(
        f"expected integer or float voxels of up to 64 bits, found {found!r}",
        kind="unsupported-dtype",
        path=path,
        hint="complex, colour and 128-bit voxels are not supported",
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
    if not np.isfinite(slope) or slope == 0:
        return None, None
    return slope, intercept if np.isfinite(intercept) else 0.0


def _units(fields: Any) -> tuple[str, str]:
    try:
        spatial, time = fields.get_xyzt_units()
    except KeyError:
        return "unknown", "unknown"
    return str(spatial), str(time)


def affine_of(header: NiftiHeader, path: Path) -> tuple[Array | None, list[str]]:
    """Give the affine for array indices (z, y, x, 1) in mm, and notes about it.

    The sform is taken when its code is set, else the qform, else voxel sizes alone (with a note).
    A singular affine gives None with a note.

    Raises
    ------
    SourceError : kind ``"bad-affine"``, the affine the header chooses is not finite.
    """
    from nibabel.spatialimages import HeaderDataError

    fields, notes = header.fields, []
    try:
        if int(fields["sform_code"]) > 0:
            affine, which = fields.get_sform(), "sform"
        elif int(fields["qform_code"]) > 0:
            affine, which = fields.get_qform(), "qform"
        else:
            affine, which = fields.get_base_affine(), "voxel sizes"
            notes.append("no orientation is coded (sform and qform codes are 0): voxel sizes only")
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise _bad_affine("qform", path) from error
    affine = np.asarray(affine, np.float64)
    if not np.isfinite(affine).all():
        raise _bad_affine(which, path)
    if header.spatial_unit == "unknown":
        notes.append("the header names no spatial unit: taken as millimetres")
    affine = np.diag([header.mm_per_unit] * 3 + [1.0]) @ affine[:, [2, 1, 0, 3]]
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        return None, [*notes, f"the {which} is singular: no affine"]
    return affine, notes


def _bad_affine(which: str, path: Path) -> SourceError:
    return SourceError(
        f"expected finite numbers in the affine, the {which} holds NaN, infinity or an impossible "
        "rotation",
        kind="bad-affine",
        path=path,
        hint="repair the header, for example by copying the geometry from the scanner's files",
    )
