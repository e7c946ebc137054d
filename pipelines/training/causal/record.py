"""Record what a network sees of crops of training volumes, as the coder goes over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.training.causal.seen import Seen, seen_in
from pipelines.training.causal.sources import ERRORS, Source, opened, split
from psc_volumetric.coders.context.given import Cells
from psc_volumetric.coders.context.network import INPUTS
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["ROW", "Recorded", "record"]

SHAPES = (
    (8, 144, 144), (5, 180, 180), (12, 110, 120), (3, 256, 200), (1, 400, 300), (8, 144, 144),
    (6, 160, 160),
)  # fmt: skip
CROPS = 2  # of each volume at each error
REFINED = 0.5  # share of bounded crops of integers that are refinements instead
KEPT = 0.3  # share of voxels
ROW = np.dtype([("inputs", "<i2", (INPUTS,)), ("facts", "<i4", (4,))])

Report = Callable[[str], object]


@dataclass(frozen=True)
class Recorded:
    """What was kept of a crop.

    Attributes
    ----------
    volume, kind : str
    voxels : int
    """

    volume: str
    kind: str
    voxels: int


def record(data: Sequence[Path], out: Path, *, seed: int, report: Report) -> int:
    """Write rows of ``ROW``, a file for each training volume, and what they are of; counts them.

    Parameters
    ----------
    data : sequence of Path
        Files and folders; held-out volumes of the recipes are left out by their paths.
    out : Path
        Folder; recordings with other seeds may be there.
    seed : int
        Of the draw of crops and voxels.
    report : callable
        Takes one line of progress.

    Raises
    ------
    ParameterError
        No volume to train on (kinds ``"no-volumes"``, ``"empty-split"``).
    StorageError
        The seed was recorded before (kind ``"target-exists"``).
    """
    index = out / f"{seed}.json"
    if index.exists():
        raise StorageError(
            f"{index}: seed {seed} is recorded already", kind="target-exists",
            hint="choose another seed, which adds to what is there",
        )  # fmt: skip
    training, held = split(data)
    report(f"{len(training)} sources to train on, {len(held)} held out")
    out.mkdir(parents=True, exist_ok=True)
    crops: list[Recorded] = []
    for number, candidate in enumerate(training):
        rng, rows = np.random.default_rng([seed, number]), []
        for source in opened(candidate):
            for kind, seen in _seen_of(source, rng):
                rows.append(_rows(seen, rng))
                crops.append(Recorded(source.name, kind, len(rows[-1])))
        if rows:
            _write(out / f"{seed}-{number:03d}.npy", np.concatenate(rows))
            report(f"{candidate.name}: {sum(map(len, rows))} voxels of {len(rows)} crops")
    if not crops:
        raise ParameterError(
            f"{len(training)} sources: expected volumes of measurements, found none",
            kind="no-volumes",
            hint="labels, constant and small volumes teach nothing",
        )
    index.write_text(json.dumps([vars(crop) for crop in crops], indent=1))
    return sum(crop.voxels for crop in crops)


def _seen_of(source: Source, rng: np.random.Generator) -> Iterator[tuple[str, Seen]]:
    """Kind of each crop, and what a network would see of it."""
    for error in ERRORS:
        for _ in range(CROPS):
            kind, values, cells = _crop(source, error, rng)
            seen = seen_in(values, cells=cells)
            if seen is not None:
                yield kind, seen


def _crop(
    source: Source, error: int, rng: np.random.Generator
) -> tuple[str, NDArray[np.int64], Cells | None]:
    """Integers of a crop anywhere in a volume, and where they lie if it is a refinement."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    sizes = [min(n, wanted) for n, wanted in zip(source.stored.shape, shape, strict=True)]
    starts = [
        int(rng.integers(0, n - size + 1))
        for n, size in zip(source.stored.shape, sizes, strict=True)
    ]
    a, b, c = (slice(at, at + size) for at, size in zip(starts, sizes, strict=True))
    box = a, b, c
    if error and source.is_integer and rng.random() < REFINED:
        return f"refinement of {source.label(error)}", *source.refined(error, box)
    return source.label(error), source.integers(error, box), None


def _rows(seen: Seen, rng: np.random.Generator) -> NDArray[np.void]:
    """Some of the voxels."""
    kept = rng.random(len(seen.inputs)) < KEPT
    rows = np.zeros(int(kept.sum()), ROW)
    rows["inputs"], rows["facts"] = seen.inputs[kept], seen.facts[kept]
    return rows


def _write(path: Path, rows: NDArray[np.void]) -> None:
    """Under its name only once it is whole."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    partial.replace(path)
