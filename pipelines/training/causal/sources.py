"""Volumes that causal networks learn from, and integers made of them as layers make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adapters
from adapters.base import Volume
from pipelines.archiving.value_range import judge, too_small
from pipelines.training.recipe import Recipe
from psc_volumetric.coders.context.given import Cells
from psc_volumetric.errors import ParameterError
from psc_volumetric.tiling import Box
from psc_volumetric.values.special import SpecialMap

__all__ = ["ERRORS", "Source", "held_out_patterns", "opened", "split"]

RECIPES = ("mr-head", "ct-body", "climate-grid")
ERRORS = (0, 2, 5, 10)
BITS = {0: 14, 2: 12, 5: 10, 10: 8}  # of integers made of floats, in place of errors
SMALLEST = 8000  # voxels
MOST_MISSING = 0.9  # share of a volume
VARIABLES = 4  # of one file at most, or it would count for more than a scan


@dataclass(frozen=True, eq=False)
class Source:
    """One volume of three axes.

    Attributes
    ----------
    name : str
    stored : (z, y, x) integer or float
        As stored.
    measured : (z, y, x) array
        The same with special voxels replaced by measured ones, as below a bounded layer.
    """

    name: str
    stored: NDArray[Any]
    measured: NDArray[Any]

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The least and the largest measured value."""
        return self.measured.min().item(), self.measured.max().item()

    @property
    def is_integer(self) -> bool:
        """Whether an error means something; floats are cut to so many bits instead."""
        return self.stored.dtype.kind != "f"

    def integers(self, error: int, box: Box) -> NDArray[np.int64]:
        """Values as stored for an error of 0, else indices of a bounded layer (SPEC 8.7).

        Parameters
        ----------
        error : int
            One of `ERRORS` where values are floats.
        box : Box
            Of which voxels.
        """
        (low, high), values = self.ends, self.measured[box]
        if self.is_integer:
            if error == 0:
                return self.stored[box].astype(np.int64)
            return (values.astype(np.int64) - int(low) + error) // (2 * error + 1)
        if error not in BITS:
            raise ParameterError(
                f"{self.name}: errors of floats stand for bits, expected one of {sorted(BITS)}, "
                f"found {error}",
                kind="bad-error",
            )
        top = (1 << BITS[error]) - 1
        shares = (values.astype(np.float64) - low) / (high - low)
        return np.rint(shares * top).astype(np.int64)

    def refined(self, error: int, box: Box) -> tuple[NDArray[np.int64], Cells]:
        """Integer values, and where they can lie above a level with that error (SPEC 8.9)."""
        middle = self.integers(error, box) * (2 * error + 1) + int(self.ends[0])
        return self.measured[box].astype(np.int64), Cells(middle - error, middle + error)

    def label(self, error: int) -> str:
        """What was made of the values, in words."""
        if not self.is_integer:
            return f"{BITS[error]} bits"
        return f"error {error}" if error else "lossless"


def held_out_patterns() -> tuple[str, ...]:
    """Of all recipes with real volumes."""
    return tuple(pattern for name in RECIPES for pattern in Recipe.load(name).held_out)


def split(paths: Sequence[Path]) -> tuple[list[adapters.Candidate], list[adapters.Candidate]]:
    """What is found below ``paths``: for training, and held out.

    Raises
    ------
    ParameterError
        Nothing is found (kind ``"no-volumes"``), or all of it is held out (``"empty-split"``).
    """
    found = [c for path in paths for c in adapters.discover(path).candidates]
    where = ", ".join(str(path) for path in paths)
    if not found:
        raise ParameterError(
            f"{where}: expected files with volumes, found none", kind="no-volumes",
            hint="name a folder with DICOM, NIfTI or NetCDF files",
        )  # fmt: skip
    patterns = held_out_patterns()
    held = [any(p in c.paths[0].as_posix() for p in patterns) for c in found]
    if all(held):
        raise ParameterError(
            f"{where}: expected volumes to train on, found {len(found)} that are all held out",
            kind="empty-split",
            hint="`held_out` of the recipes says which paths are kept for measurements",
        )
    return (
        [c for c, h in zip(found, held, strict=True) if not h],
        [c for c, h in zip(found, held, strict=True) if h],
    )


def opened(candidate: adapters.Candidate) -> Iterator[Source]:
    """Volumes of a source that are measurements: the first few of them, of any size."""
    item, count = adapters.open_source(candidate), 0
    for volume in item.volumes:
        if count == VARIABLES:
            return
        name = item.name if len(item.volumes) == 1 else f"{item.name}.{volume.name}"
        source = _read(volume, name)
        if source is not None:
            count += 1
            yield source


def _read(volume: Volume, name: str) -> Source | None:
    """A volume, unless it is small, mostly missing, or of labels."""
    sampled, reason = judge(volume)
    if sampled is None or reason is not None or too_small(volume):
        return None
    stored = _three_axes(volume)
    if stored.dtype.kind == "f" and _are_whole(stored):  # as some scans are stored
        stored = stored.astype(np.int64)
    special = SpecialMap.find(stored, sampled.special_values)
    missing = 0.0 if special is None else float((special.index > 0).mean())
    if stored.size < SMALLEST or missing > MOST_MISSING:
        return None
    measured = stored if special is None else special.fill(stored, sampled.low)
    if measured.min() == measured.max():
        return None
    return Source(name, stored, measured)


def _three_axes(volume: Volume) -> NDArray[Any]:
    """The first frame of integers; floats of all leading axes one after another."""
    shape = volume.array.shape
    if np.dtype(volume.array.dtype).kind == "f":
        values = volume.array[tuple(slice(0, n) for n in shape)]
        return np.ascontiguousarray(values.reshape(-1, *shape[-2:]))
    first = (slice(0, 1),) * (len(shape) - 3)
    values = volume.array[(*first, *(slice(0, n) for n in shape[-3:]))]
    return np.ascontiguousarray(values.reshape((1, *shape)[-3:]))


def _are_whole(values: NDArray[Any]) -> bool:
    near = np.isfinite(values) & (np.abs(values) < 1 << 24)
    return bool(near.all() and (values == np.rint(values)).all())
