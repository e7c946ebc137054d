"""Lazy voxels of NIfTI files.

The voxels of a plain file are mapped into memory and copied region by region. A compressed file is
decompressed once per process into an unnamed temporary file, block by block, and mapped from there:
memory stays bounded, at the price of disk space of the uncompressed size.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import tempfile
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError

__all__ = ["NiftiArray", "Spool", "around", "digest", "is_gzip", "read_head", "read_start", "spool"]

_BLOCK = 1 << 20
MOST_AROUND = 64 << 20  # bytes before and behind the voxels
_KEPT = 2  # decompressed files held open per process


@dataclass(frozen=True)
class Spool:
    """A decompressed file: open unnamed file, its size and SHA-256."""

    stream: IO[bytes]
    size: int
    sha256: str


_spools: OrderedDict[tuple[Path, int], Spool] = OrderedDict()
_spool_lock = threading.Lock()


def is_gzip(path: Path) -> bool:
    """Tell by name whether a file is gzip-compressed."""
    return path.name.lower().endswith(".gz")


def read_start(path: Path, count: int) -> bytes:
    """Read the first ``count`` bytes, decompressed.

    Raises
    ------
    SourceError : kind ``"unreadable"``, ``"truncated"`` or ``"damaged"``.
    """
    try:
        if not is_gzip(path):
            with path.open("rb") as stream:
                return stream.read(count)
        with gzip.open(path, "rb") as compressed:
            return compressed.read(count)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad_gzip(path, error) from error
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error


def digest(path: Path) -> str:
    """SHA-256 of a gzip file's decompressed bytes.

    Raises
    ------
    SourceError : kind ``"truncated"`` or ``"damaged"``.
    """
    found = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as compressed:
            while block := compressed.read(_BLOCK):
                found.update(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad_gzip(path, error) from error
    return found.hexdigest()


def spool(path: Path, most: int) -> Spool:
    """Decompress a gzip file into an unnamed temporary file, once per process.

    Parameters
    ----------
    path : Path
    most : int
        Bytes that the header announces; with more than 64 MiB beyond them the file is refused.

    Raises
    ------
    SourceError : kind ``"truncated"``, ``"damaged"`` or ``"too-large"``.
    """
    with _spool_lock:
        key = (path, path.stat().st_mtime_ns)
        if key not in _spools:
            _spools[key] = _decompress(path, most + MOST_AROUND)
        _spools.move_to_end(key)
        while len(_spools) > _KEPT:
            _spools.popitem(last=False)  # closed once the last map of it is gone
        return _spools[key]


def _decompress(path: Path, most: int) -> Spool:
    digest, size = hashlib.sha256(), 0
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its Spool
    try:
        with gzip.open(path, "rb") as compressed:
            while block := compressed.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise _too_large(path, f"inflates past {most} bytes")
                stream.write(block)
                digest.update(block)
    except SourceError:
        stream.close()
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        stream.close()
        raise _bad_gzip(path, error) from error
    stream.flush()
    return Spool(stream, size, digest.hexdigest())


def _too_large(path: Path, found: str) -> SourceError:
    return SourceError(
        f"expected what the header announces and at most {MOST_AROUND >> 20} MiB around it, the "
        f"file {found}",
        kind="too-large",
        path=path,
        hint="the header or the file is damaged or hostile",
    )


def read_head(path: Path) -> bytes:
    """Read the header file of a pair, decompressed.

    Raises
    ------
    SourceError : as `read_start`, and kind ``"too-large"``.
    """
    data = read_start(path, MOST_AROUND + 1)
    if len(data) > MOST_AROUND:
        raise _too_large(path, "is larger")
    return data


def around(path: Path, start: int, end: int) -> tuple[bytes, bytes]:
    """Bytes before the voxels and behind them.

    Raises
    ------
    SourceError : kind ``"too-large"``.
    """
    size = spool(path, end).size if is_gzip(path) else path.stat().st_size
    if start + size - end > MOST_AROUND:
        raise _too_large(path, f"has {start + size - end} bytes around them")
    if is_gzip(path):
        whole = np.memmap(spool(path, end).stream, np.uint8, "r")
        return whole[:start].tobytes(), whole[end:].tobytes()
    with path.open("rb") as stream:
        before = stream.read(start)
        stream.seek(end)
        return before, stream.read()


def _bad_gzip(path: Path, error: Exception) -> SourceError:
    cut = isinstance(error, EOFError)
    return SourceError(
        "the gzip stream breaks off" if cut else "expected a gzip stream, found other bytes",
        kind="truncated" if cut else "damaged",
        path=path,
        hint="fetch the file again from its source",
    )


@dataclass(frozen=True)
class NiftiArray:
    """Stored voxels, axes (..., z, y, x). See ``LazyArray``.

    The file's order (x fastest) is C order for the reversed axes, so nothing is transposed. Voxels
    of several numbers have these along an axis of their own, the first.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    file_dtype: str
    components: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.file_dtype).newbyteorder("=")

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        end = self.offset + math.prod(self.shape) * self.dtype.itemsize
        source = spool(self.path, end).stream if is_gzip(self.path) else self.path
        shape = (*self.shape[1:], self.shape[0]) if self.components else self.shape
        try:
            voxels: Array = np.memmap(source, self.file_dtype, "r", self.offset, shape)
        except ValueError as error:
            raise SourceError(
                "the file is shorter than when it was opened", kind="truncated", path=self.path
            ) from error
        if self.components:
            voxels = np.moveaxis(voxels, -1, 0)
        part = voxels[tuple(slice(start, stop) for start, stop in bounds)]
        return np.array(part, dtype=self.dtype, order="C")
