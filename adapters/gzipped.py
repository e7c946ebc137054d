"""Gzip streams as files: their start, their digest, and their content, decompressed once to disk.

A compressed file is decompressed once per process into an unnamed temporary file, block by block,
and mapped from there: memory stays bounded, at the price of disk space of the uncompressed size.
"""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from adapters.errors import SourceError
from adapters.source_files import open_plain

__all__ = [
    "MOST_AROUND",
    "Spool",
    "digest",
    "is_gzip",
    "read_start",
    "spool",
    "too_much_around",
    "unpacking",
]

_BLOCK = 1 << 20
MOST_AROUND = 64 << 20  # bytes that a file may hold beside what its headers announce
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


@contextmanager
def unpacking(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read what is in it, decompressed where its name says so.

    Raises
    ------
    SourceError : kind ``"unreadable"``, ``"truncated"`` or ``"damaged"``, also for what is read in
        the block.
    """
    try:
        with open_plain(path) as raw:
            stream: Any = gzip.GzipFile(fileobj=raw) if is_gzip(path) else raw
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad_gzip(path, error) from error
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error


def read_start(path: Path, count: int) -> bytes:
    """Read the first ``count`` bytes, decompressed.

    Raises
    ------
    SourceError : kind ``"unreadable"``, ``"truncated"`` or ``"damaged"``.
    """
    with unpacking(path) as stream:
        return stream.read(count)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, decompressed where its name says so.

    Raises
    ------
    SourceError : kind ``"unreadable"``, ``"truncated"`` or ``"damaged"``.
    """
    found = hashlib.sha256()
    with unpacking(path) as stream:
        while block := stream.read(_BLOCK):
            found.update(block)
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
        with unpacking(path) as compressed:
            while block := compressed.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise too_much_around(path, f"inflates past {most} bytes")
                stream.write(block)
                digest.update(block)
    except SourceError:
        stream.close()
        raise
    stream.flush()
    return Spool(stream, size, digest.hexdigest())


def too_much_around(path: Path, found: str) -> SourceError:
    """The error for a file that holds more than its headers announce and a little."""
    return SourceError(
        f"expected what the header announces and at most {MOST_AROUND >> 20} MiB around it, the "
        f"file {found}",
        kind="too-large",
        path=path,
        hint="the header or the file is damaged or hostile",
    )


def _bad_gzip(path: Path, error: Exception) -> SourceError:
    cut = isinstance(error, EOFError)
    return SourceError(
        "the gzip stream breaks off" if cut else "expected a gzip stream, found other bytes",
        kind="truncated" if cut else "damaged",
        path=path,
        hint="fetch the file again from its source",
    )
