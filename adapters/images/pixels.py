"""Lazy pixels of pages, one or a stack of them: mapped where they lie in the file, else decoded."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError
from adapters.images.pictures import PNG, Picture, format_of, png_picture
from adapters.images.tiff import opened_tiff, tiff_pages
from adapters.source_files import open_plain

__all__ = ["PageArray", "pictures_of", "planes_of"]

_LARGE = 1 << 30
_MOST_RATIO = 1100  # times the bytes of the file are more than deflate can hold

_lock = threading.Lock()
_last: dict[tuple[Any, ...], Array] = {}  # the page that was decoded last


@dataclass(frozen=True)
class PageArray:
    """Pixels of pages that are alike: ([sample], [page], y, x). See ``LazyArray``."""

    pages: tuple[Picture, ...]
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        first = self.pages[0]
        lead = () if first.samples is None else (first.samples,)
        count = (len(self.pages),) if self.stacked else ()
        return (*lead, *count, first.rows, first.columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a number, native byte order."""
        return np.dtype(self.pages[0].file_dtype).newbyteorder("=")

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        box = [slice(start, stop) for start, stop in bounds]
        colour = self.pages[0].samples is not None
        samples = box.pop(0) if colour else slice(0, 1)
        chosen = self.pages[box.pop(0)] if self.stacked else self.pages
        rows, columns = box
        sizes = [part.stop - part.start for part in (samples, rows, columns)]
        found = np.empty((sizes[0], len(chosen), *sizes[1:]), self.dtype)
        for number, page in enumerate(chosen):
            found[:, number] = planes_of(page)[samples, rows, columns]
        return found.reshape(tuple(stop - start for start, stop in bounds))


def pictures_of(path: Path) -> list[Picture]:
    """Pages of a PNG or TIFF file.

    Raises
    ------
    SourceError : kind ``"damaged"``, ``"truncated"``, ``"not-image"``, ``"too-large"``,
        ``"unsupported-dtype"``, ``"no-decoder"``, ``"extra-missing"`` or ``"unreadable"``.
    """
    pages = [png_picture(path)] if format_of(path) == PNG else tiff_pages(path)
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


def planes_of(page: Picture) -> Array:
    """Pixels of one page: (sample, y, x), not to be written.

    Raises
    ------
    SourceError : kind ``"damaged"`` or ``"truncated"``.
    """
    shape: tuple[int, ...] = (page.rows, page.columns)
    if page.samples is not None:
        shape = (*shape, page.samples) if page.interleaved else (page.samples, *shape)
    if page.offset is not None:
        try:
            raw: Array = np.memmap(page.path, page.file_dtype, "r", page.offset, shape)
        except ValueError as error:
            raise SourceError(
                "the file is shorter than when it was opened", kind="truncated", path=page.path
            ) from error
    else:
        raw = _decoded(page)
    if raw.shape != shape:
        raise SourceError(
            f"expected pixels of {shape}, found {raw.shape}", kind="damaged", path=page.path
        )
    if page.samples is None:
        return raw[None]
    return np.moveaxis(raw, -1, 0) if page.interleaved else raw


def _decoded(page: Picture) -> Array:
    state = page.path.stat()
    key = (page.path, state.st_mtime_ns, state.st_size, page.page)
    with _lock:
        if key not in _last:
            _last.clear()
            _last[key] = _png(page) if format_of(page.path) == PNG else _tiff(page)
        return _last[key]


def _png(page: Picture) -> Array:
    import imagecodecs

    with open_plain(page.path) as stream:
        data = stream.read()
    try:
        return np.asarray(imagecodecs.png_decode(data))
    except (ValueError, RuntimeError) as error:
        raise SourceError(
            "libpng cannot decode it",
            kind="damaged",
            path=page.path,
            hint="fetch the file again from its source",
        ) from error


def _tiff(page: Picture) -> Array:
    with opened_tiff(page.path) as file:
        pixels = np.asarray(file.pages[page.page].asarray())
    return pixels.astype(np.dtype(page.file_dtype).newbyteorder("="), copy=False)
