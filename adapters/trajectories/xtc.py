"""XTC files of GROMACS: frames of compressed integers, through chemfiles, and their headers.

The lengths of frames are walked here, before the library sees the file. It gives positions as
floats; the integers that the file holds are these times the precision. Decompressed once per
process into an unnamed file, they are mapped from there: memory stays bounded.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError
from adapters.trajectories.records import XTC, Layout, bad_frame, mapped

__all__ = ["PLAIN_ATOMS", "XtcArray", "packed_frames", "xtc_layout"]

PLAIN_ATOMS = 9  # frames of so many atoms or fewer are plain floats
_MAGIC, _MAGIC_64 = 1995, 2023
_HEAD = 56  # magic, atoms, step, time, box, atoms again
_PACKED_HEAD = 92  # precision, limits and size behind it
_MOST_ATOMS_PER_BYTE = 2  # less than nine bits of an atom cannot be written
_KEPT = 2
_ANGSTROM = 10.0  # per nanometre
_header = np.dtype(
    [("magic", ">i4"), ("atoms", ">i4"), ("step", ">i4"), ("time", ">f4"), ("box", ">f4", (3, 3))]
)

_spools: OrderedDict[tuple[Any, ...], IO[bytes]] = OrderedDict()
_lock = threading.Lock()


def xtc_layout(path: Path) -> Layout:
    """Walk an XTC file.

    Raises
    ------
    SourceError : kind ``"not-trajectory"``, ``"damaged"``, ``"truncated"``,
        ``"unsupported-type"``, ``"extra-missing"``, or ``"unsupported-volume"`` (frames of several
        numbers of atoms).
    """
    _require_chemfiles(path)
    data = mapped(path)
    starts, around, at, precisions = list[int](), list[bytes](), 0, set[float]()
    atoms = _first_atoms(data, path)
    packed = atoms > PLAIN_ATOMS
    while at < len(data):
        head = data[at : at + _PACKED_HEAD].tobytes()
        end = at + _frame_bytes(head, atoms, len(starts), path)
        if end > len(data):
            raise bad_frame(path, f"frame {len(starts)} breaks off at offset {at}", "truncated")
        starts.append(at)
        around.append(head[: _HEAD + 4 * packed])
        if packed:
            precisions.add(float(np.frombuffer(head, ">f4", 1, _HEAD)[0]))
        at = end
    heads = np.frombuffer(b"".join(part[:52] for part in around), _header)
    wrong = [p for p in precisions if not (np.isfinite(p) and p > 0)]
    if packed and wrong:
        raise bad_frame(path, f"found a precision of {wrong[0]:g}")
    precision = None
    if packed:
        precision = precisions.pop() if len(precisions) == 1 else float("nan")
    return Layout(
        path,
        XTC,
        atoms,
        len(starts),
        ">",
        0,
        np.array(starts, np.int64),
        b"".join(around),
        heads["time"].astype("f4"),
        heads["step"].astype("i4"),
        heads["box"].astype("f4"),
        precision,
    )


def _first_atoms(data: Array, path: Path) -> int:
    start = data[:8].tobytes()
    magic = int.from_bytes(start[:4], "big")
    if magic == _MAGIC_64:
        raise bad_frame(path, "found frames with sizes of 64 bits", "unsupported-type")
    if magic != _MAGIC or len(start) < 8:
        raise SourceError(
            f"expected an XTC trajectory, the file begins with {start!r}",
            kind="not-trajectory",
            path=path,
        )
    return int.from_bytes(start[4:], "big", signed=True)


def _frame_bytes(head: bytes, atoms: int, number: int, path: Path) -> int:
    """Bytes of a frame, from its first ones."""
    wanted = _PACKED_HEAD if atoms > PLAIN_ATOMS else _HEAD
    if len(head) < wanted:
        raise bad_frame(path, f"frame {number} breaks off", "truncated")
    magic, own = np.frombuffer(head, ">i4", 2).tolist()
    again = int.from_bytes(head[52:56], "big", signed=True)
    if magic != _MAGIC:
        raise bad_frame(path, f"frame {number} begins with {head[:4]!r}")
    if own != atoms and own > 0:
        kind = "unsupported-volume"
        raise bad_frame(path, f"frame {number} has {own} atoms and the first one {atoms}", kind)
    if own != again or atoms < 1:
        raise bad_frame(path, f"frame {number} has {own} and {again} atoms")
    if atoms <= PLAIN_ATOMS:
        return _HEAD + 12 * atoms
    size = int.from_bytes(head[88:92], "big", signed=True)
    if size <= 0 or atoms > _MOST_ATOMS_PER_BYTE * size:
        raise bad_frame(path, f"frame {number} has {atoms} atoms in {size} bytes")
    return _PACKED_HEAD + size + -size % 4


@dataclass(frozen=True)
class XtcArray:
    """Positions (spatial, frame, atom): integers of one precision, or floats in nanometre.

    See ``LazyArray``.
    """

    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return (3, self.layout.frames, self.layout.atoms)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values, native byte order."""
        whole = self.layout.precision is not None and np.isfinite(self.layout.precision)
        return np.dtype(np.int32 if whole else np.float32)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        box = tuple(slice(start, stop) for start, stop in selection_bounds(key, self.shape))
        spatial, frames, atoms = box
        if not self.layout.is_packed:
            return np.array(_plain(self.layout)[spatial, frames, atoms], "f4", order="C")
        stored = (self.layout.frames, 3, self.layout.atoms)
        values = np.memmap(_spooled(self), self.dtype, "r", 0, stored)
        return np.array(values.transpose(1, 0, 2)[spatial, frames, atoms], order="C")


def _plain(layout: Layout) -> Array:
    size = _HEAD + 12 * layout.atoms
    data = mapped(layout.path)
    if len(data) < layout.frames * size:
        raise bad_frame(layout.path, "it is shorter than when it was opened", "truncated")
    shape = (3, layout.frames, layout.atoms)
    return np.ndarray(shape, ">f4", data, _HEAD, (4, size, 12))


def _spooled(array: XtcArray) -> IO[bytes]:
    """All values of a file, frame by frame, in an unnamed file."""
    state = array.layout.path.stat()
    key = (array.layout.path, state.st_size, state.st_mtime_ns, state.st_ino)
    with _lock:
        if key not in _spools:
            _spools[key] = _decompressed(array)
        _spools.move_to_end(key)
        while len(_spools) > _KEPT:
            _spools.popitem(last=False)  # closed once the last map of it is gone
        return _spools[key]


def _decompressed(array: XtcArray) -> IO[bytes]:
    """Positions of all frames; the library refuses some sound heads, which it then gets plain."""
    path = array.layout.path
    try:
        return _read(array, path)
    except SourceError as error:
        if error.kind != "damaged":
            raise
    with tempfile.NamedTemporaryFile(suffix=XTC) as plain:
        _write_plain_heads(plain, array.layout)
        return _read(array, Path(plain.name))


def _write_plain_heads(stream: IO[bytes], layout: Layout) -> None:
    """Copy a file with step, time and box of every frame as 0: they are known from its heads.

    Steps past 2^31, as long runs have, and boxes that no unit cell is, are refused by the library.
    """
    data = mapped(layout.path)
    ends = [*layout.starts[1:].tolist(), len(data)]
    for start, end in zip(layout.starts.tolist(), ends, strict=True):
        frame = data[start:end].tobytes()
        stream.write(frame[:8] + bytes(44) + frame[52:])
    stream.flush()


def _read(array: XtcArray, place: Path) -> IO[bytes]:
    layout, scale = array.layout, array.layout.precision
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as it is kept
    try:
        with _opened(place, named=layout.path) as trajectory:
            if trajectory.nsteps != layout.frames:
                found = f"the library finds {trajectory.nsteps} frames of {layout.frames}"
                raise bad_frame(layout.path, found)
            for number in range(layout.frames):
                frame = trajectory.read_step(number)  # its positions are a view of it
                values = (frame.positions.T / _ANGSTROM).astype(np.float32)
                if array.dtype.kind == "i":
                    whole = np.rint(values.astype(np.float64) * scale)
                    if not (np.abs(whole) < 2**31).all():
                        raise bad_frame(layout.path, f"frame {number} has positions too far away")
                    values = whole.astype(np.int32)
                stream.write(np.ascontiguousarray(values).data)
    except SourceError:
        stream.close()
        raise
    stream.flush()
    return stream


def _require_chemfiles(path: Path) -> None:
    if find_spec("chemfiles") is None:
        raise SourceError(
            "XTC files take the extra 'trajectories' of psc-archive, found no chemfiles",
            kind="extra-missing",
            path=path,
            hint="pip install 'psc-archive[trajectories]'",
        )


@contextmanager
def _opened(path: Path, mode: str = "r", named: Path | None = None) -> Iterator[Any]:
    """Give an open ``chemfiles.Trajectory``; errors call it ``named``.

    Raises
    ------
    SourceError : kind ``"extra-missing"``; ``"damaged"``, also for what is done in the block.
    """
    _require_chemfiles(path)
    import chemfiles

    chemfiles.set_warnings_callback(lambda _: None)
    try:
        with chemfiles.Trajectory(str(path), mode, "XTC") as trajectory:
            yield trajectory
    except chemfiles.ChemfilesError as error:
        found = "its compressed positions cannot be read"
        raise bad_frame(named or path, found) from error


def packed_frames(nanometre: Array, precisions: Array, folder: Path) -> list[bytes]:
    """Compress positions; gives what follows the precision in each frame.

    Parameters
    ----------
    nanometre : (3, frames, atoms) float64
    precisions : (frames,) float
    folder : Path
        Gets a file for a moment.
    """
    import chemfiles

    place = folder / "frames.xtc"
    with _opened(place, "w") as trajectory:
        for number, precision in enumerate(precisions):
            frame = chemfiles.Frame()
            frame.resize(nanometre.shape[2])
            frame.positions[:] = nanometre[:, number].T * _ANGSTROM
            frame["xtc_precision"] = float(precision)
            trajectory.write(frame)
    data, atoms = place.read_bytes(), nanometre.shape[2]
    place.unlink()
    made, at = list[bytes](), 0
    while at < len(data):
        size = _frame_bytes(data[at : at + _PACKED_HEAD], atoms, len(made), place)
        made.append(data[at + _HEAD + 4 : at + size])
        at += size
    return made
