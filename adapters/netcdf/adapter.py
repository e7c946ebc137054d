"""NetCDF files (classic and NetCDF-4): what is a volume, packed as stored, and all that is not.

Every variable keeps its name, group, axes and attributes. A file that the NetCDF library must not
open (half floats, links that lead back or elsewhere) or cannot write again is kept verbatim; what
of it can be read is shown all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.base import (
    EQUAL_DATA,
    Candidate,
    Discovery,
    Promise,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.netcdf.array import LIBRARY, opened
from adapters.netcdf.content import content_differences, content_sha256
from adapters.netcdf.hdf5 import Inspection, in_words, inspect, is_hdf5
from adapters.netcdf.parts import group_attributes, mark_parts, side_arrays, volumes_of
from adapters.netcdf.restore import restore_netcdf
from adapters.netcdf.schema import read_schema
from adapters.source_files import file_records, safe_name

__all__ = ["NetcdfAdapter"]

_SUFFIXES = (".nc", ".nc4", ".cdf")
_DIFFERS = "the bytes of the container, which its library lays out anew"
_NOTHING = "no variable of it can be shown"


class NetcdfAdapter:
    """Reads and writes NetCDF; see ``adapters.base.Adapter``."""

    kind = "netcdf"

    def sniff(self, path: Path) -> bool:
        """Tell by name, or by the signature of the classic formats."""
        if path.name.lower().endswith(_SUFFIXES):
            return True
        with path.open("rb") as stream:
            return stream.read(4) in (b"CDF\1", b"CDF\2", b"CDF\5")

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per file that can be read."""
        candidates, skipped = [], []
        for path in files:
            try:
                _look(path)
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                continue
            name = safe_name(path.stem, "netcdf")
            candidates.append(Candidate("netcdf", name, (path,), path.as_posix()))
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Read structure and attributes of one file; all values are read later."""
        (path,) = candidate.paths
        found = _look(path)
        with opened(path) as dataset:
            document, beyond = read_schema(dataset, found)
            mark_parts(dataset, document)
            volumes = volumes_of(dataset, document, path)
            arrays = side_arrays(dataset, document, path)
            groups = group_attributes(dataset)
        document |= {"document_version": 0, "name": path.name}
        notes = [] if volumes else ["nothing in it is a volume: all of it is kept exactly"]
        if not (volumes or arrays):
            notes, beyond = [], [*beyond, _NOTHING]
        if beyond:
            notes.append(f"the original is kept, it cannot be made again: {in_words(beyond)}")
        return SourceItem(
            kind="netcdf",
            name=candidate.name,
            volumes=volumes,
            document=document,
            blobs={},
            files=(file_records([path])[0].promising(Promise(EQUAL_DATA, _DIFFERS)),),
            suggested_prior="climate-grid",
            notes=tuple(notes),
            arrays=arrays,
            groups=groups,
            beyond_remaking=tuple(dict.fromkeys(beyond)),
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write NetCDF of the same data model; see ``adapters.netcdf.restore``."""
        with LIBRARY:
            return restore_netcdf(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of structure, types, attributes and every value; see ``netcdf_content``."""
        return content_sha256(path)

    def content_differences(self, first: Path, second: Path) -> list[str]:
        """Say in words where two files differ in what `content_sha256` covers."""
        return content_differences(first, second)


def _look(path: Path) -> Inspection:
    """Look at a file without its values: what HDF5 says of it, and whether NetCDF may open it.

    Raises
    ------
    SourceError : kind ``"damaged"``, ``"truncated"``, ``"not-netcdf"`` or ``"too-large"``;
        ``"unsupported-type"`` for a sound file that the NetCDF library must not or cannot open.
    """
    found = inspect(path) if is_hdf5(path) else Inspection()
    reasons = found.perilous
    if not reasons:
        try:
            with opened(path):
                return found
        except SourceError as error:
            # A sound HDF5 file may hold what NetCDF has no place for, such as types of its own.
            if error.kind != "damaged" or not found.declared:
                raise
            reasons = ["the NetCDF library cannot open it"]
    raise SourceError(
        in_words(reasons), kind="unsupported-type", path=path, hint="h5py shows what is in it"
    )
