"""What decodes a part of a kept original, by the name that the archive gives it (SPEC 11.14).

Each function takes the bytes of a file and the number of a part: a page, a unit or a key frame.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, PscError
from psc_volumetric.extras import require

__all__ = ["DECODERS", "WHOLE", "decoded"]

_NO_SENSE = (
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    OSError,
    struct.error,
)


def _png(data: bytes, number: int) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(data))


def _jpegxl(data: bytes, number: int) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpegxl_decode(data, keeporientation=True, numthreads=1))


def _tiff(data: bytes, number: int) -> NDArray[Any]:
    require("images", "reading values of a TIFF that was kept")
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(data)) as file:
        return np.asarray(file.pages[number].asarray())


def _fits(data: bytes, number: int) -> NDArray[Any]:
    require("fits", "reading values of a FITS file that was kept")
    from astropy.io import fits

    with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as units:
        return np.asarray(units[number].data)


def _video(data: bytes, number: int) -> NDArray[Any]:
    require("video", "reading frames of a video that was kept")
    import av

    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        wanted = number + (stream.start_time or 0)
        container.seek(wanted, stream=stream)
        for frame in container.decode(stream):
            if frame.pts == wanted:
                deep = max(part.bits for part in frame.format.components) > 8
                return np.asarray(frame.to_ndarray(format="rgb48le" if deep else "rgb24"))
    raise ValueError(f"no key frame at {number}")


DECODERS: Mapping[str, Callable[[bytes, int], NDArray[Any]]] = MappingProxyType(
    {"png": _png, "jpegxl": _jpegxl, "tiff": _tiff, "fits": _fits, "video": _video}
)
WHOLE = frozenset(("fits",))  # a part is a whole variable


def decoded(name: str, data: bytes, number: int, dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """One part in native byte order; bits as bytes, integers unsigned by convention as ``dtype``.

    Raises
    ------
    FormatError : an unknown decoder (kind ``"unknown-configuration"``), or the part cannot be
        decoded (``"bad-payload"``).
    ExtraMissingError : a library that reads it is not installed.
    """
    if name not in DECODERS:
        raise FormatError(
            f"{where}: expected a decoder among {sorted(DECODERS)}, found {name!r}",
            kind="unknown-configuration",
            hint="the archive was written by a newer version, or is damaged",
        )
    try:
        values = DECODERS[name](data, number)
    except PscError:
        raise
    except _NO_SENSE as error:
        raise FormatError(
            f"{where}: it cannot be decoded ({type(error).__name__})",
            kind="bad-payload",
            hint="run `psc-archive verify`; `restore` gives the file back",
        ) from error
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if {values.dtype.kind, dtype.kind} == {"i", "u"} and values.dtype.itemsize == dtype.itemsize:
        word = np.dtype(f"u{dtype.itemsize}")
        highest = word.type(1 << (8 * dtype.itemsize - 1))
        values = (np.ascontiguousarray(values).view(word) ^ highest).view(dtype)
    return values
