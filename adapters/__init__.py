"""Source formats in and out: DICOM, NIfTI and NetCDF.

``discover`` says what a file or folder holds, ``open_source`` opens one candidate lazily and
``restore_source`` writes the source format again. Format libraries are imported on first use.
"""

from __future__ import annotations

from adapters.base import (
    Adapter,
    Candidate,
    Coordinate,
    Discovery,
    FileRecord,
    LazyArray,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    Volume,
)
from adapters.errors import SourceError
from adapters.registry import discover, open_source, restore_source

__all__ = [
    "Adapter",
    "Candidate",
    "Coordinate",
    "Discovery",
    "FileRecord",
    "LazyArray",
    "RestoreInfo",
    "RestoredVolume",
    "Skipped",
    "SourceError",
    "SourceItem",
    "Volume",
    "discover",
    "open_source",
    "restore_source",
]
