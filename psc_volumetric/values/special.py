"""Voxels that are no measurements, kept exactly. Part of the format (SPEC section 9)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.frames import pack_frame, unpack_frame
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["SpecialMap", "special_mask"]


def special_mask(
    values: NDArray[np.generic], special_values: tuple[float, ...]
) -> NDArray[np.bool_]:
    """Where stored values are special: not finite, or one of ``special_values``."""
    mask = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        mask |= ~np.isfinite(values)
    for special in special_values:
        if not np.isfinite(special):
            continue
        if values.dtype.kind in "iu":
            info = np.iinfo(values.dtype.str)
            if special != int(special) or not info.min <= special <= info.max:
                continue  # no stored value can equal it
        mask |= values == np.asarray(special).astype(values.dtype)
    return mask


def _bits(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.view(f"<u{values.dtype.itemsize}")


class SpecialMap:
    """Voxels that are not measurements: fill values, padding, NaN, infinities.

    They are kept exactly, as an index per voxel into a table of at most 15 bit patterns, and
    replaced by their nearest measured neighbour along x before the prior sees the tile.
    """

    def __init__(self, patterns: NDArray[np.generic], index: NDArray[np.uint8]) -> None:
        self.patterns, self.index = patterns, index

    @staticmethod
    def fits(values: NDArray[np.generic], special_values: tuple[float, ...]) -> bool:
        """Whether the special voxels of ``values`` have at most 15 bit patterns."""
        special = values[special_mask(values, special_values)]
        return len(np.unique(_bits(special))) <= c.MAX_SPECIAL_VALUES

    def part(self, box: tuple[slice, slice, slice]) -> SpecialMap | None:
        """The map of a part of the voxels, a copy; None when there is none among them."""
        index = self.index[box]
        return SpecialMap(self.patterns, index.copy()) if index.any() else None

    @classmethod
    def find(
        cls, values: NDArray[np.generic], special_values: tuple[float, ...]
    ) -> SpecialMap | None:
        """Locate special voxels; None when there are none.

        Raises
        ------
        ParameterError
            More patterns than the table holds; see :meth:`fits`.
        """
        mask = special_mask(values, special_values)
        if not mask.any():
            return None
        patterns, inverse = np.unique(_bits(values[mask]), return_inverse=True)
        if len(patterns) > c.MAX_SPECIAL_VALUES:
            raise ParameterError(
                f"special values: a brick holds {c.MAX_SPECIAL_VALUES} patterns, "
                f"found {len(patterns)}",
                kind="too-many-special",
                hint="code the brick with the lossless method",
            )
        index = np.zeros(values.shape, np.uint8)
        index[mask] = inverse.astype(np.uint8) + 1
        return cls(patterns.view(values.dtype), index)

    def fill(self, values: NDArray[np.generic], fallback: float) -> NDArray[np.generic]:
        """Copy of ``values`` with special voxels replaced by measured ones to their left or right.

        Rows without any measured voxel take ``fallback``. Encoder only.
        """
        out = values.copy().reshape(-1, values.shape[-1])
        bad = self.index.reshape(out.shape) > 0
        columns = np.arange(out.shape[1])
        left = np.maximum.accumulate(np.where(bad, -1, columns), axis=1)
        right = np.minimum.accumulate(np.where(bad, out.shape[1], columns)[:, ::-1], axis=1)
        right = right[:, ::-1]
        source = np.where(left >= 0, left, np.where(right < out.shape[1], right, 0))
        filled = np.take_along_axis(out, source, axis=1)
        filled[bad.all(axis=1)] = np.asarray(fallback).astype(values.dtype)
        return filled.reshape(values.shape)

    def apply(self, values: NDArray[np.generic], selection: tuple[slice, ...]) -> None:
        """Write the special patterns of ``selection`` into ``values`` (same shape) in place."""
        index = self.index[selection]
        for number, pattern in enumerate(self.patterns, start=1):
            values[index == number] = pattern

    def pack(self) -> bytes:
        """Bytes of the ``special`` section."""
        out = FieldWriter()
        out.varint(len(self.patterns))
        out.raw(self.patterns.tobytes())
        out.raw(pack_frame(np.ascontiguousarray(self.index).tobytes()))
        return out.getvalue()

    @classmethod
    def unpack(
        cls, data: bytes, shape: tuple[int, int, int], dtype: np.dtype[np.generic]
    ) -> SpecialMap | None:
        """Parse the section; an empty one means no special values."""
        if not data:
            return None
        fields = FieldReader(data, what="special values")
        count = fields.varint(limit=c.MAX_SPECIAL_VALUES, name="special patterns")
        patterns = np.frombuffer(fields.raw(count * dtype.itemsize), dtype)
        rest = fields.raw(len(data) - fields.offset)
        plane = unpack_frame(rest, int(np.prod(shape)), "special values")
        index = np.frombuffer(plane, np.uint8).reshape(shape)
        if int(index.max(initial=0)) > count:
            raise FormatError("special values: index past the table", kind="bad-payload")
        return cls(patterns, index)
