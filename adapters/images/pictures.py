"""What image files say of their pixels: the record of a page, and PNG by its first chunks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import SourceError
from adapters.source_files import open_plain

__all__ = ["JPEG", "PNG", "TIFF", "Picture", "damaged", "format_of", "png_picture"]

PNG = (".png",)
TIFF = (".tif", ".tiff", ".tf2", ".tf8", ".btf")  # the last two of BigTIFF
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; palettes are shown as colours
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


@dataclass(frozen=True)
class Picture:
    """One page of a file.

    ``samples`` is None for grey pages; ``interleaved`` says that they are the last axis of what a
    decoder gives. ``file_dtype`` and ``offset`` say how the numbers lie in the file where they do,
    else ``offset`` is None. ``other`` says what the numbers are where they are not brightness, or
    red, green and blue. ``own`` says whether the page has a directory of its own in the file.
    """

    path: Path
    page: int
    rows: int
    columns: int
    samples: int | None
    interleaved: bool
    file_dtype: str
    offset: int | None
    exact: str | None = None
    other: str | None = None
    own: bool = True

    @property
    def alike(self) -> tuple[Any, ...]:
        """What pages of one volume have in common."""
        dtype = np.dtype(self.file_dtype).newbyteorder("=").str
        return (self.rows, self.columns, self.samples, dtype, self.exact, self.other)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return self.rows * self.columns * (self.samples or 1) * np.dtype(self.file_dtype).itemsize


def format_of(path: Path) -> tuple[str, ...]:
    """The suffixes of the format that a name ends in one of; none for other files."""
    return next((k for k in (PNG, TIFF, JPEG) if path.name.lower().endswith(k)), ())


def png_picture(path: Path) -> Picture:
    """What the first chunks of a PNG say.

    Raises
    ------
    SourceError : kind ``"damaged"``, ``"truncated"``, ``"not-image"`` or ``"unreadable"``.
    """
    try:
        with open_plain(path) as stream:
            start = stream.read(33)
            if start[:8] != _PNG_START:
                raise SourceError(
                    f"expected a PNG signature, the file begins with {start[:8]!r}",
                    kind="not-image",
                    path=path,
                )
            if len(start) < 33 or start[12:16] != b"IHDR":
                raise damaged(path, "the first chunk is no IHDR")
            columns, rows, depth, colour = struct.unpack(">IIBB", start[16:26])
            if not rows or not columns or depth not in _DEPTHS.get(colour, ()):
                raise damaged(path, f"{columns} x {rows} of depth {depth} and colour {colour}")
            names = list(_chunks(stream, path))
            clear = colour in (0, 2, 3) and b"tRNS" in names
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error
    samples = _SAMPLES[colour] + clear
    dtype = "<u2" if depth == 16 else "|u1"
    exact = "colours of a palette are kept exactly" if colour == 3 else None
    return Picture(
        path, 0, rows, columns, samples if samples > 1 else None, True, dtype, None, exact
    )


def _chunks(stream: Any, path: Path) -> Iterator[bytes]:
    """Names of the chunks before the pixels; the rest is walked to the last one.

    A decoder shows a file whose later frames, or whose end, are cut off.
    """
    at, size, before = 33, path.stat().st_size, True
    while True:
        stream.seek(at)
        head = stream.read(8)
        end = at + 12 + int.from_bytes(head[:4], "big")
        if len(head) < 8 or end > size:
            raise SourceError(
                f"expected chunks up to IEND, the file of {size} bytes ends in one at offset {at}",
                kind="truncated",
                path=path,
                hint="fetch the file again from its source",
            )
        if head[4:] == b"IEND":
            return
        before = before and head[4:] != b"IDAT"
        if before:
            yield head[4:]
        at = end


def damaged(path: Path, found: str) -> SourceError:
    """The error for a file that is not what it says."""
    return SourceError(
        f"expected a sound image file, found {found}",
        kind="damaged",
        path=path,
        hint="fetch the file again from its source",
    )
