"""Archives: one Zarr v3 tree that is written once, sealed by a manifest, and read by region.

Importing this package loads Zarr but no network library.
"""

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
