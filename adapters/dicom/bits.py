"""Values and the bits beside them: BitsStored of a word are the value, the others are not.

A value is the low BitsStored bits of a word, sign-extended where PixelRepresentation says so: what
pydicom gives, also where HighBit claims another place. Each bit above them is remembered by rule:
always 0, always 1, a copy of the sign, or something of its own (an overlay of the old kind, junk),
whose plane is kept exactly, whatever happens to the values.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.base import Array

__all__ = [
    "BitUse",
    "SparePlanes",
    "bit_use",
    "find_use",
    "limits_of",
    "pack_planes",
    "usual_bits",
    "values_of",
    "words_of",
]

ZERO, ONE, SIGN, PLANE = "0", "1", "s", "p"


@dataclass(frozen=True)
class BitUse:
    """Type of the values, how many bits they take, and the rule of every bit above, from low.

    ``spare`` is a text of ``0``, ``1``, ``s`` (a copy of the sign) and ``p`` (a plane of its own).
    """

    dtype: str
    stored: int
    spare: str

    @property
    def plain(self) -> bool:
        """Whether words are the values, read as ``dtype``."""
        usual = SIGN if self.dtype[0] == "i" else ZERO
        return all(rule == usual for rule in self.spare)

    @property
    def planes(self) -> tuple[int, ...]:
        """Numbers of the bits that are kept as planes."""
        return tuple(self.stored + k for k, rule in enumerate(self.spare) if rule == PLANE)


def usual_bits(dtype: str, stored: int) -> BitUse:
    """Give the use of bits that a well-formed file has."""
    spare = 8 * np.dtype(dtype).itemsize - stored
    return BitUse(dtype, stored, (SIGN if dtype[0] == "i" else ZERO) * spare)


def find_use(dtype: str, stored: int, blocks: Iterable[Array]) -> BitUse:
    """Look at all words of a file and find the rule of every bit above the stored ones.

    Parameters
    ----------
    dtype : str
        Type of the values, ``"i2"``.
    stored : int
        BitsStored.
    blocks : iterable of arrays
        Words, unsigned or of ``dtype``.
    """
    word = np.dtype(dtype)
    unsigned = np.dtype(f"u{word.itemsize}")
    bits = range(stored, 8 * word.itemsize)
    zero, one, sign = (np.zeros((), unsigned) for _ in range(3))
    for block in blocks:
        words = np.ascontiguousarray(block).astype(unsigned.newbyteorder("="), copy=False).ravel()
        if not words.size:
            continue
        zero |= np.bitwise_or.reduce(words)
        one |= ~np.bitwise_and.reduce(words)
        top = (words >> unsigned.type(stored - 1)) & unsigned.type(1)
        spread = unsigned.type(0) - top  # all ones where the value is negative
        sign |= np.bitwise_or.reduce(words ^ spread)
    rules = []
    for bit in bits:
        mask = unsigned.type(1 << bit)
        if dtype[0] == "i" and not sign & mask:
            rules.append(SIGN)
        elif not zero & mask:
            rules.append(ZERO)
        else:
            rules.append(ONE if not one & mask else PLANE)
    return BitUse(dtype, stored, "".join(rules))


def limits_of(use: BitUse) -> tuple[int, int] | None:
    """Give the least and largest value that BitsStored can hold; None when the type says it."""
    kind, bits = use.dtype[0], use.stored
    if kind == "f" or bits >= 8 * np.dtype(use.dtype).itemsize:
        return None
    if kind == "u":
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def values_of(words: Array, use: BitUse) -> Array:
    """Give the values in words: their low bits, sign-extended; a new array of ``use.dtype``."""
    values: Array = words.astype(np.dtype(use.dtype))
    if use.plain or not use.spare:
        return values
    shift = len(use.spare)
    return np.asarray((values << shift) >> shift)


def words_of(values: Array, use: BitUse, planes: dict[int, Array]) -> Array:
    """Put values and the bits beside them together again.

    Parameters
    ----------
    values : array of ``use.dtype``
    use : BitUse
    planes : dict of bit number to array
        0 or 1 per word, for the bits with rule ``p``.
    """
    if use.plain or not use.spare:
        return values
    word = np.dtype(f"u{values.dtype.itemsize}")
    raw = np.ascontiguousarray(values).view(word)
    negative = (raw >> word.type(use.stored - 1)) & word.type(1)
    words = raw & word.type((1 << use.stored) - 1)
    for k, rule in enumerate(use.spare):
        bit = word.type(use.stored + k)
        if rule == ONE:
            words |= word.type(1) << bit
        elif rule == SIGN:
            words |= negative << bit
        elif rule == PLANE:
            words |= planes[use.stored + k].astype(word) << bit
    return np.asarray(words.view(values.dtype))


def pack_planes(frames: Iterable[Array], use: BitUse) -> bytes:
    """Pack the planes of all frames: per frame and bit one compressed run of bits, joined.

    Parameters
    ----------
    frames : iterable of (samples, rows, columns) arrays of words
    """
    machine = zlib.compressobj(6)
    parts = []
    for frame in frames:
        word = np.dtype(f"u{frame.dtype.itemsize}")
        raw = np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("="), copy=False)
        for bit in use.planes:
            plane = (raw.view(word) >> word.type(bit)) & word.type(1)
            parts.append(machine.compress(np.packbits(plane.astype(np.uint8)).tobytes()))
    return b"".join(parts) + machine.flush()


class SparePlanes:
    """Reads what `pack_planes` wrote, frame by frame in any order."""

    def __init__(self, data: bytes, use: BitUse, shape: Sequence[int], frames: int) -> None:
        self._use = use
        self._shape = tuple(int(size) for size in shape)
        self._pixels = int(np.prod(self._shape))
        self._bytes = -(-self._pixels // 8)
        expected = frames * len(use.planes) * self._bytes
        raw = zlib.decompressobj().decompress(data, expected + 1) if use.planes else b""
        if len(raw) != expected:
            raise ValueError(f"expected {expected} bytes of spare bits, found {len(raw)}")
        self._raw = raw

    def of(self, frame: int) -> dict[int, Array]:
        """Give the planes of one frame by bit number, each of the shape of a frame."""
        found: dict[int, Array] = {}
        for k, bit in enumerate(self._use.planes):
            at = (frame * len(self._use.planes) + k) * self._bytes
            packed = np.frombuffer(self._raw, np.uint8, self._bytes, at)
            found[bit] = np.unpackbits(packed, count=self._pixels).reshape(self._shape)
        return found


def bit_use(record: dict[str, Any]) -> BitUse:
    """Give the use of bits that a stored record has.

    Raises
    ------
    KeyError, TypeError, ValueError : the record is damaged.
    """
    use = BitUse(str(record["dtype"]), int(record["stored"]), str(record["spare"]))
    bits = 8 * np.dtype(use.dtype).itemsize
    if set(use.spare) - {ZERO, ONE, SIGN, PLANE} or use.stored + len(use.spare) > bits:
        raise ValueError(f"no such use of bits: {record!r}")
    return use
