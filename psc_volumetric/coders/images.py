"""Coders of others, through imagecodecs: still images of integers, and Pcodec. Part of the format.

SPEC sections 8.4 and 8.5. imagecodecs is loaded at first use. What a payload says about its image
is compared with the segment before its library sees it, and what the library gives back with a
checksum: some report no error when they stop half way.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.errors import ChecksumError, FormatError, ParameterError

__all__ = ["ImageCoder", "PcodecCoder"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

LONGEST_SIDE = 65535  # rows and columns of all four image formats
JPEGXL_EFFORT = 3
SAMPLE_TYPES: dict[int, np.dtype[np.unsignedinteger]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
}
LIBRARY_ERRORS = (ValueError, RuntimeError, TypeError, MemoryError, OverflowError)
PREFIX = 13  # smallest value, bytes per sample, CRC-32C of the samples


class ImageCoder:
    """Integers whose range fits 16 bits, as one tall greyscale image.

    The payload is the smallest value (8 bytes, two's complement), the bytes per sample (1 or 2),
    the CRC-32C of the samples, and one code stream of ``value - smallest`` with z * y rows.

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
        check = crc32c(image.tobytes())
        prefix = struct.pack("<QBI", low & 0xFFFFFFFFFFFFFFFF, itemsize, check)
        return prefix + _made(_encoder(self.name), image, self.name)

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
        low, itemsize, check = struct.unpack("<QBI", data[:PREFIX])
        if itemsize not in SAMPLE_TYPES:
            raise _bad(what, self.name, f"samples of {itemsize} bytes")
        z, y, x = shape
        if max(z * y, x) > LONGEST_SIDE:
            raise _bad(what, self.name, f"an image of {z * y} x {x}")
        stream = data[PREFIX:]
        if not HEADER_CHECKS[self.name](stream, z * y, x, itemsize):
            raise _bad(what, self.name, f"it is no image of {z * y} x {x}, {itemsize} bytes each")
        image = np.zeros((z * y, x), SAMPLE_TYPES[itemsize])
        _call(_decoder(self.name), stream, image, check, what, self.name)
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

        items = np.ascontiguousarray(values)
        check = struct.pack("<I", crc32c(items.tobytes()))
        return check + _made(imagecodecs.pcodec_encode, items, "pcodec")

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
        if reference is not None or dtype.kind not in "iuf" or len(data) <= 4:
            raise _bad(what, "pcodec", f"{len(data)} bytes for {dtype}")
        count = math.prod(shape)
        if not _is_pcodec(data[4:], count):
            raise _bad(what, "pcodec", f"it is no file of {count} numbers")
        import imagecodecs

        values = np.zeros(shape, dtype)
        check = int.from_bytes(data[:4], "little")
        _call(imagecodecs.pcodec_decode, data[4:], values, check, what, "pcodec")
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


def _made(encode: Callable[..., Any], values: Values, name: str) -> bytes:
    """Let a library encode; ParameterError (kind ``"coder-failed"``) when it cannot."""
    try:
        return bytes(encode(values))
    except LIBRARY_ERRORS as error:
        raise ParameterError(
            f"coder {name} cannot code an array {values.shape} of {values.dtype} ({error})",
            kind="coder-failed",
        ) from error


def _call(
    decode: Callable[..., Any], data: bytes, out: Values, check: int, what: str, name: str
) -> None:
    """Let a library decode into ``out``; it compares shape and dtype before it decodes."""
    try:
        found = decode(data, out=out)
    except LIBRARY_ERRORS as error:
        raise _bad(what, name, str(error)) from error
    if found is not out:
        raise _bad(what, name, f"an array {getattr(found, 'shape', None)}")
    if crc32c(out.tobytes()) != check:
        raise ChecksumError(
            f"{what}: coder {name} gave other values than the encoder had",
            kind="decoded-checksum",
            hint="the chunk is damaged, or this library decodes differently",
        )


def _is_jpeg2000(stream: bytes, rows: int, columns: int, itemsize: int) -> bool:
    """Whether a JPEG 2000 code stream begins with the SIZ marker of this image, in one tile."""
    size = struct.pack(">IIII", columns, rows, 0, 0)
    sample = struct.pack(">HBBB", 1, 8 * itemsize - 1, 1, 1)
    start = stream[:6] == b"\xff\x4f\xff\x51\0\x29"
    return start and stream[8:45] == size + size + sample


def _is_jpegls(stream: bytes, rows: int, columns: int, itemsize: int) -> bool:
    """Whether a JPEG-LS code stream is closed, and its headers are those of this image."""
    frame = struct.pack(">BHHBBBB", 8 * itemsize, rows, columns, 1, 1, 0x11, 0)
    at, found = 2, False
    if stream[:2] != b"\xff\xd8" or stream[-2:] != b"\xff\xd9":
        return False
    while stream[at : at + 2] in JPEGLS_HEADERS:
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + length]
        if stream[at : at + 2] == b"\xff\xf7":
            if body != frame or found:
                return False
            found = True
        at += 2 + length
        if stream[at : at + 2] == b"\xff\xda":
            return found
    return False


def _is_pcodec(stream: bytes, count: int) -> bool:
    """Whether a Pcodec file says that it holds ``count`` numbers.

    Its library takes memory for as many as the file says, and ends the process when there is none.
    """
    number_at = {2: 5, 3: 6}.get(stream[4] if len(stream) > 4 else 0)  # 3 has a type before it
    if stream[:4] != b"pco!" or number_at is None:
        return False
    word = int.from_bytes(stream[number_at : number_at + 9], "little")
    bits = (word & 63) + 1
    return word >> 6 & (1 << bits) - 1 == count


def _any_header(stream: bytes, rows: int, columns: int, itemsize: int) -> bool:
    """JPEG XL's library compares the image with the array it is given."""
    return True


JPEGLS_HEADERS = (b"\xff\xe8", b"\xff\xf7", b"\xff\xf8")
HEADER_CHECKS = {
    "jpegxl": _any_header,
    "jpegls": _is_jpegls,
    "htj2k": _is_jpeg2000,
    "jpeg2000": _is_jpeg2000,
}


def _bad(what: str, name: str, problem: str) -> FormatError:
    return FormatError(
        f"{what}: payload of coder {name} cannot be decoded ({problem})",
        kind="bad-payload",
        hint="the chunk is damaged, run `psc-archive verify`",
    )
