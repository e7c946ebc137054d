"""Zstandard frames whose size is known beforehand. Part of the format (SPEC sections 8 and 9)."""

from __future__ import annotations

import numpy as np
from numcodecs import Zstd

from psc_volumetric.errors import FormatError

__all__ = ["frame_size", "pack_frame", "unpack_frame"]

ZSTD_LEVEL = 9
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def pack_frame(data: bytes, level: int = ZSTD_LEVEL) -> bytes:
    """One Zstandard frame (RFC 8878) that states the size of its content."""
    return bytes(Zstd(level=level).encode(data))


def unpack_frame(data: bytes, nbytes: int, what: str) -> bytes:
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
