"""The coder ``zstd``: byte planes under Zstandard. Part of the format (SPEC section 8.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.frames import pack_frame, unpack_frame
from psc_volumetric.errors import FormatError

__all__ = ["compress_lossless", "decompress_lossless"]


def compress_lossless(values: NDArray[np.generic]) -> bytes:
    """Byte planes of ``values`` (C order, least significant byte first) as one Zstandard frame."""
    items = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    planes = items.reshape(-1, values.dtype.itemsize).T
    return pack_frame(np.ascontiguousarray(planes).tobytes())


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
    planes = np.frombuffer(unpack_frame(data, nbytes, what), np.uint8)
    items = np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T)
    if dtype == np.dtype("bool") and items.max(initial=0) > 1:
        raise FormatError(f"{what}: a boolean byte is neither 0 nor 1", kind="bad-payload")
    return items.reshape(-1).view(dtype).reshape(shape)
