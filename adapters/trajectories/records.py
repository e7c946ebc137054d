"""Where the numbers of a trajectory lie: its records, walked and checked before anything is read.

A file is a head and frames. A frame is three runs of numbers (DCD), or one that is compressed
(XTC), and the bytes around them: all but the numbers is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.base import Array
from adapters.errors import SourceError

__all__ = ["DCD", "XTC", "Layout", "bad_frame", "mapped"]

DCD = ".dcd"
XTC = ".xtc"


@dataclass(frozen=True)
class Layout:
    """What a walk through a file found.

    Attributes
    ----------
    path : Path
    form : str
        ``".dcd"`` or ``".xtc"``.
    atoms, frames : int
    order : str
        Byte order of numbers, ``"<"`` or ``">"``.
    head : int
        Bytes before the first frame.
    starts : (frames,) int64
        Offset of each frame.
    around : bytes
        The head and what frames have beside their positions, one after another.
    time : (frames,) float or None
        Picoseconds.
    step : (frames,) int32 or None
    cell : array or None
        What frames say of the unit cell: (frames, 6) float64 of DCD, (frames, 3, 3) float32 of XTC.
    precision : float or None
        Steps per nanometre of a compressed file; NaN where frames have several.
    free : (atoms that move,) int64 or None
        Numbers of these atoms, of which alone frames after the first one say anything.
    cell_bytes, extra : int
        Of DCD: bytes of the record of the cell, and of a fourth coordinate of each atom.
    """

    path: Path
    form: str
    atoms: int
    frames: int
    order: str
    head: int
    starts: Array
    around: bytes
    time: Array | None
    step: Array | None
    cell: Array | None
    precision: float | None = None
    free: Array | None = None
    cell_bytes: int = 0
    extra: int = 0

    @property
    def is_packed(self) -> bool:
        """Whether positions are compressed integers."""
        return self.precision is not None


def mapped(path: Path) -> Array:
    """All bytes of a file as a map: uint8, not to be written.

    Raises
    ------
    SourceError : kind ``"not-trajectory"``, ``"unreadable"``.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            raise SourceError(
                "expected a trajectory, found an empty file or none",
                kind="not-trajectory",
                path=path,
            )
        return np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error


def bad_frame(path: Path, what: str, kind: str = "damaged") -> SourceError:
    """The error for a file that is not what its own records say."""
    sound = kind in ("no-volume", "unsupported-type", "unsupported-volume")
    hint = None if sound else "fetch the file again from its source"
    return SourceError(f"expected a sound trajectory, {what}", kind=kind, path=path, hint=hint)
