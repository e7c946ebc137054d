"""Coders of exact layers behind one registry: arrays to bytes and back. Part of the format.

SPEC sections 8 and 8.9. Which coder an encoder takes is its own choice (it tries those that suit
and keeps the smallest); a decoder needs the one that the layer names. Coders that come through
imagecodecs are loaded when the first array needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.coders.images import ImageCoder, PcodecCoder
from psc_volumetric.coders.zstd import compress_lossless, decompress_lossless
from psc_volumetric.errors import FormatError
from psc_volumetric.values.ordered_floats import (
    float_keys,
    floats_from_keys,
    join_words,
    split_words,
)

if TYPE_CHECKING:
    from psc_volumetric.coders.context.given import Cells

__all__ = ["EXACT_CODERS", "LIGHT_CODERS", "Coder", "wrapped_difference", "wrapped_sum"]

Values = NDArray[np.generic]
Integers = NDArray[np.int64]
Triple = tuple[int, int, int]

REFERENCE_BITS = 4
TOP_BIT = np.uint64(1 << 63)
LOWEST_WORD, HIGHEST_WORD = -(1 << 31), (1 << 31) - 1


class Coder(Protocol):
    """Codes arrays of three axes without loss."""

    def suits(self, values: Values) -> bool:
        """Whether this coder can take ``values``."""
        ...

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Bytes of ``values``; ``reference`` has their dtype, and a shape as the coder says."""
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
    """Our own context coder (SPEC section 15) on keys; 64 bits as two words (SPEC section 8.3).

    Parameters
    ----------
    is_light : bool
        Which model is written; both are read.
    """

    def __init__(self, *, is_light: bool = False) -> None:
        self._is_light = is_light

    def suits(self, values: Values) -> bool:
        """Always."""
        return True

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code the keys of ``values``, predicted with the help of those of ``reference``."""
        from psc_volumetric.coders.context.coder import encode_integers

        streams = [
            encode_integers(word, reference=_fixed_point(near), is_light=self._is_light)
            for word, near in zip(_words(values), _reference_words(reference), strict=False)
        ]
        return _joined(streams)

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
        from psc_volumetric.coders.context.coder import decode_integers

        near = _reference_words(reference)
        words = [
            decode_integers(stream, shape, reference=_fixed_point(one), what=what)
            for stream, one in zip(_parted(data, dtype, what), near, strict=False)
        ]
        return _from_words(words, dtype, what=what)


class RefinementCoder:
    """The context coder for values of which a level below says where they lie (SPEC section 8.9).

    The reference is (2, z, y, x): the least and the largest that each value can be. Parameters are
    those of `ContextCoder`.
    """

    def __init__(self, *, is_light: bool = False) -> None:
        self._is_light = is_light

    def suits(self, values: Values) -> bool:
        """Whether a level can be within a bound of ``values``."""
        return values.dtype.kind in "iuf"

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code the keys of ``values``; ParameterError if some lie outside."""
        from psc_volumetric.coders.context.coder import encode_integers

        words, streams = _words(values), []
        for number, word in enumerate(words):
            cells = _cells(reference, words[:number])
            streams.append(encode_integers(word, cells=cells, is_light=self._is_light))
        return _joined(streams)

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
        from psc_volumetric.coders.context.coder import decode_integers

        words: list[Integers] = []
        for stream in _parted(data, dtype, what):
            cells = _cells(reference, words)
            words.append(decode_integers(stream, shape, cells=cells, what=what))
        return _from_words(words, dtype, what=what)


def _joined(streams: list[bytes]) -> bytes:
    """One stream, or two with the size of the first before it."""
    out = FieldWriter()
    for stream in streams[:-1]:
        out.varint(len(stream))
        out.raw(stream)
    out.raw(streams[-1])
    return out.getvalue()


def _parted(data: bytes, dtype: np.dtype[np.generic], what: str) -> list[bytes]:
    """Inverse of :func:`_joined`."""
    if dtype.itemsize < 8:
        return [data]
    fields = FieldReader(data, what=what)
    high = fields.raw(fields.varint(limit=len(data), name="length of the upper words"))
    return [high, fields.raw(len(data) - fields.offset)]


def _cells(reference: Values | None, known: list[Integers]) -> Cells:
    """What the next word of each key can be, given the words before it."""
    from psc_volumetric.coders.context.given import Cells

    assert reference is not None  # this coder always has one
    ends = [_words(end) for end in reference]
    least, most = (words[len(known)] for words in ends)
    if known:
        least = np.where(known[0] == ends[0][0], least, LOWEST_WORD)
        most = np.where(known[0] == ends[1][0], most, HIGHEST_WORD)
    return Cells(least, most)


def _keys(values: Values) -> Integers:
    """Integers in the order of the values, within the signed width of the dtype or of 64 bits."""
    if values.dtype.kind == "f":
        return float_keys(values)  # type: ignore[arg-type]
    if values.dtype == np.dtype("<u8"):
        return (values ^ TOP_BIT).view("<i8")  # type: ignore[operator, no-any-return]
    return values.astype(np.int64)


def _words(values: Values) -> list[Integers]:
    """Keys as one array, or of 64 bits as upper and lower words."""
    keys = _keys(values)
    return list(split_words(keys)) if values.dtype.itemsize == 8 else [keys]


def _reference_words(reference: Values | None) -> list[Integers | None]:
    return [None, None] if reference is None else list(_words(reference))


def _from_words(words: list[Integers], dtype: np.dtype[np.generic], *, what: str) -> Values:
    """Inverse of :func:`_words`; FormatError when a number is none of the dtype."""
    low, high = _range(dtype)
    if any(word.min() < low or word.max() > high for word in words):
        raise FormatError(f"{what}: a number is out of range of {dtype}", kind="bad-payload")
    keys = join_words(words[0], words[1]) if len(words) > 1 else words[0]
    if dtype.kind == "f":
        return floats_from_keys(keys, dtype)
    if dtype == np.dtype("<u8"):
        return keys.view("<u8") ^ TOP_BIT
    values: Values = keys.astype(dtype)
    return values


def _range(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    """Smallest and largest number of one word."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f" or dtype.itemsize == 8:
        return LOWEST_WORD, HIGHEST_WORD
    info = np.iinfo(dtype.str)
    return int(info.min), int(info.max)


def _fixed_point(reference: Integers | None) -> NDArray[np.int32] | None:
    """Keys with the fraction bits the context coder takes references in, saturating."""
    if reference is None:
        return None
    top = (1 << 31) - 1
    fixed: NDArray[np.int32] = np.clip(reference << REFERENCE_BITS, -top, top).astype("<i4")
    return fixed


EXACT_CODERS: dict[str, Coder] = {
    "zstd": ZstdCoder(),
    "context": ContextCoder(),
    "jpegxl": ImageCoder("jpegxl"),
    "jpegls": ImageCoder("jpegls"),
    "htj2k": ImageCoder("htj2k"),
    "jpeg2000": ImageCoder("jpeg2000"),
    "pcodec": PcodecCoder(),
    "refinement": RefinementCoder(),
}
LIGHT_CODERS: dict[str, Coder] = EXACT_CODERS | {
    "context": ContextCoder(is_light=True),
    "refinement": RefinementCoder(is_light=True),
}
