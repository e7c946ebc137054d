"""Siemens mosaics: one image that holds the slices of a volume as tiles.

How many tiles there are, and along which direction the slices follow one another, is only in the
private CSA header. ImagePositionPatient is where a single slice as large as the whole sheet would
begin; the first pixel of a tile lies further in (nibabel, "Siemens mosaic", doc/source/dicom).
Without a readable CSA header nobody can tell, and the sheet stays one image without an affine.
"""

from __future__ import annotations

import math
import struct
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.dicom.frames import Frame, number

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Mosaic", "is_mosaic", "read_mosaic"]

_CREATOR = "SIEMENS CSA HEADER"
_MOST_CSA_BYTES = 16 << 20


@dataclass(frozen=True)
class Mosaic:
    """How the tiles of a sheet lie: ``grid`` by ``grid`` of them, the first ``tiles`` are used.

    ``normal`` is the direction from slice to slice (LPS), ``step_mm`` their distance.
    """

    tiles: int
    grid: int
    normal: tuple[float, float, float]
    step_mm: float

    def tile_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Give rows and columns of a tile."""
        return rows // self.grid, columns // self.grid

    def frames(self, sheet: Frame, rows: int, columns: int) -> tuple[Frame, ...]:
        """Give a frame for every slice of a sheet of ``rows`` x ``columns``."""
        assert sheet.position and sheet.orientation and sheet.pixel_spacing
        height, width = self.tile_size(rows, columns)
        along_row = np.array(sheet.orientation[:3]) * sheet.pixel_spacing[1]
        along_column = np.array(sheet.orientation[3:]) * sheet.pixel_spacing[0]
        inset = along_row * (columns - width) / 2 + along_column * (rows - height) / 2
        first = np.array(sheet.position) + inset
        step = np.array(self.normal) * self.step_mm
        return tuple(
            replace(sheet, position=tuple((first + k * step).tolist())) for k in range(self.tiles)
        )


def is_mosaic(dataset: Dataset) -> bool:
    """Tell whether an image says that it is a sheet of tiles."""
    kinds = dataset.get("ImageType") or []
    parts = [kinds] if isinstance(kinds, str) else list(kinds)
    return any(str(part).strip().upper() == "MOSAIC" for part in parts)


def read_mosaic(dataset: Dataset, sheet: Frame, rows: int, columns: int) -> Mosaic | None:
    """Give the arrangement of a mosaic's tiles; None when its headers do not tell it."""
    tags = _csa_tags(dataset)
    counts, normals = _values(tags, "NumberOfImagesInMosaic"), _values(tags, "SliceNormalVector")
    step = number(dataset, "SpacingBetweenSlices") or number(dataset, "SliceThickness")
    located = sheet.position and sheet.orientation and sheet.pixel_spacing
    if len(counts) != 1 or len(normals) != 3 or not step or not located:
        return None
    tiles = int(counts[0])
    length = math.sqrt(sum(part * part for part in normals))
    grid = math.ceil(math.sqrt(tiles)) if 0 < tiles <= 1 << 16 else 0
    if tiles < 1 or abs(length - 1) > 1e-2 or rows % grid or columns % grid:
        return None
    normal = tuple(part / length for part in normals)
    return Mosaic(tiles, grid, (normal[0], normal[1], normal[2]), abs(step))


def _csa_tags(dataset: Dataset) -> dict[str, Any]:
    """Read the tags of the CSA image header; empty when there is none, or a damaged one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel says on import that its DICOM part is young
        from nibabel.nicom import csareader

    damage = (KeyError, ValueError, IndexError, TypeError, AssertionError, struct.error)
    try:
        data = dataset.private_block(0x0029, _CREATOR)[0x10].value
        if not isinstance(data, bytes) or len(data) > _MOST_CSA_BYTES:
            return {}
        tags = csareader.read(data)["tags"]
    except (*damage, csareader.CSAError):
        return {}
    return dict(tags)


def _values(tags: dict[str, Any], name: str) -> list[float]:
    try:
        return [float(item) for item in tags[name]["items"] if item not in ("", None)]
    except (KeyError, ValueError, TypeError):
        return []
