"""Coders of others, through imagecodecs: still images of integers, and Pcodec. Part of the format.

SPEC sections 8.4 and 8.5. imagecodecs is loaded at first use. What a payload says about its size
is compared with the segment before its library may allocate from it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError

__all__ = ["ImageCoder", "PcodecCoder"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

LONGEST_SIDE = 65535  # rows and columns of all four image formats
JPEGXL_EFFORT = 3
SAMPLE_TYPES: dict[int, np.dtype[np.unsignedinteger]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
}
PREFIX = 9  # minimum, bytes per sample


class ImageCoder:
    """Integers whose range fits 16 bits, as one tall greyscale image.

    The payload is the smallest value (8 bytes, two's complement), the bytes per sample (1 or 2)
    and one code stream of ``value - smallest`` with z * y rows.

    Parameters
    ----------
    name : str
        ``"jpegxl"``, ``"jpegls"``, ``"htj2k"`` or ``"jpeg2000"``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def suits(self, values: Values) -> bool:
        """Integers with a range below 2^16, and no side that is too long."""
        z, y, x = values.shape
        if values.dtype.kind not in "iu" or max(z * y, x) > LONGEST_SIDE:
            return False
        return int(values.max()) - int(values.min()) < 1 << 16

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code ``values``; there is no way to use a reference."""
        assert reference is None
        low = int(values.min())
        span = int(values.max()) - low
        wide = values.astype(np.uint64) - np.uint64(low & 0xFFFFFFFFFFFFFFFF)
        itemsize = 1 if span < 256 else 2
        image = wide.astype(SAMPLE_TYPES[itemsize]).reshape(-1, values.shape[-1])
        prefix = struct.pack("<QB", low & 0xFFFFFFFFFFFFFFFF, itemsize)
        return prefix + bytes(_encoder(self.name)(image))

    def decode(
        self,
        data: bytes,
        shape: Triple,
        dtype: np.dtype[np.generic],
        reference: Values | None,
        *,
        what: str,
    ) -> Values:
        """Inverse of :meth:`encode`."""
        if reference is not None or dtype.kind not in "iu" or len(data) <= PREFIX:
            raise _bad(what, self.name, f"{len(data)} bytes for {dtype}")
        low, itemsize = struct.unpack("<QB", data[:PREFIX])
        if itemsize not in SAMPLE_TYPES:
            raise _bad(what, self.name, f"samples of {itemsize} bytes")
        z, y, x = shape
        if max(z * y, x) > LONGEST_SIDE:
            raise _bad(what, self.name, f"an image of {z * y} x {x}")
        image = np.empty((z * y, x), SAMPLE_TYPES[itemsize])
        stream = data[PREFIX:]
        if self.name == "jpeg2000" and stream[8:24] != struct.pack(">IIII", x, z * y, 0, 0):
            raise _bad(what, self.name, "another image size")
        _call(_decoder(self.name), stream, image, what, self.name)
        values: Values = (image.astype(np.uint64) + np.uint64(low)).astype(f"<u{dtype.itemsize}")
        return values.view(dtype).reshape(shape)


class PcodecCoder:
    """Numbers of any kind but booleans in Pcodec's standalone format."""

    def suits(self, values: Values) -> bool:
        """Everything but booleans."""
        return values.dtype.kind in "iuf"

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code ``values`` in C order; there is no way to use a reference."""
        assert reference is None
        import imagecodecs

        return bytes(imagecodecs.pcodec_encode(np.ascontiguousarray(values)))

    def decode(
        self,
        data: bytes,
        shape: Triple,
        dtype: np.dtype[np.generic],
        reference: Values | None,
        *,
        what: str,
    ) -> Values:
        """Inverse of :meth:`encode`."""
        if reference is not None or dtype.kind not in "iuf":
            raise _bad(what, "pcodec", f"{dtype}")
        import imagecodecs

        values = np.empty(shape, dtype)
        _call(imagecodecs.pcodec_decode, data, values, what, "pcodec")
        return values


def _encoder(name: str) -> Callable[[Values], Any]:
    import imagecodecs

    if name == "jpegxl":
        return lambda image: imagecodecs.jpegxl_encode(image, lossless=True, effort=JPEGXL_EFFORT)
    if name == "jpegls":
        return lambda image: imagecodecs.jpegls_encode(image)
    if name == "htj2k":
        return lambda image: imagecodecs.htj2k_encode(image, reversible=True)
    return lambda image: imagecodecs.jpeg2k_encode(
        image, level=0, reversible=True, codecformat="j2k"
    )


def _decoder(name: str) -> Callable[..., Any]:
    import imagecodecs

    decoders: dict[str, Callable[..., Any]] = {
        "jpegxl": imagecodecs.jpegxl_decode,
        "jpegls": imagecodecs.jpegls_decode,
        "htj2k": imagecodecs.htj2k_decode,
        "jpeg2000": imagecodecs.jpeg2k_decode,
    }
    return decoders[name]


def _call(decode: Callable[..., Any], data: bytes, out: Values, what: str, name: str) -> None:
    """Let a library decode into ``out``; it compares shape and dtype before it decodes."""
    try:
        found = decode(data, out=out)
    except (ValueError, RuntimeError, TypeError, MemoryError, OverflowError) as error:
        raise _bad(what, name, str(error)) from error
    if found is not out:
        raise _bad(what, name, f"an array {getattr(found, 'shape', None)}")


def _bad(what: str, name: str, problem: str) -> FormatError:
    return FormatError(
        f"{what}: payload of coder {name} cannot be decoded ({problem})",
        kind="bad-payload",
        hint="the chunk is damaged, run `psc-archive verify`",
    )
