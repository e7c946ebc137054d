"""Archives: one Zarr v3 tree that is written once, sealed by a manifest, and read by region.

Importing this package loads nothing: each name comes from its module when it is first asked for, so
that what an archive says of itself is read without Zarr, and no network library is ever loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psc_volumetric.archive.checking import Finding, verify, verify_archive
    from psc_volumetric.archive.copying import copy_archive
    from psc_volumetric.archive.decoded import decoded_regions
    from psc_volumetric.archive.journal import BrickRecord
    from psc_volumetric.archive.layout import FORMAT, SUFFIXES, VariableSpec
    from psc_volumetric.archive.manifest import Entry, Manifest
    from psc_volumetric.archive.prepared import PreparedArchive
    from psc_volumetric.archive.quota import Quota
    from psc_volumetric.archive.reader import ArchiveReader, DecodedRegion
    from psc_volumetric.archive.salvage import Salvage
    from psc_volumetric.archive.skeleton import Beside, PlainCoordinate
    from psc_volumetric.archive.source import SourceFile, SourceRecord
    from psc_volumetric.archive.summary import summarise
    from psc_volumetric.archive.targets import target_state, tidy_up
    from psc_volumetric.archive.tiles import TileTable
    from psc_volumetric.archive.writer import ArchiveWriter

__all__ = [
    "FORMAT",
    "SUFFIXES",
    "ArchiveReader",
    "ArchiveWriter",
    "Beside",
    "BrickRecord",
    "DecodedRegion",
    "Entry",
    "Finding",
    "Manifest",
    "PlainCoordinate",
    "PreparedArchive",
    "Quota",
    "Salvage",
    "SourceFile",
    "SourceRecord",
    "TileTable",
    "VariableSpec",
    "copy_archive",
    "decoded_regions",
    "summarise",
    "target_state",
    "tidy_up",
    "verify",
    "verify_archive",
]

_MODULES = {
    "Finding": "checking",
    "verify": "checking",
    "verify_archive": "checking",
    "copy_archive": "copying",
    "decoded_regions": "decoded",
    "BrickRecord": "journal",
    "FORMAT": "layout",
    "SUFFIXES": "layout",
    "VariableSpec": "layout",
    "Entry": "manifest",
    "Manifest": "manifest",
    "PreparedArchive": "prepared",
    "Quota": "quota",
    "ArchiveReader": "reader",
    "DecodedRegion": "reader",
    "Salvage": "salvage",
    "Beside": "skeleton",
    "PlainCoordinate": "skeleton",
    "SourceFile": "source",
    "SourceRecord": "source",
    "summarise": "summary",
    "target_state": "targets",
    "tidy_up": "targets",
    "TileTable": "tiles",
    "ArchiveWriter": "writer",
}


def __getattr__(name: str) -> Any:
    """Load the module of a name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
