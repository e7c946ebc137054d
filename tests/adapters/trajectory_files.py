"""DCD and XTC files as programs of molecular dynamics leave them, through chemfiles.

It writes DCD in little-endian order with all atoms moving; others are made of its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import chemfiles
import numpy as np

ATOMS, FRAMES = 40, 6


def positions(frames: int = FRAMES, atoms: int = ATOMS) -> np.ndarray:
    """Angstrom, (frame, atom, spatial): a chain that trembles in a drifting box."""
    random = np.random.default_rng(2)
    chain = np.cumsum(random.normal(0, 0.85, (atoms, 3)), axis=0) + 30
    trembling = random.normal(0, 0.3, (frames, atoms, 3))
    drift = np.cumsum(random.normal(0, 0.05, (frames, 1, 3)), axis=0)
    return (chain + trembling + drift).astype(np.float32).astype(np.float64)


def write(
    path: Path,
    *,
    frames: int = FRAMES,
    atoms: int = ATOMS,
    precisions: Sequence[float] = (1000.0,),
    order: str = "<",
    fixed: int = 0,
) -> Path:
    """Write one file; ``precisions`` go round, ``fixed`` atoms are the first ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with chemfiles.Trajectory(str(path), "w") as file:
        for number, values in enumerate(positions(frames, atoms)):
            frame = chemfiles.Frame()
            frame.resize(atoms)
            frame.positions[:] = values
            frame.cell = chemfiles.UnitCell([60.0, 61.0 + number, 62.0], [90.0, 90.0, 90.0])
            frame.step = 500 * number
            frame["time"] = 2.0 * number
            frame["xtc_precision"] = float(precisions[number % len(precisions)])
            file.write(frame)
    if path.suffix == ".dcd" and (order, fixed) != ("<", 0):
        path.write_bytes(_rewritten(path.read_bytes(), order, fixed))
    return path


def records(data: bytes) -> list[bytes]:
    """Fortran records of a little-endian file."""
    made, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        made.append(data[at + 4 : at + 4 + size])
        at += size + 8
    return made


def joined(parts: Sequence[bytes], order: str = "<") -> bytes:
    """A file of these records."""
    lengths = [np.array(len(part), f"{order}i4").tobytes() for part in parts]
    return b"".join(n + part + n for n, part in zip(lengths, parts, strict=True))


def _rewritten(data: bytes, order: str, fixed: int) -> bytes:
    head, titles, count, *frames = records(data)
    atoms = int.from_bytes(count, "little")
    counts = np.frombuffer(head[4:], "<i4").copy()
    counts[8] = fixed
    words = [counts, np.frombuffer(titles[:4], "<i4"), np.frombuffer(count, "<i4")]
    first, many, last = (part.astype(f"{order}i4").tobytes() for part in words)
    parts = [b"CORD" + first, many + titles[4:], last]
    if fixed:
        parts.append(np.arange(fixed + 1, atoms + 1).astype(f"{order}i4").tobytes())
    for number, frame in enumerate(frames):
        kind = "f8" if len(frame) == 48 else "f4"
        values = np.frombuffer(frame, f"<{kind}").astype(order + kind)
        later = fixed if kind == "f4" and number > 3 else 0
        parts.append(values[later:].tobytes())
    return joined(parts, order)
