"""Coding without a network: byte planes under Zstandard, and the map of special values.

Part of the format (SPEC sections 8 and 9). Zstandard is RFC 8878.
"""

from __future__ import annotations

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["SpecialMap", "compress_lossless", "decompress_lossless", "frame_size"]

ZSTD_LEVEL = 9
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def compress_lossless(values: NDArray[np.generic]) -> bytes:
    """Byte planes of ``values`` (C order, least significant byte first) as one Zstandard frame."""
    items = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    planes = items.reshape(-1, values.dtype.itemsize).T
    return bytes(Zstd(level=ZSTD_LEVEL).encode(np.ascontiguousarray(planes)))


def decompress_lossless(
    data: bytes, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, what: str
) -> NDArray[np.generic]:
    """Inverse of :func:`compress_lossless`.

    Raises
    ------
    FormatError
        Not a Zstandard frame, or not of the size the header promises.
    """
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    planes = np.frombuffer(_zstd_exact(data, nbytes, what), np.uint8)
    items = np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T)
    if dtype == np.dtype("bool") and items.max(initial=0) > 1:
        raise FormatError(f"{what}: a boolean byte is neither 0 nor 1", kind="bad-payload")
    return items.reshape(-1).view(dtype).reshape(shape)


def _zstd_exact(data: bytes, nbytes: int, what: str) -> bytes:
    """Decompress one frame whose header promises exactly ``nbytes``.

    The promise is compared before anything is allocated. The library then fails when the frame
    holds more or less than it promised; a second frame would leave its place in ``data``.
    """
    promised = frame_size(data)
    if promised != nbytes:
        raise FormatError(
            f"{what}: expected one Zstandard frame of {nbytes} bytes, found "
            f"{'another thing' if promised is None else f'{promised} bytes'}",
            kind="bad-payload",
            hint="the chunk is damaged, run `psc-archive verify`",
        )
    target = np.empty(nbytes, np.uint8)
    try:
        Zstd().decode(data, out=target)
    except (RuntimeError, ValueError) as error:
        raise FormatError(
            f"{what}: Zstandard payload does not decode to {nbytes} bytes ({error})",
            kind="bad-payload",
            hint="the chunk is damaged, run `psc-archive verify`",
        ) from error
    return target.tobytes()


def frame_size(data: bytes) -> int | None:
    """Content size in a Zstandard frame's header (RFC 8878 section 3.1.1.1); None if absent."""
    if data[:4] != ZSTD_MAGIC or len(data) < 5:
        return None
    descriptor = data[4]
    single, code = bool(descriptor & 0x20), descriptor >> 6
    width = (1 if single else 0, 2, 4, 8)[code]
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    field = data[start : start + width]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _special_mask(
    values: NDArray[np.generic], special_values: tuple[float, ...]
) -> NDArray[np.bool_]:
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
        special = values[_special_mask(values, special_values)]
        return len(np.unique(_bits(special))) <= c.MAX_SPECIAL_VALUES

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
        mask = _special_mask(values, special_values)
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
        out.raw(bytes(Zstd(level=ZSTD_LEVEL).encode(np.ascontiguousarray(self.index))))
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
        plane = _zstd_exact(rest, int(np.prod(shape)), "special values")
        index = np.frombuffer(plane, np.uint8).reshape(shape)
        if int(index.max(initial=0)) > count:
            raise FormatError("special values: index past the table", kind="bad-payload")
        return cls(patterns, index)
