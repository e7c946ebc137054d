"""Lazy values of FITS files: plain images by mapping the file, compressed tiles through astropy."""

from __future__ import annotations

import math
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError
from adapters.fits.blocks import quiet
from adapters.gzipped import is_gzip, spool
from adapters.kept_open import KEPT

__all__ = ["FitsArray", "TileArray", "content", "shown_header", "stored", "turned"]

# astropy keeps places in its open files, which several threads would move.
LIBRARY = threading.RLock()
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    zlib.error,
    OSError,
)


def content(path: Path, end: int) -> Array:
    """All bytes of a file, decompressed, as a map: uint8, not to be written.

    Parameters
    ----------
    path : Path
    end : int
        Where its last unit ends.
    """
    return np.memmap(spool(path, end).stream if is_gzip(path) else path, np.uint8, "r")


def turned(values: Array) -> Array:
    """Integers with their highest bit inverted, unsigned where they were signed, and vice versa."""
    word = np.dtype(f"u{values.dtype.itemsize}")
    other = "u" if values.dtype.kind == "i" else "i"
    highest = word.type(1 << (8 * word.itemsize - 1))
    found: Array = (values.view(word) ^ highest).view(f"{other}{word.itemsize}")
    return found


def stored(values: Array, dtype: np.dtype[Any], *, flipped: bool) -> Array:
    """Values as the file has them: C order, big-endian."""
    values = np.ascontiguousarray(values)
    return (turned(values) if flipped else values).astype(dtype, copy=False)


@dataclass(frozen=True)
class _Values:
    """Numbers of a unit, in the type of the file; ``end`` is where its last unit ends."""

    path: Path
    end: int
    place: int
    shape: tuple[int, ...]
    file_dtype: str
    flipped: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, native byte order."""
        dtype = np.dtype(self.file_dtype).newbyteorder("=")
        return turned(np.zeros(1, dtype)).dtype if self.flipped else dtype


@dataclass(frozen=True)
class FitsArray(_Values):
    """Values of an image or bytes of a table, from offset ``place`` on. See ``LazyArray``."""

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        source = spool(self.path, self.end).stream if is_gzip(self.path) else self.path
        try:
            values: Array = np.memmap(source, self.file_dtype, "r", self.place, self.shape)
        except ValueError as error:
            raise SourceError(
                "the file is shorter than when it was opened", kind="truncated", path=self.path
            ) from error
        part = values[tuple(slice(start, stop) for start, stop in bounds)]
        found = np.array(part, part.dtype.newbyteorder("="), order="C")
        return turned(found) if self.flipped else found


@dataclass(frozen=True)
class TileArray(_Values):
    """Values of the image of unit ``place`` in compressed tiles, before scaling.

    See ``LazyArray``.
    """

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        box = tuple(slice(start, stop) for start, stop in bounds)
        shape = tuple(stop - start for start, stop in bounds)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        with opened(self.path, self.end) as hdus:
            values = np.asarray(hdus[self.place].section[box])
            KEPT.spent(math.prod(shape) * self.dtype.itemsize)
        raw = np.array(values, np.dtype(self.file_dtype).newbyteorder("="), order="C")
        return turned(raw.reshape(shape)) if self.flipped else raw.reshape(shape)


def shown_header(path: Path, end: int, number: int) -> Any:
    """Header of the image that compressed tiles hold, as astropy shows it."""
    with opened(path, end) as hdus:
        return hdus[number].header.copy()


@contextmanager
def opened(path: Path, end: int) -> Iterator[Any]:
    """Give an open astropy ``HDUList`` whose images are not scaled.

    Raises
    ------
    SourceError : kind ``"damaged"``, also for what is read in the block.
    """
    with LIBRARY, quiet():
        hdus = None
        try:
            hdus = KEPT.take(path, lambda path: _open(path, end))
            yield hdus
        except (*_DAMAGE, *_own_errors()) as error:
            raise SourceError(
                f"the compressed tiles cannot be read ({type(error).__name__})",
                kind="damaged",
                path=path,
                hint="fetch the file again from its source",
            ) from error
        finally:
            if hdus is not None:
                KEPT.done(hdus)


def _own_errors() -> tuple[type[Exception], type[Exception]]:
    """Errors of astropy that are no built-in ones; that of its decoders has no public name."""
    from astropy.io.fits import VerifyError

    decoders = sys.modules.get("astropy.io.fits.hdu.compressed._compression")
    own: type[Exception] = getattr(decoders, "CfitsioException", VerifyError)
    return VerifyError, own


def _open(path: Path, end: int) -> Any:
    from astropy.io import fits

    source: Any = path
    if is_gzip(path):  # astropy closes what it is given
        source = os.fdopen(os.dup(spool(path, end).stream.fileno()), "rb")
    return fits.open(source, memmap=True, lazy_load_hdus=True, do_not_scale_image_data=True)
