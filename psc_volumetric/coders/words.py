"""Values as integers of at most 32 bits, which the context coder takes. Part of the format.

SPEC section 8.9: keys in the order of the values; those of 64 bits are two words, each
with a stream of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldReader, FieldWriter
from psc_volumetric.errors import FormatError
from psc_volumetric.values.ordered_floats import (
    float_keys,
    floats_from_keys,
    join_words,
    split_words,
)

if TYPE_CHECKING:
    from psc_volumetric.coders.context.given import Cells

__all__ = [
    "cells_of",
    "fixed_point",
    "from_words",
    "joined_streams",
    "parted_streams",
    "reference_words",
    "words_of",
]

Values = NDArray[np.generic]
Integers = NDArray[np.int64]

REFERENCE_BITS = 4
TOP_BIT = np.uint64(1 << 63)
LOWEST_WORD, HIGHEST_WORD = -(1 << 31), (1 << 31) - 1


def joined_streams(streams: list[bytes]) -> bytes:
    """One stream, or two with the size of the first before it."""
    out = FieldWriter()
    for stream in streams[:-1]:
        out.varint(len(stream))
        out.raw(stream)
    out.raw(streams[-1])
    return out.getvalue()


def parted_streams(data: bytes, dtype: np.dtype[np.generic], what: str) -> list[bytes]:
    """Inverse of :func:`joined_streams`."""
    if dtype.itemsize < 8:
        return [data]
    fields = FieldReader(data, what=what)
    high = fields.raw(fields.varint(limit=len(data), name="length of the upper words"))
    return [high, fields.raw(len(data) - fields.offset)]


def cells_of(reference: Values | None, known: list[Integers]) -> Cells:
    """What the next word of each key can be, given the words before it."""
    from psc_volumetric.coders.context.given import Cells

    assert reference is not None  # this coder always has one
    ends = [words_of(end) for end in reference]
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


def words_of(values: Values) -> list[Integers]:
    """Keys as one array, or of 64 bits as upper and lower words."""
    keys = _keys(values)
    return list(split_words(keys)) if values.dtype.itemsize == 8 else [keys]


def reference_words(reference: Values | None) -> list[Integers | None]:
    """Those of a reference, where there is one."""
    return [None, None] if reference is None else list(words_of(reference))


def from_words(words: list[Integers], dtype: np.dtype[np.generic], *, what: str) -> Values:
    """Inverse of :func:`words_of`; FormatError when a number is none of the dtype."""
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


def fixed_point(reference: Integers | None) -> NDArray[np.int32] | None:
    """Keys with the fraction bits the context coder takes references in, saturating."""
    if reference is None:
        return None
    top = (1 << 31) - 1
    fixed: NDArray[np.int32] = np.clip(reference << REFERENCE_BITS, -top, top).astype("<i4")
    return fixed
