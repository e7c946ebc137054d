"""Keeping source files verbatim, for those that cannot be made again byte for byte.

Compressed DICOM, gzip streams and NetCDF-4 files depend on the library that wrote them. Whoever
needs these very bytes back asks for them to be kept: they travel as blobs beside the headers, so
the archive then holds such a file twice, once coded and once as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adapters.base import IDENTICAL, Candidate, Promise, SourceItem, source_paths
from adapters.errors import SourceError

__all__ = ["keep_originals", "original_of"]

_KEY = "originals"


def keep_originals(item: SourceItem, candidate: Candidate) -> SourceItem:
    """Give the item with every file as a blob whose promise falls short of ``IDENTICAL``.

    Parameters
    ----------
    item, candidate
        As opened from one another. The files are read into memory.

    Raises
    ------
    SourceError : kind ``"unreadable"``.
    """
    blobs, kept, files = dict(item.blobs), {}, list(item.files)
    for number, path in enumerate(source_paths(item.files, candidate.paths)):
        if files[number].promise.kind == IDENTICAL:
            continue
        name = f"original/{number:06d}"
        try:
            blobs[name] = path.read_bytes()
        except OSError as error:
            reason = f"cannot read: {error.strerror}"
            raise SourceError(reason, kind="unreadable", path=path) from error
        kept[str(number)] = name
        files[number] = files[number].promising(Promise(IDENTICAL))
    document = {**item.document, _KEY: kept}
    return replace(item, document=document, blobs=blobs, files=tuple(files))


def original_of(document: dict[str, Any], blobs: dict[str, bytes], number: int) -> bytes | None:
    """Give a source file that was kept verbatim, or None.

    Raises
    ------
    KeyError : the document names a blob that is not there.
    """
    name = document.get(_KEY, {}).get(str(number))
    return None if name is None else blobs[name]
