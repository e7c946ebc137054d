"""How the words of natively stored pixel data lie in its bytes, both ways.

Grey images are one word per pixel. Colour images interleave their samples or store them plane by
plane, masks pack eight pixels into a byte across frame borders, Big Endian files may store bytes in
swapped pairs (PS3.5 section 8), and Siemens mosaics are sheets of tiles. Reading gives planes of
samples; `pack` is the inverse.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adapters.base import Array

__all__ = ["MOST_PATCHES", "PixelLayout", "patches_of", "residue_of"]

MOST_PATCHES = 64
ORDERS = ("grey", "interleaved", "planar", "ybr422", "bits", "mosaic")

ReadBytes = Callable[[int, int], bytes]


@dataclass(frozen=True)
class PixelLayout:
    """Layout of the pixel data of one file.

    Attributes
    ----------
    order : str
        ``"grey"``; ``"interleaved"`` or ``"planar"`` samples; ``"ybr422"``, two pixels as
        Y Y Cb Cr (8 bits); ``"bits"``, one bit per pixel; ``"mosaic"``, a sheet of ``grid`` x
        ``grid`` tiles, of which the first ``frames`` are used.
    rows, columns, frames, samples : int
    word : str
        NumPy type of a word without byte order: ``"u1"``, ``"i2"``, ``"f4"``. Of ``"bits"`` it is
        ``"u1"``, with the values 0 and 1.
    big_endian : bool
        Byte order of the words.
    swapped : bool
        Single bytes in 16-bit words of a Big Endian file: the two of each pair change places.
    grid : int
        Tiles along each side of a mosaic, else 1.
    """

    order: str
    rows: int
    columns: int
    frames: int
    samples: int
    word: str
    big_endian: bool = False
    swapped: bool = False
    grid: int = 1

    def __post_init__(self) -> None:
        if self.order not in ORDERS or (self.order == "ybr422" and self.columns % 2):
            raise ValueError(f"no such pixel layout: {self!r}")

    @property
    def is_plain(self) -> bool:
        """Whether a word is a pixel and can be read at its place."""
        return self.order == "grey" and not self.swapped

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the words as they are stored."""
        return np.dtype((">" if self.big_endian else "<") + self.word)

    @property
    def frame_bits(self) -> int:
        """Bits of one frame."""
        pixels = self.rows * self.columns
        if self.order == "bits":
            return pixels
        if self.order == "ybr422":
            return 16 * pixels
        return 8 * pixels * self.samples * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all frames; whole pairs when swapped."""
        if self.order == "mosaic":
            return self.grid**2 * self.frame_bits // 8
        used = -(-self.frames * self.frame_bits // 8)
        return used + used % 2 if self.swapped else used

    def frame(self, read: ReadBytes, index: int) -> Array:
        """Give one frame as (samples, rows, columns); ``read(offset, length)`` within the pixels.

        Raises
        ------
        EOFError : fewer bytes than the frame needs.
        """
        if self.order == "mosaic":
            return self._tile(read, index)
        first = index * self.frame_bits
        start, stop = first // 8, -(-(first + self.frame_bits) // 8)
        skipped = start % 2 if self.swapped else 0
        start, stop = start - skipped, stop + stop % 2 if self.swapped else stop
        data = read(start, stop - start)
        if len(data) != stop - start:
            raise EOFError(f"expected {stop - start} bytes, found {len(data)}")
        if self.swapped:
            data = _swap(data)[skipped:]
        if self.order == "bits":
            flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
            words = flat[first % 8 : first % 8 + self.frame_bits]
            return words.reshape(1, self.rows, self.columns)
        words = np.frombuffer(data[: self.frame_bits // 8], self.dtype)
        return self._planes(words)

    def _tile(self, read: ReadBytes, index: int) -> Array:
        band, place = divmod(index, self.grid)
        length = self.grid * self.frame_bits // 8
        data = read(band * length, length)
        if len(data) != length:
            raise EOFError(f"expected {length} bytes, found {len(data)}")
        words = np.frombuffer(data, self.dtype).reshape(self.rows, self.grid, self.columns)
        return words[None, :, place]

    def _planes(self, words: Array) -> Array:
        shape = (self.samples, self.rows, self.columns)
        if self.order == "interleaved":
            return np.moveaxis(words.reshape(*shape[1:], self.samples), -1, 0)
        if self.order == "ybr422":
            fours = words.reshape(self.rows, self.columns // 2, 4)
            chroma = np.repeat(fours[..., 2:], 2, axis=1)
            return np.stack([fours[..., :2].reshape(shape[1:]), chroma[..., 0], chroma[..., 1]])
        return words.reshape(shape)

    def pack(self, values: Array) -> bytes:
        """Give the bytes of all frames.

        Parameters
        ----------
        values : (frames, samples, rows, columns) of the words' type
            Of ``"ybr422"`` the chroma of every other column is taken.
        """
        if self.order == "bits":
            data = np.packbits(values.astype(bool).reshape(-1), bitorder="little").tobytes()
        elif self.order == "ybr422":
            luma = values[:, 0].reshape(self.frames, self.rows, self.columns // 2, 2)
            chroma = np.stack([values[:, 1, :, ::2], values[:, 2, :, ::2]], axis=-1)
            data = np.concatenate([luma, chroma], axis=-1).astype(self.dtype).tobytes()
        elif self.order == "mosaic":
            sheet = np.zeros((self.grid**2, self.rows, self.columns), self.dtype)
            sheet[: self.frames] = values[:, 0]
            tiles = sheet.reshape(self.grid, self.grid, self.rows, self.columns)
            data = np.ascontiguousarray(tiles.swapaxes(1, 2)).tobytes()
        elif self.order == "interleaved":
            data = np.moveaxis(values, 1, -1).astype(self.dtype).tobytes()
        else:
            data = np.ascontiguousarray(values).astype(self.dtype).tobytes()
        return _swap(data + b"\0" * (len(data) % 2)) if self.swapped else data

    def pieces(self, planes: Array, index: int) -> list[tuple[int, bytes]]:
        """Give where the bytes of one frame go, before bytes are swapped: (offset, bytes) pairs.

        Parameters
        ----------
        planes : (samples, rows, columns) of the words' type
        index : int
            Number of the frame. Of ``"bits"`` the first and last byte may be shared with its
            neighbours: they are to be combined with OR.
        """
        if self.order == "mosaic":
            down, across = divmod(index, self.grid)
            width = self.columns * self.dtype.itemsize
            start = down * self.rows * self.grid * width + across * width
            rows = np.ascontiguousarray(planes[0]).astype(self.dtype)
            return [(start + r * self.grid * width, row.tobytes()) for r, row in enumerate(rows)]
        first = index * self.frame_bits
        if self.order == "bits":
            bits = np.concatenate([np.zeros(first % 8, bool), planes.astype(bool).reshape(-1)])
            return [(first // 8, np.packbits(bits, bitorder="little").tobytes())]
        alone = replace(self, frames=1, swapped=False)
        return [(first // 8, alone.pack(planes[None]))]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)


def _swap(data: bytes) -> bytes:
    return np.frombuffer(data, ">u2").astype("<u2").tobytes()


def patches_of(packed: bytes, stored: bytes) -> list[list[int]] | None:
    """Give the bytes that ``pack`` cannot know: bits that no pixel uses.

    Returns
    -------
    list of [offset, byte], or None
        None when there are more than ``MOST_PATCHES``; see `residue_of`.
    """
    made, found = np.frombuffer(packed, np.uint8), np.frombuffer(stored, np.uint8)
    places = np.flatnonzero(made != found)
    if len(places) > MOST_PATCHES:
        return None
    return [[int(place), int(found[place])] for place in places]


def residue_of(packed: bytes, stored: bytes) -> bytes:
    """Give what turns packed bytes into the stored ones: their XOR, compressed."""
    made, found = np.frombuffer(packed, np.uint8), np.frombuffer(stored, np.uint8)
    return zlib.compress((made ^ found).tobytes(), 6)
