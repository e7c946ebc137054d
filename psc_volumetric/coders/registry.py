"""Coders of exact layers behind one registry: arrays to bytes and back. Part of the format.

SPEC sections 8, 8.9 and 8.10. Which coder an encoder takes is its own choice (it tries those that
suit and keeps the smallest); a decoder needs the one that the layer names. Coders that come through
imagecodecs are loaded when the first array needs them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.context.way import FORESEEN, LIGHT, PLAIN, Way
from psc_volumetric.coders.images import ImageCoder, PcodecCoder
from psc_volumetric.coders.slicewise import SliceDecoder
from psc_volumetric.coders.words import (
    cells_of,
    fixed_point,
    joined_streams,
    reference_words,
    words_of,
)
from psc_volumetric.coders.zstd import compress_lossless, decompress_lossless
from psc_volumetric.errors import FormatError

__all__ = ["EXACT_CODERS", "LIGHT_CODERS", "Coder", "wrapped_difference", "wrapped_sum"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]


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
    name : str
        ``"context"``, or ``"neural"`` for one whose streams may name a network.
    way : Way
        Which model is written; all that the coder may have are read.
    """

    def __init__(self, name: str, way: Way = PLAIN) -> None:
        self._name, self._way = name, way

    def suits(self, values: Values) -> bool:
        """Always."""
        return True

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code the keys of ``values``, predicted with the help of those of ``reference``."""
        from psc_volumetric.coders.context.coder import encode_integers

        streams = [
            encode_integers(word, reference=fixed_point(near), way=self._way)
            for word, near in zip(words_of(values), reference_words(reference), strict=False)
        ]
        return joined_streams(streams)

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
        found = SliceDecoder(data, shape, dtype, coder=self._name, what=what)
        return found.slices(shape[0], reference, 0)


class RefinementCoder(ContextCoder):
    """The context coder for values of which a level below says where they lie (SPEC section 8.9).

    The reference is (2, z, y, x): the least and the largest that each value can be. Parameters are
    those of `ContextCoder`; the names are ``"refinement"`` and ``"neural-refinement"``.
    """

    def suits(self, values: Values) -> bool:
        """Whether a level can be within a bound of ``values``."""
        return values.dtype.kind in "iuf"

    def encode(self, values: Values, reference: Values | None) -> bytes:
        """Code the keys of ``values``; ParameterError if some lie outside."""
        from psc_volumetric.coders.context.coder import encode_integers

        words, streams = words_of(values), []
        for number, word in enumerate(words):
            cells = cells_of(reference, words[:number])
            streams.append(encode_integers(word, cells=cells, way=self._way))
        return joined_streams(streams)


EXACT_CODERS: dict[str, Coder] = {
    "zstd": ZstdCoder(),
    "context": ContextCoder("context"),
    "jpegxl": ImageCoder("jpegxl"),
    "jpegls": ImageCoder("jpegls"),
    "htj2k": ImageCoder("htj2k"),
    "jpeg2000": ImageCoder("jpeg2000"),
    "pcodec": PcodecCoder(),
    "refinement": RefinementCoder("refinement"),
    "neural": ContextCoder("neural", FORESEEN),
    "neural-refinement": RefinementCoder("neural-refinement", FORESEEN),
}
LIGHT_CODERS: dict[str, Coder] = EXACT_CODERS | {
    "context": ContextCoder("context", LIGHT),
    "refinement": RefinementCoder("refinement", LIGHT),
}
