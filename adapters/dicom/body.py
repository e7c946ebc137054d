"""Pixel words of one file being written, frame by frame in any order.

The memory needed is that of a frame: words go to their place in the file at once. What needs all of
them (swapped pairs of bytes, bits that no value tells) is done block by block at the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from adapters.base import Array
from adapters.dicom.layout import PixelLayout

__all__ = ["Body", "stream_bytes"]

_BLOCK = 1 << 20  # even: pairs of bytes stay together


class Body:
    """The pixel words of a file, from byte ``base`` on.

    Attributes
    ----------
    least, largest : number or None
        Of the values in all words added.
    """

    def __init__(self, path: Path, layout: PixelLayout, base: int = 0) -> None:
        self.path, self.layout, self.base = path, layout, base
        self.least: float | int | None = None
        self.largest: float | int | None = None
        with path.open("r+b" if path.exists() else "w+b") as stream:
            stream.truncate(base + layout.nbytes)

    def add(self, index: int, words: Array, values: Array) -> None:
        """Put the words of one frame to their place.

        Parameters
        ----------
        index : int
            Number of the frame.
        words : (samples, rows, columns) array
        values : array
            What the words mean, for the extremes.
        """
        with self.path.open("r+b") as stream:
            for offset, data in self.layout.pieces(words, index):
                stream.seek(self.base + offset)
                if self.layout.order == "bits":
                    data = _or(data, stream.read(len(data)))
                    stream.seek(self.base + offset)
                stream.write(data)
        low, high = values.min().item(), values.max().item()
        self.least = low if self.least is None else min(self.least, low)
        self.largest = high if self.largest is None else max(self.largest, high)

    def finish(self, patches: list[list[int]], residue: bytes | None) -> None:
        """Swap bytes where the layout asks for it, and put the bits that no value tells.

        Raises
        ------
        ValueError : a patch or the residue does not fit the words.
        """
        if self.layout.swapped or residue is not None:
            self._rewrite(residue)
        with self.path.open("r+b") as stream:
            for offset, value in patches:
                if not 0 <= offset < self.layout.nbytes:
                    raise ValueError(f"no byte {offset} in the pixels")
                stream.seek(self.base + offset)
                stream.write(bytes([value]))

    def _rewrite(self, residue: bytes | None) -> None:
        machine, rest = zlib.decompressobj(), residue or b""
        with self.path.open("r+b") as stream:
            for start in range(0, self.layout.nbytes, _BLOCK):
                stream.seek(self.base + start)
                block = stream.read(min(_BLOCK, self.layout.nbytes - start))
                if self.layout.swapped:
                    block = np.frombuffer(block, ">u2").astype("<u2").tobytes()
                if residue is not None:
                    mask = machine.decompress(rest, len(block))
                    rest = machine.unconsumed_tail
                    block = _xor(block, mask)
                stream.seek(self.base + start)
                stream.write(block)


def stream_bytes(path: Path) -> Iterator[bytes]:
    """Go through a file in blocks."""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def _or(first: bytes, second: bytes) -> bytes:
    return (np.frombuffer(first, np.uint8) | np.frombuffer(second, np.uint8)).tobytes()


def _xor(first: bytes, second: bytes) -> bytes:
    if len(first) != len(second):
        raise ValueError(f"expected {len(first)} bytes of residue, found {len(second)}")
    return (np.frombuffer(first, np.uint8) ^ np.frombuffer(second, np.uint8)).tobytes()
