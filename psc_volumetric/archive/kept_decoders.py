"""What decodes a part of a kept original, by the name that the archive gives it (SPEC 11.14).

Each function takes the bytes of a file, the number of a part (a page, a unit or a key frame) and
what the part has to be. A file that says it is something else is refused before it is decoded.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DECODERS", "WHOLE", "Part", "decoded_here"]

MOST_IN_TILE = 1 << 24  # values, whatever the part is
# Of video; FFmpeg also reads lists of other files.
CONTAINERS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}

_NO_SENSE = (
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    OSError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Part:
    """What a decoded part has to be. It is known before a decoder may take memory for it.

    Attributes
    ----------
    shape : tuple of int
        As the decoder gives it.
    dtype : numpy.dtype
        Of the variable.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def check(self, shape: Any, itemsize: int) -> None:
        """Refuse a part that says it is another one (ValueError)."""
        if tuple(shape) != self.shape or itemsize != self.dtype.itemsize:
            raise ValueError(f"{itemsize} bytes of {tuple(shape)}")

    def empty(self) -> NDArray[Any]:
        """Room for it, which a decoder fills or refuses."""
        return np.empty(self.shape, self.dtype)


def _png(data: bytes, number: int, part: Part) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(data, out=part.empty()))


def _jpegxl(data: bytes, number: int, part: Part) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(
        imagecodecs.jpegxl_decode(data, keeporientation=True, numthreads=1, out=part.empty())
    )


def _tiff(data: bytes, number: int, part: Part) -> NDArray[Any]:
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(data)) as file:
        page = file.pages[number]
        part.check(page.shape, np.dtype(page.dtype).itemsize)
        _check_tiles(page.chunks, part)
        return np.asarray(page.asarray())


def _fits(data: bytes, number: int, part: Part) -> NDArray[Any]:
    from astropy.io import fits

    with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as units:
        unit = units[number]
        part.check(unit.shape, abs(int(unit.header["BITPIX"])) // 8)
        if isinstance(unit, fits.CompImageHDU):
            _check_tiles(unit.tile_shape, part)
            _check_gzip_tiles(data, number, math.prod(map(int, unit.tile_shape)))
        return np.asarray(unit.data)


def _check_gzip_tiles(data: bytes, number: int, voxels: int) -> None:
    """Refuse gzip streams that hold more than their tile (ValueError): astropy reads all of it."""
    from astropy.io import fits

    with fits.open(io.BytesIO(data), disable_image_compression=True) as units:
        unit = units[number]
        names = set(unit.columns.names) & {"COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"}
        for name in sorted(names):
            for tile in unit.data[name]:
                packed = np.asarray(tile).tobytes()
                if packed[:2] == b"\x1f\x8b":
                    unpacker = zlib.decompressobj(wbits=31)
                    unpacker.decompress(packed, 8 * voxels)
                    if unpacker.decompress(unpacker.unconsumed_tail, 1):
                        raise ValueError(f"a tile of more than {8 * voxels} bytes")


def _check_tiles(tile: Iterable[int], part: Part) -> None:
    """Refuse tiles that are much larger than the part (ValueError)."""
    sizes = [int(size) for size in tile]
    voxels, whole = math.prod(sizes), math.prod(part.shape)
    if min(sizes, default=1) < 1 or voxels > max(2 * whole, MOST_IN_TILE):
        raise ValueError(f"tiles of {sizes}")


def _video(data: bytes, number: int, part: Part) -> NDArray[Any]:
    import av

    rows, columns = part.shape[:2]
    with av.open(io.BytesIO(data), "r", options=CONTAINERS) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(2 * rows * columns + MOST_IN_TILE)}
        stream.codec_context.skip_frame = "NONKEY"
        wanted = number + (stream.start_time or 0)
        container.seek(wanted, stream=stream)
        for frame in container.decode(stream):
            if frame.pts == wanted:
                deep = max(component.bits for component in frame.format.components) > 8
                part.check((frame.height, frame.width, 3), 2 if deep else 1)
                return np.asarray(frame.to_ndarray(format="rgb48le" if deep else "rgb24"))
    raise ValueError(f"no key frame at {number}")


DECODERS: Mapping[str, Callable[[bytes, int, Part], NDArray[Any]]] = MappingProxyType(
    {"png": _png, "jpegxl": _jpegxl, "tiff": _tiff, "fits": _fits, "video": _video}
)
WHOLE = frozenset(("fits",))  # a part is a whole variable


def _own_errors(name: str) -> tuple[type[Exception], ...]:
    """Errors of a decoder's library that are no built-in ones; some have no public name."""
    if name == "video":
        from av.error import FFmpegError

        return (FFmpegError,)
    if name == "fits":
        from astropy.io.fits import VerifyError

        decoders = sys.modules.get("astropy.io.fits.hdu.compressed._compression")
        own: type[Exception] = getattr(decoders, "CfitsioException", VerifyError)
        return VerifyError, own
    return ()


def decoded_here(name: str, data: bytes, number: int, part: Part) -> NDArray[Any]:
    """One part in native byte order and C order, decoded in this process.

    Raises
    ------
    ValueError : it cannot be decoded; the text is what the library raised.
    """
    foreseen: tuple[type[Exception], ...] = (*_NO_SENSE, *_own_errors(name))
    try:
        values = DECODERS[name](data, number, part)
    except foreseen as error:
        raise ValueError(type(error).__name__) from error
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
