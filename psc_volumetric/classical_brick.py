"""What the classical methods ``av1`` and ``wavelet`` share: one lossy level for the whole brick.

Part of the format (SPEC 3.7). Samples are integers, evenly spaced among stored values. An encoder
has one lever, the quantiser step in stored units.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.brick import BrickIndex, ReadRange
from psc_volumetric.bitstream.stored_samples import StoredSamples
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.codec import DecodedBrick, EncodedBase, read_section
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.uncertainty import Classes, SigmaTables, coverage, voxel_classes
from psc_volumetric.uncertainty_fit import LevelErrors, fit_tables

__all__ = ["ClassicalSource", "Trial", "decode_classical"]

Values = NDArray[np.generic]
Samples = NDArray[np.integer[Any]]
Triple = tuple[int, int, int]

SIGMA_STEPS = 8  # sigmas have three fraction bits more than what classes are made of


@dataclass(frozen=True)
class Trial:
    """One coding of a brick.

    Attributes
    ----------
    step : float
        Quantiser step in stored units.
    data : bytes
        Stream.
    fields : StoredSamples
    samples : (z, y, x) integers
        Decoded.
    mse : float
        Mean squared error in stored units over measured voxels.
    """

    step: float
    data: bytes
    fields: StoredSamples
    samples: Samples
    mse: float


class ClassicalSource(ABC):
    """A brick ready to be coded at any quantiser step.

    Parameters
    ----------
    values : (z, y, x) array
        Stored values.
    special : SpecialMap or None
        Voxels that are not measurements; the method sees their neighbours.
    limits : ValueLimits or None
        That decoded values stay within.
    """

    METHOD: ClassVar[str]
    IS_SLOW: ClassVar[bool]  # a quick coding takes much less time than a good one

    def __init__(
        self, values: Values, special: SpecialMap | None, limits: ValueLimits | None = None
    ) -> None:
        self.values, self.special, self.limits = values, special, limits
        self.measured = np.ones(values.shape, bool) if special is None else special.index == 0
        inside = values[self.measured] if self.measured.any() else np.zeros(1, values.dtype)
        self.low, self.high = float(inside.min()), float(inside.max())

    @property
    def shape(self) -> Triple:
        """Extents of the brick."""
        z, y, x = self.values.shape
        return z, y, x

    @cached_property
    def clean(self) -> Values:
        """Stored values with special ones filled in."""
        if self.special is None:
            return self.values
        return self.special.fill(self.values, self.low)

    @property
    @abstractmethod
    def finest_step(self) -> float:
        """Smallest distance of samples or of their quantiser steps, stored units."""

    def reaches(self, step: float) -> bool:
        """Whether errors as small as those of a quantiser step can be had at all."""
        exact = self.values.dtype.kind != "f" and self.finest_step <= 1
        return exact or self.finest_step <= step

    @abstractmethod
    def variants(self) -> list[ClassicalSource]:
        """The same brick for each way of coding it that an encoder may choose from."""

    @abstractmethod
    def code(self, step: float, *, quick: bool = False) -> Trial:
        """Code at a quantiser step in stored units, the nearest there is."""

    @abstractmethod
    def class_means(self, trial: Trial) -> NDArray[np.int64]:
        """What voxels are sorted into classes of sigma by: samples with 11 fraction bits."""

    @abstractmethod
    def class_unit(self, fields: StoredSamples) -> float:
        """Stored units of 1 in `class_means`."""

    def trial(self, step: float, data: bytes, fields: StoredSamples, samples: Samples) -> Trial:
        """A coding with its error."""
        error = self.error(self.decoded(fields, samples))
        mse = float(np.mean(error**2)) if error.size else 0.0
        return Trial(step, data, fields, samples, mse)

    def decoded(self, fields: StoredSamples, samples: Samples) -> Values:
        """Stored values of samples."""
        return saturate(fields.to_stored(samples, self.values.dtype), self.limits)

    def error(self, decoded: Values) -> NDArray[np.float64]:
        """Decoded minus stored values of the measured voxels."""
        inside = self.measured
        return _difference(decoded[inside], self.values[inside])

    def finish(self, trial: Trial, tile: Triple) -> EncodedBase:
        """The base of a brick from one of its codings, with sigma; ``tile`` is of the records."""
        decoded = self.decoded(trial.fields, trial.samples)
        classes = voxel_classes(self.class_means(trial), 0)[self.measured]
        unit = np.float32(self.class_unit(trial.fields) / SIGMA_STEPS)
        tables = fit_tables(
            [LevelErrors(classes, np.abs(self.error(decoded)))],
            unit=float(unit),
            rounded=self.values.dtype.kind in "iu",
            nbytes=len(trial.data),
        )
        covered: tuple[tuple[float, float, float], ...] = ()
        if tables is not None:
            inside, sigma = self.measured, tables.sigma(0, classes) * unit
            covered = (coverage(self.values[inside], decoded[inside], sigma),)
        if self.special is not None:
            self.special.apply(decoded, (slice(None),) * 3)
        grid = TileGrid(self.shape, tile)
        extents = [tuple(s.stop - s.start for s in grid.box(n)) for n in range(len(grid))]
        return EncodedBase(
            psc=None,
            classical=replace(trial.fields, sigma=b"" if tables is None else tables.pack()),
            coverage=covered,
            sections=[("base", trial.data)],
            levels=(decoded,),
            tile_nbytes=tuple(
                (len(trial.data) * math.prod(e) // self.values.size,) for e in extents
            ),
            method=self.METHOD,
            needs_network=False,
        )


def decode_classical(
    read: ReadRange,
    index: BrickIndex,
    *,
    selection: Box,
    spread: bool,
    decode: Callable[[bytes, Triple, str], Samples],
    means: Callable[[Samples], NDArray[np.int64]],
    class_unit: float,
) -> DecodedBrick:
    """Decode a region of a brick; see :func:`psc_volumetric.codec.decode_brick`.

    Parameters
    ----------
    decode : callable
        (stream, shape, place for messages) -> samples (z, y, x).
    means, class_unit
        As `ClassicalSource.class_means`, of whole planes, and `ClassicalSource.class_unit`.
    """
    fields, what = index.classical, f"brick {index.position}"
    assert fields is not None
    special = SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )
    data = read_section(read, index.section("base"), what=what)
    samples = decode(data, index.valid, what)
    values = saturate(fields.to_stored(samples[selection], index.dtype), index.limits)
    sigma = None
    if spread:
        sigma = np.zeros(values.shape, np.float32)
        if fields.sigma:
            tables = SigmaTables.unpack(fields.sigma, 1)
            classes: Classes = voxel_classes(means(samples[selection[0]]), 0)[:, *selection[1:]]
            unit = np.float32(class_unit / SIGMA_STEPS)
            sigma = tables.sigma(0, classes).astype(np.float32) * unit
    if special is not None:
        special.apply(values, selection)
        if sigma is not None:
            sigma[special.index[selection] > 0] = 0
    return DecodedBrick(values, sigma)


def _difference(a: Values, b: Values) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = a.astype(np.float64) - b.astype(np.float64)
    return difference
