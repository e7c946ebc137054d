"""DCD files of CHARMM, NAMD, X-PLOR and LAMMPS: Fortran records of either byte order.

A head of three records (``CORD`` and twenty numbers, titles, the number of atoms), a fourth with
the atoms that move where some are fixed, and for each frame a cell (optional) and the x, y and z of
all atoms, of those that move after the first frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.errors import SourceError
from adapters.trajectories.records import DCD, Layout, bad_frame, mapped

__all__ = ["CELL_BYTES", "FIRST", "TICK_PS", "DcdArray", "dcd_layout"]

FIRST = 92  # bytes of the first record with its lengths
CELL_BYTES = 56
TICK_PS = 0.04888821  # CHARMM's unit of time
_TITLE = 80
_MOST_TITLES = 1 << 16
_MOST_AROUND = 256 << 20
_START, _EVERY, _FIXED, _DELTA, _CELL, _FOURTH, _VERSION = 1, 2, 8, 9, 10, 11, 19


def dcd_layout(path: Path) -> Layout:
    """Walk a DCD file.

    Raises
    ------
    SourceError : kind ``"not-trajectory"``, ``"damaged"``, ``"truncated"``, ``"too-large"``,
        ``"no-volume"``, or ``"unsupported-type"`` (velocities, lengths of 64 bits).
    """
    data = mapped(path)
    order = _byte_order(data, path)
    word = np.dtype(f"{order}i4")
    counts = data[8:88].view(word)
    at, title = _record(data, FIRST, word, path)
    if len(title) < 4 or (len(title) - 4) % _TITLE or len(title) > _MOST_TITLES * _TITLE:
        raise bad_frame(path, f"found titles of {len(title)} bytes")
    at, number = _record(data, at, word, path)
    atoms, fixed = (int(number.view(word)[0]) if len(number) == 4 else 0), int(counts[_FIXED])
    if atoms < 1 or not 0 <= fixed < atoms:
        raise bad_frame(path, f"found {atoms} atoms of which {fixed} are fixed")
    free = None
    if fixed:
        at, moving = _record(data, at, word, path)
        free = _checked(moving.view(word).astype(np.int64) - 1, atoms, atoms - fixed, path)
    charmm = bool(counts[_VERSION])
    cell = CELL_BYTES if charmm and counts[_CELL] else 0
    extra = bool(charmm and counts[_FOURTH])
    moving_atoms = atoms - fixed
    sizes = [_frame_bytes(n, cell, fourth=extra) for n in (atoms, moving_atoms)]
    frames = _frames(len(data), at, sizes, path)
    starts = at + np.concatenate([[0], sizes[0] + sizes[1] * np.arange(frames - 1)]).astype("i8")
    around = [data[:at].tobytes()]
    for first, count, n, size in ((0, 1, atoms, sizes[0]), (1, frames - 1, moving_atoms, sizes[1])):
        block = data[starts[first] :][: count * size].reshape(count, size) if count else None
        if block is not None:
            around.append(_around(block, n, cell, word, path, fourth=extra))
    step, time = _times(counts, data, frames, charmm=charmm, order=order)
    cells = _cells(data, starts, order) if cell else None
    return Layout(
        path,
        DCD,
        atoms,
        frames,
        order,
        at,
        starts,
        b"".join(around),
        time,
        step,
        cells,
        free=free,
        cell_bytes=cell,
        extra=int(extra),
    )


def _byte_order(data: Array, path: Path) -> str:
    start = data[:12].tobytes()
    for order, name in (("<", "little"), (">", "big")):
        if int.from_bytes(start[:8], name) == 84 and len(data) > FIRST:  # type: ignore[arg-type]
            raise bad_frame(path, "found records with lengths of 64 bits", "unsupported-type")
        if int.from_bytes(start[:4], name) != 84:  # type: ignore[arg-type]
            continue
        if start[4:8] == b"VELD":
            raise bad_frame(path, "found velocities", "unsupported-type")
        if start[4:8] == b"CORD" and len(data) < FIRST:
            raise bad_frame(path, f"it ends after {len(data)} bytes", "truncated")
        if start[4:8] == b"CORD" and int(data[88:92].view(f"{order}i4")[0]) == 84:
            return order
    raise SourceError(
        f"expected a DCD trajectory, the file begins with {start!r}",
        kind="not-trajectory",
        path=path,
    )


def _record(data: Array, at: int, word: np.dtype[np.generic], path: Path) -> tuple[int, Array]:
    """Where the record behind another one ends, and what it holds."""
    if at + 4 > len(data):
        raise bad_frame(path, f"its head breaks off at offset {at}", "truncated")
    size = int(data[at : at + 4].view(word)[0])
    end = at + 8 + size
    if size < 0:
        raise bad_frame(path, f"found a record of {size} bytes at offset {at}")
    if end > len(data):
        raise bad_frame(
            path, f"a record of {size} bytes at offset {at} passes its end", "truncated"
        )
    if int(data[end - 4 : end].view(word)[0]) != size:
        raise bad_frame(path, f"the record at offset {at} has two lengths")
    return end, np.frombuffer(data[at + 4 : end - 4].tobytes(), np.uint8)


def _checked(free: Array, atoms: int, count: int, path: Path) -> Array:
    if len(free) != count or free.min() < 0 or free.max() >= atoms or len(set(free)) != count:
        raise bad_frame(path, "its list of the atoms that move makes no sense")
    return free


def _frame_bytes(atoms: int, cell: int, *, fourth: bool) -> int:
    return cell + (4 if fourth else 3) * (8 + 4 * atoms)


def _frames(size: int, at: int, sizes: list[int], path: Path) -> int:
    if size == at:
        raise bad_frame(path, "it has no frame", "no-volume")
    left = size - at - sizes[0]
    if left < 0 or left % sizes[1]:
        number = 0 if left < 0 else left // sizes[1] + 1
        raise bad_frame(path, f"frame {number} breaks off at the end of the file", "truncated")
    return 1 + left // sizes[1]


def _around(
    block: Array, atoms: int, cell: int, word: np.dtype[np.generic], path: Path, *, fourth: bool
) -> bytes:
    """What frames have beside positions, one frame after another; their lengths are checked."""
    run = 4 * atoms
    lengths = [(0, 48), (52, 48)] if cell else []
    for axis in range(4 if fourth else 3):
        begin = cell + axis * (8 + run)
        lengths += [(begin, run), (begin + 4 + run, run)]
    for place, wanted in lengths:
        found = np.ascontiguousarray(block[:, place : place + 4]).view(word)[:, 0]
        if (found != wanted).any():
            frame = int(np.argmax(found != wanted))
            raise bad_frame(
                path,
                f"a record of frame {frame} has {int(found[frame])} bytes in place of {wanted}",
            )
    kept = np.ones(block.shape[1], bool)
    for axis in range(3):
        begin = cell + axis * (8 + run) + 4
        kept[begin : begin + run] = False
    if int(kept.sum()) * len(block) > _MOST_AROUND:
        raise bad_frame(path, f"over {_MOST_AROUND >> 20} MiB lie beside positions", "too-large")
    return np.ascontiguousarray(block[:, kept]).tobytes()


def _times(
    counts: Array, data: Array, frames: int, *, charmm: bool, order: str
) -> tuple[Array | None, Array | None]:
    """Number of the step and time (ps) of each frame, where the head knows them."""
    every = int(counts[_EVERY])
    if every <= 0:
        return None, None
    step = int(counts[_START]) + every * np.arange(frames, dtype=np.int64)
    at = 8 + 4 * _DELTA
    delta = float(data[at : at + 4].view(f"{order}f4")[0])
    if not charmm:
        delta = float(np.frombuffer(data[at : at + 8].tobytes(), f"{order}f8")[0])
    known = math.isfinite(delta) and 0 < delta < 1e6
    return step, step * delta * TICK_PS if known else None


def _cells(data: Array, starts: Array, order: str) -> Array:
    """A, B, C and alpha, beta, gamma; in the file gamma, beta and alpha stand between lengths."""
    found = np.empty((len(starts), 6))
    for number, start in enumerate(starts):
        stored = np.frombuffer(data[start + 4 : start + 52].tobytes(), f"{order}f8")
        found[number] = stored[[0, 2, 5, 4, 3, 1]]
    return found


@dataclass(frozen=True)
class DcdArray:
    """Positions where they lie in the file: (spatial, frame, atom) float32. See ``LazyArray``."""

    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return (3, self.layout.frames, self.layout.atoms)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values, native byte order."""
        return np.dtype(np.float32)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        spatial, frames, atoms = (slice(start, stop) for start, stop in bounds)
        free, count = self.layout.free, self.layout.frames
        if free is None:
            return np.array(
                self._runs(0, count, self.layout.atoms)[spatial, frames, atoms], "f4", order="C"
            )
        first = np.array(self._runs(0, 1, self.layout.atoms)[spatial, :, atoms], "f4")
        made = np.repeat(first, frames.stop - frames.start, axis=1)
        later = slice(max(frames.start, 1), frames.stop)
        inside = (free >= atoms.start) & (free < atoms.stop)
        if later.start < later.stop:
            moved = self._runs(1, count - 1, len(free))
            own = moved[spatial, later.start - 1 : later.stop - 1][:, :, inside]
            made[:, later.start - frames.start :, free[inside] - atoms.start] = own
        return made

    def _runs(self, first: int, count: int, atoms: int) -> Array:
        layout = self.layout
        size = _frame_bytes(atoms, layout.cell_bytes, fourth=bool(layout.extra))
        start = int(layout.starts[first]) + layout.cell_bytes + 4
        data = mapped(layout.path)
        if start + (count - 1) * size + 3 * (8 + 4 * atoms) - 8 > len(data):
            raise bad_frame(layout.path, "it is shorter than when it was opened", "truncated")
        strides = (8 + 4 * atoms, size, 4)
        return np.ndarray((3, count, atoms), f"{layout.order}f4", data, start, strides)
