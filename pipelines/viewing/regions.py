"""Decoded regions as plain bytes, whatever is damaged around them, and whole volumes as NIfTI."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.viewing.shelf import Shown
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import PRIMARIES, colours_of
from psc_volumetric.archive.reader import Selection
from psc_volumetric.errors import (
    FormatError,
    ParameterError,
    PriorMismatchError,
    UnsupportedVersionError,
)

__all__ = ["Region", "coloured_nifti", "nifti_of", "parse_box", "read_shown"]

MOST_VOXELS = 1 << 24  # of a region that is sent at once
RGB24 = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
MOST_IN_SPACE = 1 << 26  # of a volume that is drawn in 3-D


@dataclass(frozen=True)
class Region:
    """Stored values of a region.

    Attributes
    ----------
    values : array
        Of a type that JavaScript has: integers of 8 to 64 bits, float32, float64.
    sigma : array of float32, or None
        Stored units.
    lost : array of uint8, or None
        1 where nothing can be read; None where all can.
    """

    values: NDArray[Any]
    sigma: NDArray[np.float32] | None
    lost: NDArray[np.uint8] | None

    def to_bytes(self) -> bytes:
        """Values, sigma and lost voxels one after another, little-endian, C order."""
        parts = [np.ascontiguousarray(self.values).astype(self.values.dtype.newbyteorder("<"))]
        parts += [part for part in (self.sigma, self.lost) if part is not None]
        return b"".join(part.tobytes() for part in parts)


def parse_box(text: str, spec: VariableSpec) -> Selection:
    """A region such as ``0:1,0:512,0:512``, one half-open range for each axis.

    Raises
    ------
    ParameterError : kind ``"bad-roi"``, or ``"roi-too-large"`` for more than is sent at once.
    """
    try:
        ranges = [tuple(map(int, part.split(":"))) for part in text.split(",")]
        box = tuple(slice(start, stop) for start, stop in ranges)
    except ValueError:
        box = ()
    inside = len(box) == spec.ndim and all(
        0 <= part.start < part.stop <= size for part, size in zip(box, spec.shape, strict=True)
    )
    if not inside:
        raise ParameterError(
            f"{spec.name}: expected one start:stop for each axis inside {list(spec.shape)}, found "
            f"{text[:80]!r}",
            kind="bad-roi",
        )
    most = MOST_VOXELS if colours_of(spec) is None else PRIMARIES * MOST_VOXELS
    if math.prod(part.stop - part.start for part in box) > most:
        raise ParameterError(
            f"{spec.name}: {text[:80]} has more than {most} voxels",
            kind="roi-too-large",
            hint="ask for part of it",
        )
    return box


def read_shown(shown: Shown, name: str, box: Selection, level: int) -> Region:
    """Decode a region; where bricks are damaged, what is left of it.

    Raises
    ------
    UnsupportedVersionError : a method that this program does not know.
    PriorMismatchError : the prior is not here.
    """
    try:
        found = shown.reader.read_region(name, box, level=level, spread=True)
    except UnsupportedVersionError:
        raise
    except (FormatError, PriorMismatchError):
        if name in shown.reader.kept:
            raise  # a file is read whole or not at all
        values = shown.salvage.read(name, box, level=level)
        spread = shown.salvage.read(name, box, level=level, spread=True).astype(np.float32)
        lost = shown.salvage.mask(name, box, level=level).astype(np.uint8)
        return Region(_for_page(values), spread, lost if lost.any() else None)
    sigma = found.spread if found.spread is not None and found.spread.any() else None
    return Region(_for_page(found.values), sigma, None)


def _for_page(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.float16:
        return values.astype(np.float32)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def nifti_of(spec: VariableSpec, values: NDArray[Any], steps: tuple[float, ...]) -> bytes:
    """A NIfTI file of a volume, for NiiVue.

    Parameters
    ----------
    spec : VariableSpec
        With an affine.
    values : (z, y, x) array
        Stored values, or block means of them.
    steps : (z, y, x)
        Voxels in a block.

    Raises
    ------
    ParameterError : NIfTI has no such volume (kind ``"not-in-space"``), of axes that are too long.
    """
    data = values if values.dtype.name in ("uint8", "int16", "float32") else values.astype("f4")
    return _nifti(spec, data, steps)


def coloured_nifti(spec: VariableSpec, samples: NDArray[Any], steps: tuple[float, ...]) -> bytes:
    """The same of (3, z, y, x) stored samples of colours, as RGB24."""
    colours = colours_of(spec)
    assert colours is not None
    mixed = np.rint(colours.mixed(samples) * 255).astype(np.uint8)
    return _nifti(spec, np.ascontiguousarray(mixed).view(RGB24)[..., 0], steps)


def _nifti(spec: VariableSpec, data: NDArray[Any], steps: tuple[float, ...]) -> bytes:
    import nibabel  # takes a second, which an address is not waited for
    from nibabel.spatialimages import HeaderDataError

    affine = np.asarray(spec.affine, np.float64)
    affine = affine[:, [2, 1, 0, 3]]  # of (x, y, z, 1)
    affine[:3, 3] += affine[:3, :3] @ ((np.array(steps[::-1]) - 1) / 2)
    affine[:3, :3] *= np.array(steps[::-1])
    header = nibabel.Nifti1Header()
    try:
        header.set_data_dtype(data.dtype)
        header.set_data_shape(data.shape[::-1])
        header.set_sform(affine, 1)
        header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
        header.set_slope_inter(
            1.0 if spec.slope is None else spec.slope, spec.intercept if spec.intercept else 0.0
        )
    except HeaderDataError as error:
        raise ParameterError(
            f"{spec.name}: cannot be drawn in 3-D ({error})", kind="not-in-space"
        ) from error
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    body = np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<")).tobytes()
    return bytes(header.as_byteswapped("<").binaryblock) + b"\0" * 4 + body
