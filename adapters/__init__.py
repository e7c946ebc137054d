"""Source formats in and out: DICOM, NIfTI, NetCDF, FITS, images, trajectories and video.

``discover`` says what a file or folder holds, ``open_source`` opens one candidate lazily and
``restore_source`` writes the source format again. Format libraries are imported on first use.
"""

from __future__ import annotations

from adapters.base import (
    CUT,
    EQUAL_DATA,
    IDENTICAL,
    IDENTICAL_UNPACKED,
    LOSSY,
    Adapter,
    Candidate,
    Coordinate,
    Discovery,
    FileRecord,
    LazyArray,
    Promise,
    RestoredVolume,
    RestoreInfo,
    SideArray,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.originals import keep_originals
from adapters.registry import content_sha256, discover, open_source, restore_source

__all__ = [
    "CUT",
    "EQUAL_DATA",
    "IDENTICAL",
    "IDENTICAL_UNPACKED",
    "LOSSY",
    "Adapter",
    "Candidate",
    "Coordinate",
    "Discovery",
    "FileRecord",
    "LazyArray",
    "Promise",
    "RestoreInfo",
    "RestoredVolume",
    "SideArray",
    "Skipped",
    "SourceError",
    "SourceItem",
    "Volume",
    "WrittenFile",
    "content_sha256",
    "discover",
    "keep_originals",
    "open_source",
    "restore_source",
]
