"""Reading foreign files in a process of its own, so that a bad file costs only itself.

Format libraries are C code that meets files nobody has checked. Here they run in a child with a
limit on memory and a limit on time; when it crashes, hangs or grows too big, the item being read
fails with a ``SourceError`` and a fresh child serves the next one. The functions are those of
`adapters` and give the same answers; only ``Volume.array`` is another one, which asks the child
for its values. It can be pickled and asks a child of its own in whatever process it is used.

``PSC_ARCHIVE_READER_MEMORY_MB`` (2048) and ``PSC_ARCHIVE_READER_SECONDS`` (60, and more for large
files) set the limits.
"""

from __future__ import annotations

from adapters.isolation.client import (
    content_sha256,
    deidentify,
    difference,
    discover,
    look,
    open_source,
    read_voxels,
    restore_source,
)
from adapters.isolation.process import ReadingProcess, reading_process

__all__ = [
    "ReadingProcess",
    "content_sha256",
    "deidentify",
    "difference",
    "discover",
    "look",
    "open_source",
    "read_voxels",
    "reading_process",
    "restore_source",
]
