"""What image files say of their pixels: PNG by its first chunks, TIFF by tifffile."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import SourceError
from adapters.source_files import open_plain

__all__ = ["JPEG", "PNG", "TIFF", "Picture", "format_of", "opened_tiff", "pictures_of"]

PNG = (".png",)
TIFF = (".tif", ".tiff")
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; palettes are shown as colours
_RED_GREEN_BLUE = ("RGB", "YCBCR")  # the latter is RGB once decoded
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_LARGE = 1 << 30
_MOST_RATIO = 1100  # times the bytes of the file are more than deflate can hold
_MOST_PAGES = 1 << 16
_NO_SENSE = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
)


@dataclass(frozen=True)
class Picture:
    """One page of a file.

    ``samples`` is None for grey pages; ``interleaved`` says that they are the last axis of what a
    decoder gives. ``file_dtype`` and ``offset`` say how the numbers lie in the file where they do,
    else ``offset`` is None.
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
    other: str | None = None  # what several samples are where they are not red, green and blue

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


def pictures_of(path: Path) -> list[Picture]:
    """Pages of a PNG or TIFF file.

    Raises
    ------
    SourceError : kind ``"damaged"``, ``"not-image"``, ``"too-large"``, ``"unsupported-dtype"``,
        ``"no-volume"``, ``"extra-missing"`` or ``"unreadable"``.
    """
    pages = [_png(path)] if format_of(path) == PNG else _tiff(path)
    size = path.stat().st_size
    for page in pages:
        if page.nbytes > max(_LARGE, _MOST_RATIO * size):
            raise SourceError(
                f"an image of {page.nbytes} bytes in a file of {size}",
                kind="too-large",
                path=path,
                hint="the header is damaged or hostile",
            )
    return pages


def _png(path: Path) -> Picture:
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
                raise _damaged(path, "the first chunk is no IHDR")
            columns, rows, depth, colour = struct.unpack(">IIBB", start[16:26])
            if not rows or not columns or depth not in _DEPTHS.get(colour, ()):
                raise _damaged(path, f"{columns} x {rows} of depth {depth} and colour {colour}")
            clear = colour in (0, 2, 3) and any(name == b"tRNS" for name in _chunks(stream))
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error
    samples = _SAMPLES[colour] + clear
    dtype = "<u2" if depth == 16 else "|u1"
    exact = "colours of a palette are kept exactly" if colour == 3 else None
    return Picture(
        path, 0, rows, columns, samples if samples > 1 else None, True, dtype, None, exact
    )


def _chunks(stream: Any) -> Iterator[bytes]:
    """Names of the chunks before the pixels."""
    while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
        yield head[4:]
        stream.seek(int.from_bytes(head[:4], "big") + 4, 1)


@contextmanager
def opened_tiff(path: Path) -> Iterator[Any]:
    """Give an open ``tifffile.TiffFile``.

    Raises
    ------
    SourceError : kind ``"extra-missing"``; ``"damaged"``, also for what is read in the block.
    """
    if find_spec("tifffile") is None:
        raise SourceError(
            "TIFF files take the extra 'images' of psc-archive, found no tifffile",
            kind="extra-missing",
            path=path,
            hint="pip install 'psc-archive[images]'",
        )
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            yield file
    except _NO_SENSE as error:
        found = f"tags or pixels that make no sense ({type(error).__name__})"
        raise _damaged(path, found) from error
    except OSError as error:
        raise SourceError("cannot read the file", kind="unreadable", path=path) from error


def _tiff(path: Path) -> list[Picture]:
    with opened_tiff(path) as file:
        if len(file.pages) > _MOST_PAGES:
            raise SourceError(f"more than {_MOST_PAGES} pages", kind="too-large", path=path)
        pages = [_page(path, number, page) for number, page in enumerate(file.pages)]
    if not pages:
        raise SourceError("the file has no page", kind="damaged", path=path)
    return pages


def _page(path: Path, number: int, page: Any) -> Picture:
    axes, shape, dtype = page.axes, tuple(page.shape), page.dtype
    known = axes in ("YX", "YXS", "SYX") and dtype is not None
    if (
        not known
        or not all(isinstance(size, int) and size > 0 for size in shape)
        or dtype.kind not in "uifb"
        or dtype.itemsize > 8
        or dtype == np.float16
    ):
        raise SourceError(
            f"page {number}: expected numbers along y, x and samples, found {dtype} along {axes!r}",
            kind="unsupported-dtype",
            path=path,
            hint="--mode lossless keeps the file as it is",
        )
    sizes = dict(zip(axes, shape, strict=True))
    lies = page.is_contiguous and page.is_memmappable and dtype.kind != "b"
    stored = dtype.newbyteorder(page.parent.byteorder) if lies else dtype
    colours = getattr(page.photometric, "name", str(page.photometric))
    exact = None
    if dtype.kind == "b" or page.photometric == 3:
        exact = "bits and numbers of a palette are kept exactly"
    picture = Picture(
        path,
        number,
        sizes["Y"],
        sizes["X"],
        sizes.get("S"),
        axes == "YXS",
        np.dtype("u1" if dtype.kind == "b" else stored).str,
        int(page.dataoffsets[0]) if lies else None,
        exact,
        colours if "S" in sizes and colours not in _RED_GREEN_BLUE else None,
    )
    if lies and (picture.offset or 0) + picture.nbytes > path.stat().st_size:
        raise SourceError(
            f"expected {picture.nbytes} bytes of page {number} at offset {picture.offset}, the "
            "file ends before",
            kind="truncated",
            path=path,
            hint="fetch the file again from its source",
        )
    return picture


def _damaged(path: Path, found: str) -> SourceError:
    return SourceError(
        f"expected a sound image file, found {found}",
        kind="damaged",
        path=path,
        hint="fetch the file again from its source",
    )
