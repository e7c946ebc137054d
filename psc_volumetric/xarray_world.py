"""World coordinates of oblique volumes, for versions of xarray that can compute coordinates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core.coordinate_transform import CoordinateTransform
from xarray.indexes import CoordinateTransformIndex

__all__ = ["WorldTransform", "world_coordinates"]


def world_coordinates(
    affine: NDArray[np.float64], dim_size: Mapping[str, int], names: tuple[str, str, str]
) -> xr.Coordinates:
    """Lazy coordinates in mm (RAS+) along three axes; ``sel(..., method="nearest")`` works."""
    found = xr.Coordinates.from_xindex(
        CoordinateTransformIndex(WorldTransform(affine, dim_size, names))
    )
    for name, axis in zip(names, "xyz", strict=True):
        found[name].attrs.update(units="mm", long_name=f"world {axis} (RAS+)", world_axis=axis)
    return found


class WorldTransform(CoordinateTransform):
    """Millimetres (RAS+) of every voxel of an oblique volume, computed when asked for.

    Parameters
    ----------
    affine : (4, 4) float64
        Index (z, y, x, 1) -> world mm.
    dim_size : mapping
        Names and lengths of the last three axes, in order.
    names : tuple of str
        Names of the coordinates along world x, y and z.
    """

    def __init__(
        self, affine: NDArray[np.float64], dim_size: Mapping[str, int], names: tuple[str, str, str]
    ) -> None:
        super().__init__(names, dim_size, np.dtype(np.float64))
        self.affine = np.asarray(affine, np.float64)

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """World coordinates of positions given in indices."""
        at = [np.asarray(dim_positions[dim], np.float64) for dim in self.dims]
        rows = self.affine[:3]
        return {
            name: row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]
            for name, row in zip(self.coord_names, rows, strict=True)
        }

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Positions in indices, with fractions, of world coordinates."""
        world = np.stack(
            np.broadcast_arrays(*[np.asarray(coord_labels[name]) for name in self.coord_names])
        )
        centred = world - self.affine[:3, 3].reshape(3, *[1] * (world.ndim - 1))
        index = np.tensordot(np.linalg.inv(self.affine[:3, :3]), centred, axes=1)
        return dict(zip(self.dims, index, strict=True))

    def equals(self, other: CoordinateTransform, **_: Any) -> bool:
        """Whether both give every voxel the same place."""
        return (
            isinstance(other, WorldTransform)
            and self.dim_size == other.dim_size
            and np.array_equal(self.affine, other.affine)
        )
