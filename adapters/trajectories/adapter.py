"""DCD and XTC trajectories: positions as stored, time, step and unit cell beside them.

A DCD file comes back from its positions and the bytes around them. An XTC file has positions as
integers, compressed in the one way that GROMACS has: they are archived as these integers and
compressed again, which the proof before sealing compares with the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    Array,
    Candidate,
    Coordinate,
    Discovery,
    RestoredVolume,
    RestoreInfo,
    SideArray,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.source_files import file_records, safe_name
from adapters.trajectories.dcd import DcdArray, dcd_layout
from adapters.trajectories.held import HeldArray
from adapters.trajectories.records import DCD, XTC, Layout
from adapters.trajectories.restore import POSITIONS, restore_trajectory
from adapters.trajectories.xtc import XtcArray, xtc_layout

__all__ = ["TrajectoriesAdapter"]

_CELLS = {
    DCD: (
        "unit_cell",
        ("frame", "cell"),
        "a, b, c in angstrom, then alpha, beta, gamma as the file has them (degrees or cosines)",
    ),
    XTC: ("box", ("frame", "vector", "spatial"), "the three vectors of the box, by rows"),
}


class TrajectoriesAdapter:
    """Reads and writes DCD and XTC; see ``adapters.base.Adapter``."""

    kind = "trajectories"

    def sniff(self, path: Path) -> bool:
        """Tell by name, or by the first record of every DCD file."""
        if path.suffix.lower() in (DCD, XTC):
            return True
        with path.open("rb") as stream:
            start = stream.read(8)
        return start[4:] == b"CORD" and 84 in (
            int.from_bytes(start[:4], "little"),
            int.from_bytes(start[:4], "big"),
        )

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per file that can be read."""
        candidates, skipped = [], []
        for path in files:
            try:
                _layout(path)
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                continue
            name = safe_name(path.stem, "trajectory")
            candidates.append(Candidate(self.kind, name, (path,), path.as_posix()))
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Walk the records of one file; positions are read later."""
        (path,) = candidate.paths
        layout = _layout(path)
        return SourceItem(
            kind=self.kind,
            name=candidate.name,
            volumes=(_volume(layout),),
            document=_record(layout),
            blobs={"around": layout.around},
            files=file_records([path]),
            suggested_prior=None,
            notes=(),
            arrays=() if layout.cell is None else (_cell(layout, layout.cell),),
            groups={"": {"format": layout.form[1:].upper()}},
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write the file again, or one with part of it; see ``adapters.trajectories.restore``."""
        return restore_trajectory(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of the bytes."""
        return file_records([path])[0].sha256


def _layout(path: Path) -> Layout:
    return xtc_layout(path) if path.suffix.lower() == XTC else dcd_layout(path)


def _volume(layout: Layout) -> Volume:
    whole = layout.precision is not None and np.isfinite(layout.precision)
    return Volume(
        name=POSITIONS,
        array=XtcArray(layout) if layout.form == XTC else DcdArray(layout),
        dims=("spatial", "frame", "atom"),
        affine=None,
        spacing_mm=None,
        unit="nm" if layout.form == XTC else "angstrom",
        slope=1 / layout.precision if whole and layout.precision else None,
        intercept=0.0 if whole else None,
        special_values=(),
        coordinates=_coordinates(layout),
        attrs={},
    )


def _coordinates(layout: Layout) -> tuple[Coordinate, ...]:
    made = [Coordinate("spatial", ("spatial",), np.array(["x", "y", "z"]), {})]
    if layout.time is not None:
        made.append(Coordinate("time", ("frame",), layout.time, {"units": "picosecond"}))
    if layout.step is not None:
        made.append(Coordinate("step", ("frame",), layout.step, {}))
    return tuple(made)


def _cell(layout: Layout, values: Array) -> SideArray:
    name, dims, words = _CELLS[layout.form]
    attrs = {"long_name": words} | ({"units": "nm"} if layout.form == XTC else {})
    return SideArray(name, HeldArray(values), dims, attrs)


def _record(layout: Layout) -> dict[str, Any]:
    """What has to be known to write the file, but for the bytes around its numbers."""
    array: DcdArray | XtcArray = XtcArray(layout) if layout.form == XTC else DcdArray(layout)
    cell = None
    if layout.cell is not None:
        cell = {"array": _CELLS[layout.form][0], "shape": list(layout.cell.shape)}
        cell["dtype"] = layout.cell.dtype.str
    return {
        "document_version": 0,
        "names": [layout.path.name],
        "format": layout.form[1:],
        "frames": layout.frames,
        "atoms": layout.atoms,
        "dtype": array.dtype.str,
        "order": layout.order,
        "packed": layout.is_packed,
        "head": layout.head,
        "cell_bytes": layout.cell_bytes,
        "fourth": bool(layout.extra),
        "moving": layout.atoms if layout.free is None else len(layout.free),
        "cell": cell,
    }
