"""Pages of TIFF files: what tifffile says of them, once the file is known to be whole."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import SourceError
from adapters.images.pictures import Picture, damaged
from adapters.images.tiff_chain import check_tiff

__all__ = ["opened_tiff", "tiff_pages"]

_MOST_PAGES = 1 << 16
_BRIGHT = ("MINISBLACK",)
_RED_GREEN_BLUE = ("RGB", "YCBCR")  # the latter is RGB once decoded
_STACK_OF_METAMORPH = 33629  # UIC2Tag, with a value for each plane
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


@contextmanager
def opened_tiff(path: Path, *, alone: bool = False) -> Iterator[Any]:
    """Give an open ``tifffile.TiffFile``; ``alone``: whatever other files it says it belongs to.

    Raises
    ------
    SourceError : kind ``"extra-missing"``; ``"damaged"``, also for what is read in the block.
    """
    _require_tifffile(path)
    from tifffile import TiffFile

    try:
        with TiffFile(path, _multifile=False if alone else None) as file:
            yield file
    except _NO_SENSE as error:
        found = f"tags or pixels that make no sense ({type(error).__name__})"
        raise damaged(path, found) from error
    except OSError as error:
        raise SourceError("cannot read the file", kind="unreadable", path=path) from error


def _require_tifffile(path: Path) -> None:
    if find_spec("tifffile") is None:
        raise SourceError(
            "TIFF files take the extra 'images' of psc-archive, found no tifffile",
            kind="extra-missing",
            path=path,
            hint="pip install 'psc-archive[images]'",
        )


def tiff_pages(path: Path) -> list[Picture]:
    """Pages of a file, in its order; planes that share one directory are a page each.

    Raises
    ------
    SourceError : kind ``"truncated"``, ``"damaged"``, ``"not-image"``, ``"too-large"``,
        ``"unsupported-dtype"``, ``"no-decoder"``, ``"extra-missing"`` or ``"unreadable"``.
    """
    _require_tifffile(path)
    check_tiff(path)
    with opened_tiff(path) as file:
        if len(file.pages) > _MOST_PAGES:
            raise SourceError(f"more than {_MOST_PAGES} pages", kind="too-large", path=path)
        pages = [_page(path, number, page) for number, page in enumerate(file.pages)]
        planes = _planes(file)
    if not pages:
        raise SourceError("the file has no page", kind="damaged", path=path)
    if planes > len(pages):
        pages = _more_planes(pages, planes)
    for picture in pages:
        _check_whole(picture)
    return pages


def _planes(file: Any) -> int:
    """Planes that the file says it has: ImageJ, past 4 GiB, and MetaMorph write one directory."""
    if len(file.pages) == 1 and file.is_imagej:
        return int((file.imagej_metadata or {}).get("images", 1))
    if len(file.pages) == 1 and file.is_stk:
        return int(file.pages[0].tags[_STACK_OF_METAMORPH].count)
    return 1


def _more_planes(pages: Sequence[Picture], planes: int) -> list[Picture]:
    """Planes behind the only one that has a directory, where they lie plainly."""
    (first,) = pages
    if planes > _MOST_PAGES:
        raise SourceError(f"more than {_MOST_PAGES} pages", kind="too-large", path=first.path)
    if first.offset is None:
        return [first]
    return [first] + [
        replace(first, page=n, offset=first.offset + n * first.nbytes, own=False)
        for n in range(1, planes)
    ]


def _check_whole(picture: Picture) -> None:
    if picture.offset is None:
        return
    if picture.offset + picture.nbytes > picture.path.stat().st_size:
        raise SourceError(
            f"expected {picture.nbytes} bytes of page {picture.page} at offset {picture.offset}, "
            "the file ends before",
            kind="truncated",
            path=picture.path,
            hint="fetch the file again from its source",
        )


def _page(path: Path, number: int, page: Any) -> Picture:
    axes, shape, dtype = page.axes, tuple(page.shape), page.dtype
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise damaged(path, f"page {number} of {' x '.join(map(str, shape))} pixels")
    _check_numbers(path, number, page)
    sizes = dict(zip(axes, shape, strict=True))
    lies = page.is_contiguous and page.is_memmappable and dtype.kind != "b"
    if not lies and len(page.dataoffsets) < math.prod(page.chunked):
        found = f"{len(page.dataoffsets)} strips or tiles of {math.prod(page.chunked)}"
        raise damaged(path, f"{found} in page {number}")
    stored = dtype.newbyteorder(page.parent.byteorder) if lies else dtype
    exact = None
    if dtype.kind == "b" or page.photometric == 3:
        exact = "bits and numbers of a palette are kept exactly"
    colours = getattr(page.photometric, "name", str(page.photometric))
    return Picture(
        path,
        number,
        sizes["Y"],
        sizes["X"],
        sizes.get("S"),
        axes == "YXS",
        np.dtype("u1" if dtype.kind == "b" else stored).str,
        int(page.dataoffsets[0]) if lies else None,
        exact,
        None if colours in (_RED_GREEN_BLUE if "S" in sizes else _BRIGHT) else colours,
    )


def _check_numbers(path: Path, number: int, page: Any) -> None:
    """Refuse pages that are sound and cannot be shown."""
    dtype = page.dtype
    if (
        page.axes not in ("YX", "YXS", "SYX")
        or dtype is None
        or dtype.kind not in "uifb"
        or dtype.itemsize > 8
        or dtype == np.float16
    ):
        raise SourceError(
            f"page {number}: expected numbers along y, x and samples, found {dtype} along "
            f"{page.axes!r}",
            kind="unsupported-dtype",
            path=path,
            hint="--mode lossless keeps the file as it is",
        )
    if not _has_decoder(page):
        raise SourceError(
            f"page {number}: expected a compression that tifffile decodes, found number "
            f"{int(page.compression)} with predictor {int(page.predictor)}",
            kind="no-decoder",
            path=path,
            hint="--mode lossless keeps the file as it is",
        )


def _has_decoder(page: Any) -> bool:
    from tifffile import TIFF

    try:
        if page.compression != 1:
            TIFF.DECOMPRESSORS[page.compression]
        if page.predictor != 1 and page.compression not in TIFF.IMAGE_COMPRESSIONS:
            TIFF.UNPREDICTORS[page.predictor]
    except KeyError:
        return False
    return True
