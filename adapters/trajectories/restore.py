"""Writing trajectories again: the same bytes for a whole file, new heads for a part of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from adapters.base import (
    CUT,
    IDENTICAL,
    LOSSY,
    Array,
    RestoredVolume,
    RestoreInfo,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.output import (
    check_stored_type,
    check_volumes_exist,
    file_target,
    loss_note,
    unusable_record,
)
from adapters.source_files import safe_target
from adapters.staging import staged_file
from adapters.trajectories.records import DCD, XTC
from adapters.trajectories.xtc import PLAIN_ATOMS, packed_frames

__all__ = ["POSITIONS", "restore_trajectory"]

POSITIONS = "positions"
_BATCH = 16 << 20
_XTC_HEAD = 56
_DCD_FIRST = 92


@dataclass(frozen=True)
class _Record:
    """What the source document says, checked."""

    name: str
    form: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    order: str
    packed: bool
    head: int
    cell_bytes: int
    fourth: bool
    moving: int
    known: dict[str, tuple[int, ...]]
    around: bytes

    @classmethod
    def of(cls, document: dict[str, Any], blobs: Mapping[str, bytes]) -> _Record:
        """Read it.

        Raises
        ------
        SourceError : kind ``"bad-document"``.
        """
        try:
            cell = document["cell"]
            shape = (3, int(document["frames"]), int(document["atoms"]))
            known: dict[str, tuple[int, ...]] = {POSITIONS: shape}
            if cell is not None:
                known[str(cell["array"])] = tuple(map(int, cell["shape"]))
            made = cls(
                str(document["names"][0]),
                "." + str(document["format"]),
                shape,
                np.dtype(document["dtype"]),
                str(document["order"]),
                bool(document["packed"]),
                int(document["head"]),
                int(document["cell_bytes"]),
                bool(document["fourth"]),
                int(document["moving"]),
                known,
                bytes(blobs["around"]),
            )
            if made.form not in (DCD, XTC) or made.around_bytes != len(made.around):
                raise ValueError(document["format"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise unusable_record("trajectory", error) from error
        return made

    @property
    def around_bytes(self) -> int:
        """Bytes that the file has beside its positions."""
        _, frames, atoms = self.shape
        return self.head + self.beside(atoms) + (frames - 1) * self.beside(self.moving)

    def beside(self, atoms: int) -> int:
        """Bytes that a frame with positions of so many atoms has beside them."""
        if self.form == XTC:
            return _XTC_HEAD + 4 * self.packed
        return self.cell_bytes + 24 + (8 + 4 * atoms if self.fourth else 0)

    def around_frame(self, number: int) -> bytes:
        """What a frame has beside its positions."""
        start = self.head
        if number:
            start += self.beside(self.shape[2]) + (number - 1) * self.beside(self.moving)
        return self.around[start : start + self.beside(self.moving if number else self.shape[2])]


def restore_trajectory(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write one file.

    Raises
    ------
    SourceError : kind ``"bad-region"`` (also for a part of x, y and z), ``"target-exists"``,
        ``"bad-document"``, ``"unsafe-name"``, ``"extra-missing"``.
    """
    record = _Record.of(document, blobs)
    check_volumes_exist([(v.name, v.full_shape) for v in volumes], record.known)
    positions = next((v for v in volumes if v.name == POSITIONS), None)
    if positions is None or positions.array.shape[0] != 3:
        raise SourceError(
            "expected the positions with x, y and z, a trajectory has nothing without them",
            kind="bad-region",
            hint="choose frames and atoms alone",
        )
    check_stored_type(positions.array.dtype, record.dtype, POSITIONS)
    place = file_target(target, safe_target(target, record.name).name, (record.form,))
    with staged_file(place) as (work,), work.open("wb") as stream:
        if record.form == XTC:
            _write_xtc(stream, record, positions)
        elif positions.is_whole and info.lossless:
            _write_same_dcd(stream, record, positions)
        else:
            _write_dcd(stream, record, positions, info)
    outcome = (IDENTICAL if positions.is_whole else CUT) if info.lossless else LOSSY
    return [WrittenFile(place, 0, outcome)]


def _batches(positions: RestoredVolume) -> Iterator[tuple[int, Array]]:
    """Frames, some at a time: the number of the first in the file, and (3, frames, atoms)."""
    _, frames, atoms = positions.array.shape
    step = max(1, _BATCH // (12 * atoms))
    for first in range(0, frames, step):
        key = (slice(0, 3), slice(first, min(first + step, frames)), slice(0, atoms))
        yield positions.start[1] + first, np.asarray(positions.array[key])


def _write_xtc(stream: IO[bytes], record: _Record, positions: RestoredVolume) -> None:
    atoms = positions.array.shape[2]
    count = atoms.to_bytes(4, "big")
    with tempfile.TemporaryDirectory() as folder:
        for first, values in _batches(positions):
            heads = [record.around_frame(first + n) for n in range(values.shape[1])]
            steps = np.array([_precision(head) if record.packed else 1.0 for head in heads])
            nanometre = values.astype(np.float64)
            if record.dtype.kind == "i":
                nanometre = nanometre / steps[:, None]
            if atoms > PLAIN_ATOMS:
                frames = packed_frames(nanometre, steps, Path(folder))
            else:
                heads = [head[:_XTC_HEAD] for head in heads]
                frames = [frame.tobytes() for frame in nanometre.transpose(1, 2, 0).astype(">f4")]
            for head, frame in zip(heads, frames, strict=True):
                stream.write(head[:4] + count + head[8:52] + count + head[56:] + frame)


def _precision(head: bytes) -> float:
    return float(np.frombuffer(head, ">f4", 1, _XTC_HEAD)[0])


def _write_same_dcd(stream: IO[bytes], record: _Record, positions: RestoredVolume) -> None:
    """Write the bytes of the source around its positions."""
    stream.write(record.around[: record.head])
    free = _free(record)
    for first, values in _batches(positions):
        for number in range(values.shape[1]):
            frame = values[:, number]
            if first + number and free is not None:
                frame = frame[:, free]
            around = record.around_frame(first + number)
            at = 0
            for axis, size in enumerate((record.cell_bytes + 4, 8, 8)):
                stream.write(around[at : at + size])
                stream.write(frame[axis].astype(f"{record.order}f4").data)
                at += size
            stream.write(around[at:])


def _free(record: _Record) -> Array | None:
    """Numbers of the atoms that move, from the last record of the head; None where all do."""
    if record.moving == record.shape[2]:
        return None
    end = record.head - 4
    start = end - 4 * record.moving
    found = np.frombuffer(record.around[max(0, start) : end], f"{record.order}i4").astype(int) - 1
    if len(found) != record.moving or found.min() < 0 or found.max() >= record.shape[2]:
        raise unusable_record("trajectory", ValueError("atoms that move"))
    return found


def _write_dcd(
    stream: IO[bytes], record: _Record, positions: RestoredVolume, info: RestoreInfo
) -> None:
    """Write some frames or atoms, or values with loss: a head that says so, all atoms moving."""
    word = np.dtype(f"{record.order}i4")
    _, frames, atoms = positions.array.shape
    counts = np.frombuffer(record.around[8:88], word).copy()
    counts[0], counts[8], counts[11] = frames, 0, 0
    counts[1] += positions.start[1] * counts[2]
    counts[3] = frames * counts[2]
    titles = _record_at(record.around, _DCD_FIRST, word)[4:]
    if not info.lossless:
        titles += loss_note(info).encode("ascii", "replace")[:80].ljust(80)
    title = np.array([len(titles) // 80], word).tobytes() + titles
    for part in (b"CORD" + counts.tobytes(), title, np.array([atoms], word).tobytes()):
        stream.write(_framed(part, word))
    for first, values in _batches(positions):
        for number in range(values.shape[1]):
            stream.write(record.around_frame(first + number)[: record.cell_bytes])
            for axis in range(3):
                run = values[axis, number].astype(f"{record.order}f4").tobytes()
                stream.write(_framed(run, word))


def _record_at(data: bytes, at: int, word: np.dtype[Any]) -> bytes:
    size = int(np.frombuffer(data[at : at + 4], word)[0])
    return data[at + 4 : at + 4 + size]


def _framed(data: bytes, word: np.dtype[Any]) -> bytes:
    length = np.array([len(data)], word).tobytes()
    return length + data + length
