"""Errors of the levels of a variable, counted over all of its voxels, brick by brick."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.reporting.decoded import Decoded
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.looks import is_labels

__all__ = [
    "BINS",
    "Errors",
    "Reference",
    "is_labels",
    "palette_of",
    "physical",
    "scan_errors",
    "unit_of",
]

Values = NDArray[Any]
Doubles = NDArray[np.float64]
Region = tuple[slice, ...]
Reference = Callable[[Region], Values]
"""Stored values of a region, of the source or of a level that has every bit."""

BINS = 41
PICTURES = frozenset(("PNG", "TIFF", "JPEG"))  # attribute `format`
MOST_VOXELS = 1 << 26  # of a scan; of larger variables every n-th brick is looked at


def physical(values: Values, spec: VariableSpec) -> Doubles:
    """Physical values of stored ones; special values are NaN."""
    found = values.astype(np.float64)
    for special in spec.special_values:
        found[values == special] = np.nan
    found[~np.isfinite(found)] = np.nan
    slope = 1.0 if spec.slope is None else spec.slope
    return found * slope + (0.0 if spec.intercept is None else spec.intercept)


def unit_of(spec: VariableSpec) -> str:
    """What physical values are counted in, as people say it."""
    return spec.unit or ("stored units" if spec.slope in (None, 1.0) else "physical units")


def palette_of(spec: VariableSpec) -> str:
    """Grey for scans, photographs and what telescopes saw; colours for maps of other fields."""
    pictures = spec.attrs.get("format") in PICTURES or "WCSAXES" in spec.attrs
    return "grey" if spec.affine is not None or pictures else "field"


@dataclass
class Errors:
    """What a scan found, physical units.

    Attributes
    ----------
    bound : float
        Half the width of the histogram: the largest error, or the guaranteed one.
    counts : (BINS,) int64
        Voxels by error, from -bound to bound.
    voxels, unequal : int
    largest : float
    squares : float
    along : dict
        Index along the first axis -> (voxels, sum of squares).
    share : float
        Of the bricks, how many were looked at.
    """

    bound: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    voxels: int = 0
    unequal: int = 0
    largest: float = 0.0
    squares: float = 0.0
    along: dict[int, tuple[int, float]] = field(default_factory=dict)
    share: float = 1.0

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return math.sqrt(self.squares / self.voxels) if self.voxels else 0.0

    def add(self, errors: Doubles, first: int) -> None:
        """Count a brick; ``first`` is its first index along the first axis."""
        known = np.isfinite(errors)
        for n, (part, valid) in enumerate(zip(errors, known, strict=True)):
            voxels, squares = self.along.get(first + n, (0, 0.0))
            here = float(np.square(part[valid]).sum())
            self.along[first + n] = (voxels + int(valid.sum()), squares + here)
            self.squares += here
        flat = errors[known]
        self.voxels += flat.size
        self.unequal += int(np.count_nonzero(flat))
        self.largest = max(self.largest, float(np.abs(flat).max(initial=0.0)))
        place = np.rint((flat / self.bound + 1) * (BINS // 2)) if self.bound else flat * 0
        self.counts += np.bincount(
            np.clip(place, 0, BINS - 1).astype(np.int64), minlength=BINS
        ).astype(np.int64)


def scan_errors(decoded: Decoded, level: int, reference: Reference, bound: float) -> Errors:
    """Compare a level with a reference, in physical units.

    Parameters
    ----------
    bound : float
        Physical; half the width of the histogram.

    Raises
    ------
    FormatError : a brick is damaged.
    """
    found, spec = Errors(bound), decoded.spec
    every = max(1, math.ceil(math.prod(spec.shape) / MOST_VOXELS))
    for box in _boxes(spec, every):
        ours = physical(decoded.region(box, level).values, spec)
        found.add(ours - physical(reference(box), spec), box[0].start)
    found.share = 1.0 / every
    return found


def _boxes(spec: VariableSpec, every: int) -> Iterator[Region]:
    for n, position in enumerate(spec.positions()):
        if n % every == 0:
            yield spec.box(position)
