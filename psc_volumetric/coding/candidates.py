"""Coders of exact layers behind one registry: arrays to bytes and back. Part of the format.

SPEC section 8. Which coder an encoder takes is its own choice (it tries those that suit and keeps
the smallest); a decoder needs the one that the layer names. Coders that come through imagecodecs
are loaded when the first array needs them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coding.images import ImageCoder, PcodecCoder
from psc_volumetric.coding.plain import compress_lossless, decompress_lossless
from psc_volumetric.errors import FormatError

__all__ = ["EXACT_CODERS", "Coder", "wrapped_difference", "wrapped_sum"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

REFERENCE_BITS = 4


class Coder(Protocol):
    """Codes arrays of three axes without loss."""

    def suits(self, values: Values) -> bool:
        """Whether this coder can take ``values``."""
        ...

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Bytes of ``values``; ``reference`` has their shape and dtype."""
        ...

    def decode(
        self,
        data: bytes,
        shape: Triple,
        dtype: np.dtype[np.generic],
        reference: Values | None,
        *,
        what: str,
    ) -> Values:
        """Inverse of :meth:`encode`; FormatError when the bytes are something else."""
        ...


def wrapped_difference(values: Values, reference: Values) -> Values:
    """Difference of bit patterns modulo 2^w, folded so that small ones of both signs are small.

    With d the difference read as a signed number: 2 d for d >= 0, -2 d - 1 otherwise.
    """
    width = 8 * values.dtype.itemsize
    d = (_bits(values) - _bits(reference)).view(f"<i{values.dtype.itemsize}")
    folded: Values = ((d << 1) ^ (d >> (width - 1))).view(f"<u{values.dtype.itemsize}")
    return folded


def wrapped_sum(folded: Values, reference: Values) -> Values:
    """Inverse of :func:`wrapped_difference`; has the dtype of ``reference``."""
    bits = _bits(folded)
    one = bits.dtype.type(1)
    d = (bits >> one) ^ (~(bits & one) + one)
    total: Values = (d + _bits(reference)).view(reference.dtype)
    return total


def _bits(values: Values) -> NDArray[np.unsignedinteger]:
    bits: NDArray[np.unsignedinteger] = values.view(f"<u{values.dtype.itemsize}")
    return bits


class ZstdCoder:
    """Byte planes under Zstandard (SPEC section 8.2); takes anything."""

    def suits(self, values: Values) -> bool:
        """Always."""
        return True

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Byte planes of the values, or of their folded differences."""
        if reference is not None:
            values = wrapped_difference(values, reference)
        return compress_lossless(values)

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
        if reference is None:
            return decompress_lossless(data, shape, dtype, what=what)
        folded = decompress_lossless(data, shape, np.dtype(f"<u{dtype.itemsize}"), what=what)
        values = wrapped_sum(folded, np.ascontiguousarray(reference))
        if dtype == np.dtype("bool") and _bits(values).max(initial=0) > 1:
            raise FormatError(f"{what}: a boolean byte is neither 0 nor 1", kind="bad-payload")
        return values


class ContextCoder:
    """Our own residual coder (SPEC section 15): integers up to 32 bits, and float32 by keys."""

    def suits(self, values: Values) -> bool:
        """Everything up to four bytes."""
        return values.dtype.itemsize <= 4

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code the keys of ``values``, predicted with the help of those of ``reference``."""
        from psc_volumetric.coding.residual import encode_integers

        return encode_integers(to_keys(values), reference=_fixed_point(reference))

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
        from psc_volumetric.coding.residual import decode_integers

        if dtype.itemsize > 4:
            raise FormatError(f"{what}: coder context does not code {dtype}", kind="bad-payload")
        keys = decode_integers(data, shape, reference=_fixed_point(reference), what=what)
        return from_keys(keys, dtype, what=what)


def to_keys(values: Values) -> NDArray[np.int64]:
    """Integers in the order of the values (SPEC section 8.3)."""
    if values.dtype.kind == "f":
        bits = values.view("<i4").astype(np.int64)
        return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return values.astype(np.int64)


def from_keys(keys: NDArray[np.int64], dtype: np.dtype[np.generic], *, what: str) -> Values:
    """Inverse of :func:`to_keys`; FormatError when a key is none of the dtype."""
    if dtype.kind == "f":
        low, high = -(1 << 31), (1 << 31) - 1
    elif dtype.kind == "b":
        low, high = 0, 1
    else:
        low, high = int(np.iinfo(dtype.str).min), int(np.iinfo(dtype.str).max)
    if keys.min() < low or keys.max() > high:
        raise FormatError(f"{what}: a number is out of range of {dtype}", kind="bad-payload")
    if dtype.kind == "f":
        bits = np.where(keys < 0, keys ^ 0x7FFFFFFF, keys).astype("<i4")
        return bits.view(dtype)
    values: Values = keys.astype(dtype)
    return values


def _fixed_point(reference: Values | None) -> NDArray[np.int32] | None:
    """Keys with the fraction bits the residual coder takes references in, saturating."""
    if reference is None:
        return None
    top = (1 << 31) - 1
    fixed: NDArray[np.int32] = np.clip(to_keys(reference) << REFERENCE_BITS, -top, top).astype(
        "<i4"
    )
    return fixed


EXACT_CODERS: dict[str, Coder] = {
    "zstd": ZstdCoder(),
    "context": ContextCoder(),
    "jpegxl": ImageCoder("jpegxl"),
    "jpegls": ImageCoder("jpegls"),
    "htj2k": ImageCoder("htj2k"),
    "jpeg2000": ImageCoder("jpeg2000"),
    "pcodec": PcodecCoder(),
}
