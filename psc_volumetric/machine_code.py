"""Compilation of loops by numba, with a cache that notices every change.

numba keeps machine code until the file of a function changes. Functions and constants from other
files are part of that code, so a change there would go unnoticed: an encoder and a decoder of
different ages would meet. Here any change in a folder that has compiled loops makes all of them
anew (some 40 seconds of CPU time, once).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["compiled", "source_stamp"]

FOLDERS = ("coders", "entropy", "methods", "prior")


@cache
def source_stamp() -> str:
    """Digest of name, size and time of change of every source that machine code may stand on."""
    here = Path(__file__).parent
    sources = sorted(path for folder in FOLDERS for path in (here / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for path in sources:
        status = path.stat()
        digest.update(f"{path.relative_to(here)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def compiled(**options: Any) -> Callable[[Any], Any]:
    """``numba.njit`` without the interpreter's lock, cached under :func:`source_stamp`.

    Without numba, on machines that train and take only constants from these modules, the loops
    cannot be called: plain Python has other integers.
    """
    if find_spec("numba") is None:
        return lambda _: _absent
    import numba

    def decorate(function: Any) -> Any:
        dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
        index = getattr(dispatcher._cache, "_cache_file", None)  # none if no folder is writable
        if index is not None:
            index._source_stamp = (index._source_stamp, source_stamp())
        return dispatcher

    return decorate


def _absent(*_: Any) -> Any:
    raise ImportError("expected numba, which compiles the loops of the codec; pip install numba")
