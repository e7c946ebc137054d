"""What methods share that code a brick as evenly spaced samples: one level, no network.

Part of the format (SPEC 3.7). Samples are integers among stored values. An encoder has one lever,
the quantiser step in stored units, and searches it for the error that it is asked for
(:mod:`psc_volumetric.methods.search`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Triple, Values
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.protocol import DecodedBrick, EncodedBase, EncodeJob
from psc_volumetric.sigma.fit import LevelErrors, fit_tables
from psc_volumetric.sigma.tables import Classes, SigmaTables, coverage, voxel_classes
from psc_volumetric.threads import mapped
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.samples import StoredSamples
from psc_volumetric.values.special import SpecialMap

__all__ = ["SampledSource", "Samples", "Trial", "decode_sampled"]

Samples = NDArray[np.integer[Any]]

FEW = 1 << 17  # voxels of the planes that are worked on together
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


class SampledSource(ABC):
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

    FIELDS: ClassVar[type[StoredSamples]]
    slowness: float = 1  # time of a good coding over that of a quick one
    is_draft: bool = False  # whether codings are quick ones that tell bytes and error roughly
    compares_whole: ClassVar[bool] = False  # variants of large bricks, not on their middle

    def __init__(
        self, values: Values, special: SpecialMap | None, limits: ValueLimits | None = None
    ) -> None:
        self.values, self.special, self.limits = values, special, limits
        self.measured = np.ones(values.shape, bool) if special is None else special.index == 0
        inside = values[self.measured] if self.measured.any() else np.zeros(1, values.dtype)
        self.low, self.high = float(inside.min()), float(inside.max())

    @classmethod
    def of(cls, job: EncodeJob) -> SampledSource:
        """The brick of a job."""
        return cls(job.values, job.special, job.limits)

    @classmethod
    def takes(cls, values: Values) -> bool:
        """Whether dtype and extents are the method's, before the values are looked at."""
        return cls.FIELDS.codes(values.dtype)

    def fits(self) -> bool:
        """Whether the range of the values can be coded in the finest steps."""
        return self.fields(self.finest_step).fits(self.values.dtype)

    def part(self, box: Box) -> SampledSource:
        """A brick of its own of a part."""
        special = None if self.special is None else self.special.part(box)
        return type(self)(np.ascontiguousarray(self.values[box]), special, self.limits)

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
    def fields(self, step: float) -> StoredSamples:
        """Header fields for a step in stored units."""

    @abstractmethod
    def variants(self) -> list[SampledSource]:
        """The same brick for each way of coding it that an encoder may choose from."""

    @abstractmethod
    def code(self, step: float, *, quick: bool = False) -> Trial:
        """Code at a quantiser step in stored units, the nearest there is."""

    @staticmethod
    @abstractmethod
    def decoded(data: bytes, fields: Any, shape: Triple, what: str) -> Samples:
        """Samples (z, y, x) of a stream; ``what`` is its place, for messages."""

    @staticmethod
    @abstractmethod
    def class_means(samples: Samples, fields: Any) -> NDArray[np.int64]:
        """What voxels are sorted into classes of sigma by: samples with 11 fraction bits."""

    @staticmethod
    @abstractmethod
    def class_unit(fields: Any) -> float:
        """Stored units of 1 in `class_means`."""

    def trial(self, step: float, data: bytes, fields: StoredSamples, samples: Samples) -> Trial:
        """A coding with its error."""
        error = self.error(self.stored(fields, samples))
        mse = float(np.mean(error**2)) if error.size else 0.0
        return Trial(step, data, fields, samples, mse)

    def stored(self, fields: StoredSamples, samples: Samples) -> Values:
        """Stored values of samples."""
        return saturate(fields.to_stored(samples, self.values.dtype), self.limits)

    def error(self, decoded: Values) -> NDArray[np.float64]:
        """Decoded minus stored values of the measured voxels."""
        inside = self.measured
        return _difference(decoded[inside], self.values[inside])

    def finish(self, trial: Trial, tile: Triple, method: str) -> EncodedBase:
        """The base of a brick from one of its codings, with sigma; ``tile`` is of the records."""
        decoded = self.stored(trial.fields, trial.samples)
        classes = voxel_classes(self.class_means(trial.samples, trial.fields), 0)[self.measured]
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
        base = self.based(trial, decoded, tile, method)
        packed = b"" if tables is None else tables.pack()
        return replace(base, fields=replace(trial.fields, sigma=packed), coverage=covered)

    def based(self, trial: Trial, decoded: Values, tile: Triple, method: str) -> EncodedBase:
        """A base without sigma; special values are put into ``decoded`` in place."""
        if self.special is not None:
            self.special.apply(decoded, (slice(None),) * 3)
        grid = TileGrid(self.shape, tile)
        extents = [tuple(s.stop - s.start for s in grid.box(n)) for n in range(len(grid))]
        return EncodedBase(
            method=method,
            fields=trial.fields,
            sections=(("base", trial.data),),
            levels=(decoded,),
            tile_nbytes=tuple(
                (len(trial.data) * math.prod(e) // self.values.size,) for e in extents
            ),
            needs_network=False,
        )


def decode_sampled(
    kind: type[SampledSource], read: ReadRange, index: BrickIndex, *, box: Box, spread: bool
) -> DecodedBrick:
    """Decode a region of a brick.

    Parameters
    ----------
    kind : type of SampledSource
        How the method decodes streams and classes.
    read, index, box, spread
        As `BaseMethod.decode`.
    """
    fields, what = index.fields, f"brick {index.position}"
    if not isinstance(fields, kind.FIELDS):
        raise FormatError(f"{what}: has no fields of its method", kind="bad-method")
    special = SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )
    data = read_section(read, index.section("base"), what=what)
    samples = kind.decoded(data, fields, index.valid, what)[box[0]]
    tables = SigmaTables.unpack(fields.sigma, 1) if spread and fields.sigma else None
    unit = np.float32(kind.class_unit(fields) / SIGMA_STEPS)

    def few(first: int) -> tuple[Values, NDArray[np.float32] | None]:
        """Stored values and sigma of so many planes as stay in the cache of a core."""
        planes = samples[first : first + step]
        shown = saturate(fields.to_stored(planes[:, *box[1:]], index.dtype), index.limits)
        if tables is None:
            return shown, None
        classes: Classes = voxel_classes(kind.class_means(planes, fields), 0)[:, *box[1:]]
        return shown, tables.scaled(0, classes, unit)

    step = max(1, FEW // (index.valid[1] * index.valid[2]))
    parts = mapped(few, range(0, max(len(samples), 1), step))
    values = np.concatenate([part for part, _ in parts])
    sigma = np.zeros(values.shape, np.float32) if spread else None
    if tables is not None:
        sigma = np.concatenate([part for _, part in parts if part is not None])
    if special is not None:
        special.apply(values, box)
        if sigma is not None:
            sigma[special.index[box] > 0] = 0
    return DecodedBrick(values, sigma)


def _difference(a: Values, b: Values) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = a.astype(np.float64) - b.astype(np.float64)
    return difference
