"""One sigma per voxel from a small table per level. Part of the format (SPEC section 5.10).

Particles know where they disagree, but not by how much they are all wrong. A brick therefore
carries, per lossy level, one sigma for each of 288 classes of voxels: 18 bands of intensity times
16 half octaves of activity, where activity is what the decoded tile itself shows in a window
(gradients of the mean, and the spread of the particles). The encoder measures sigma after decoding
its own bytes (:mod:`psc_volumetric.sigma.fit`), so it holds for volumes that no prior was
trained on.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.entropy.adaptive import AdaptiveScale
from psc_volumetric.entropy.block_means import predict_mean
from psc_volumetric.entropy.symbols import SymbolPort, SymbolReader, SymbolWriter
from psc_volumetric.errors import FormatError

__all__ = [
    "ACTIVITIES",
    "INTENSITIES",
    "MAX_FIRST",
    "NOMINAL",
    "ROUGHNESSES",
    "SIGMA_STEPS",
    "SPREAD_BITS",
    "SigmaTables",
    "class_cells",
    "coverage",
    "predicted_entry",
    "voxel_classes",
]

SPREAD_BITS = 14  # fraction bits of spreads and sigmas
INTENSITIES, ACTIVITIES = 18, 16
INTENSITY_SHIFT = 8  # bands of 1/8 unit
RADIUS = 8  # of the window, 17 x 17 voxels
ROUGHNESSES = 64  # room for a half octave in the number of a class
MAX_FIRST = 31  # half octave of column 0
SIGMA_STEPS = 88  # entries 0 .. 87: quarter octaves from 2^-14 unit
FIRST_ENTRY = 40  # predicted before anything is known
CONTEXTS = ((1, 32), (4, 4), (12, 4))  # start of the adaptive scales: total, count
QUARTERS = np.array([16384, 19484, 23170, 27554])  # round(2^(14 + i/4))
NOMINAL = tuple(math.erf(k / math.sqrt(2)) for k in (1, 2, 3))

Classes = NDArray[np.uint16]
Values = NDArray[np.generic]
Plane = list[list[int]]
Whole = TypeVar("Whole", np.int32, np.int64)


def voxel_classes(mean: NDArray[np.integer], spread: NDArray[np.integer] | int) -> Classes:
    """Sort voxels by what their decoded neighbourhood looks like.

    Parameters
    ----------
    mean : (..., z, y, x) integer
        Posterior mean with 11 fraction bits; the unit that is decoded at once (a tile), because
        the window stops at its edges.
    spread : the same shape, or one number
        Spread of the particles with 14 fraction bits; 0 for a method without particles.

    Returns
    -------
    (..., z, y, x) uint16
        Intensity band times 64 plus half octave of the activity.
    """
    unit = 1 << SAMPLE_FRACTION_BITS
    is_smooth = isinstance(spread, int) and spread == 0  # windows are then below 2^26
    kept = np.clip(mean, -2 * unit, 2 * unit).astype(np.int32 if is_smooth else np.int64)
    band = np.clip(((kept + unit) >> INTENSITY_SHIFT) + 1, 0, INTENSITIES - 1).astype(np.uint16)
    inside = np.clip(kept, -unit, unit) << (SPREAD_BITS - SAMPLE_FRACTION_BITS)
    rough = np.zeros_like(inside)
    change = np.abs(np.diff(inside, axis=-1))
    rough[..., 1:] += change
    rough[..., :-1] += change
    change = np.abs(np.diff(inside, axis=-2))
    rough[..., 1:, :] += change
    rough[..., :-1, :] += change
    window = _window_sum(_window_sum(rough + spread, -1), -2) // (2 * RADIUS + 1) ** 2
    half_octaves = _few_half_octaves()[window] if is_smooth else _half_octaves(window)
    classes: Classes = band * np.uint16(ROUGHNESSES) + half_octaves
    return classes


def _half_octaves(window: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Half octave of an activity: how many of the powers 2, 4 ... are not above its square."""
    powers = 1 << np.arange(1, ROUGHNESSES - 1)
    return np.searchsorted(powers, window * window, side="right").astype(np.uint16)


@functools.cache
def _few_half_octaves() -> NDArray[np.uint16]:
    """Those of all activities that a mean without a spread can have."""
    return _half_octaves(np.arange((4 << (SPREAD_BITS + 1)) + 1))


def _window_sum(values: NDArray[Whole], axis: int) -> NDArray[Whole]:
    """Sum over 17 neighbours along an axis; the first and last repeat past the edges.

    Sums from the start may wrap around; their differences are right where a window's sum fits.
    """
    padding = [(0, 0)] * values.ndim
    padding[axis] = (RADIUS + 1, RADIUS)
    padded = np.pad(values, padding, mode="edge")
    ends = np.moveaxis(np.cumsum(padded, axis=axis, dtype=values.dtype), axis, 0)
    size, width = values.shape[axis], 2 * RADIUS + 1
    sums: NDArray[Whole] = np.moveaxis(ends[width : width + size] - ends[:size], 0, axis)
    return sums


@dataclass(frozen=True, eq=False)
class SigmaTables:
    """Sigma of every class at every lossy level.

    Attributes
    ----------
    first : int
        Half octave of the activity that column 0 ends with, 0 .. 31.
    entries : (levels, 18, 16) int64
        Sigma in quarter octaves, 0 .. 87.
    """

    first: int
    entries: NDArray[np.int64]

    def cells(self, classes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Number of each voxel's table entry, 0 .. 287."""
        return class_cells(classes, self.first)

    def sigma(self, level: int, classes: Classes) -> NDArray[np.int32]:
        """One sigma per voxel with 14 fraction bits."""
        sigma: NDArray[np.int32] = self._by_class(level)[classes]
        return sigma

    def scaled(self, level: int, classes: Classes, unit: np.float32) -> NDArray[np.float32]:
        """One sigma per voxel: those of `sigma` times a unit, in single precision."""
        sigma: NDArray[np.float32] = (self._by_class(level).astype(np.float32) * unit)[classes]
        return sigma

    def _by_class(self, level: int) -> NDArray[np.int32]:
        """Sigma of each class."""
        entry = self.entries[level].reshape(-1)
        table = (QUARTERS[entry & 3] << (entry >> 2)) >> SPREAD_BITS
        found: NDArray[np.int32] = table[self.cells(np.arange(INTENSITIES * ROUGHNESSES))]
        return found.astype(np.int32)

    def pack(self) -> bytes:
        """The half octave, then the entries as range-coder words."""
        port = SymbolWriter()
        _code_entries(port, self.entries.tolist(), len(self.entries))
        port.mark()
        return bytes([self.first]) + port.finish()[0]

    @classmethod
    def unpack(cls, data: bytes, levels: int) -> SigmaTables:
        """Inverse of :meth:`pack`; FormatError when the bytes are something else."""
        if not data or data[0] > MAX_FIRST:
            raise FormatError(
                f"sigma tables: expected a half octave of 0 .. {MAX_FIRST}, found {data[:1]!r}",
                kind="bad-uncertainty",
            )
        entries = _code_entries(SymbolReader(data[1:]), None, levels)
        return cls(data[0], np.array(entries, np.int64))


def predicted_entry(plane: Plane, before: Plane | None, y: int, x: int) -> int:
    """Like a block mean from its neighbours, kept to what an entry can be."""
    if before is None and x == y == 0:
        return FIRST_ENTRY
    return min(max(predict_mean(plane, before, y, x)[0], 0), SIGMA_STEPS - 1)


def _code_entries(port: SymbolPort, planes: list[Plane] | None, levels: int) -> list[Plane]:
    """Write or read the entries of all levels, each less what its neighbours predict."""
    out: list[Plane] = []
    contexts = [AdaptiveScale(total, count) for total, count in CONTEXTS]
    for level in range(levels):
        plane: Plane = [[0] * ACTIVITIES for _ in range(INTENSITIES)]
        missed = [[0] * (ACTIVITIES + 1) for _ in range(INTENSITIES + 1)]  # framed by zeros
        for y, x in np.ndindex(INTENSITIES, ACTIVITIES):
            predicted = predicted_entry(plane, out[-1] if out else None, y, x)
            context = contexts[missed[y + 1][x] + missed[y][x + 1]]
            given = None
            if planes is not None:
                given = np.array([planes[level][y][x] - predicted], np.int32)
            residual = int(port.code(given, np.array([context.scale_bin()], np.int64))[0])
            context.learn(abs(residual))
            missed[y + 1][x + 1] = int(residual != 0)
            plane[y][x] = predicted + residual
            if not 0 <= plane[y][x] < SIGMA_STEPS:
                raise FormatError(
                    f"sigma tables: expected entries of 0 .. {SIGMA_STEPS - 1}, found "
                    f"{plane[y][x]}",
                    kind="bad-uncertainty",
                )
        out.append(plane)
    return out


def class_cells(classes: NDArray[np.integer], first: int) -> NDArray[np.int64]:
    """Number of the table entry of each class when column 0 ends with a half octave."""
    numbers = np.arange(INTENSITIES * ROUGHNESSES)
    column = np.clip(numbers % ROUGHNESSES - first, 0, ACTIVITIES - 1)
    cells: NDArray[np.int64] = (numbers // ROUGHNESSES * ACTIVITIES + column)[classes]
    return cells


def coverage(
    source: Values,
    decoded: Values,
    sigma: NDArray[np.floating],
    *,
    rounding: bool = True,
) -> tuple[float, float, float]:
    """Share of voxels whose error lies within 1, 2 and 3 sigma.

    Parameters
    ----------
    source, decoded : arrays of equal shape
        Stored values, measured voxels only.
    sigma : array of the same shape
        One sigma per voxel in stored units.
    rounding : bool
        An integer stands for every value that rounds to it: its error is spread evenly over one
        stored unit and counts by the part inside. False counts whole voxels, which no sigma can
        make nominal where many are exactly right (an error of 0 is within any sigma).

    Returns
    -------
    (float, float, float)
        Nominal are 0.6827, 0.9545 and 0.9973 (:data:`NOMINAL`); NaN without voxels.

    Notes
    -----
    The even spread is the expectation of the randomised probability integral transform for
    counts (Czado, Gneiting, Held, "Predictive model assessment for count data", Biometrics 65,
    2009, section 2.1), so nothing is drawn.
    """
    error = np.abs(decoded.astype(np.float64) - source.astype(np.float64))
    half = 0.5 if rounding and source.dtype.kind in "iu" else 0.0
    shares = [_inside(error, k * sigma.astype(np.float64), half) for k in (1, 2, 3)]
    return shares[0], shares[1], shares[2]


def _inside(error: NDArray[np.float64], limit: NDArray[np.float64], half: float) -> float:
    if not error.size:
        return math.nan
    if not half:
        return float((error <= limit).mean())
    part = np.clip(limit - error + half, 0, 1) - np.clip(half - limit - error, 0, 1)
    return float(part.mean())
