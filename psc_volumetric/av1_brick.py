"""The base method ``av1``: one lossy level for the whole brick. Part of the format (SPEC 3.7).

Samples are 12-bit, spread over the range of the brick; slices are the frames of one AV1 stream.
An encoder has one lever, the quantiser step in stored units: it picks the nearest coarser of AV1's
64 steps and makes up for the difference with the step between samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.av1_fields import STEP_FRACTION_BITS, Av1Fields
from psc_volumetric.bitstream.brick import BrickIndex, ReadRange
from psc_volumetric.codec import DecodedBrick, EncodedBase, read_section
from psc_volumetric.coding.av1 import (
    MAX_QUALITY,
    SAMPLE_MAX,
    decode_frames,
    encode_frames,
    quantiser_step,
)
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.errors import FormatError
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.uncertainty import Classes, SigmaTables, coverage, voxel_classes
from psc_volumetric.uncertainty_fit import LevelErrors, fit_tables

__all__ = ["Av1Source", "Trial", "decode_av1", "to_stored"]

Values = NDArray[np.generic]
Samples = NDArray[np.uint16]

SPEED = 2  # of libaom
MOST_ROWS = 1 << 14  # and columns, of the format
FEWEST_FRAMES, FEWEST_ROWS = 8, 16  # along another axis than the first
FEWEST_SAMPLES = 16  # that the range of a brick is spread over
MIDDLE = 2048  # sample of 0 normalised units
HALF = 1 << (STEP_FRACTION_BITS - 1)


@dataclass(frozen=True)
class Trial:
    """One coding of a brick.

    Attributes
    ----------
    step : float
        Quantiser step in stored units.
    data : bytes
        AV1 stream.
    fields : Av1Fields
    samples : (z, y, x) uint16
        Decoded.
    mse : float
        Mean squared error in stored units over measured voxels.
    """

    step: float
    data: bytes
    fields: Av1Fields
    samples: Samples
    mse: float


class Av1Source:
    """A brick ready to be coded at any quantiser step.

    Parameters
    ----------
    values : (z, y, x) array
        Stored values.
    special : SpecialMap or None
        Voxels that are not measurements; AV1 sees their neighbours.
    frame_axis : int
        Axis of the brick that runs over the frames.
    """

    def __init__(self, values: Values, special: SpecialMap | None, frame_axis: int = 0) -> None:
        self.values, self.special, self.frame_axis = values, special, frame_axis
        self.measured = np.ones(values.shape, bool) if special is None else special.index == 0
        inside = values[self.measured] if self.measured.any() else np.zeros(1, values.dtype)
        self.low, self.high = float(inside.min()), float(inside.max())

    @staticmethod
    def fits(values: Values, special: SpecialMap | None) -> bool:
        """Whether the method codes these values."""
        if not Av1Fields.codes(values.dtype) or max(values.shape[1:]) > MOST_ROWS:
            return False
        source = Av1Source(values, special)
        return source.fields(source.finest_step).fits(values.dtype)

    @cached_property
    def clean(self) -> Values:
        """Stored values with special ones filled in."""
        if self.special is None:
            return self.values
        return self.special.fill(self.values, self.low)

    @property
    def finest_step(self) -> float:
        """Stored units between samples when the range of the brick fills 12 bits."""
        return max((self.high - self.low) / SAMPLE_MAX, 2.0**-512)

    def fields(self, step: float) -> Av1Fields:
        """Header fields for a step between samples, rounded outwards for integers."""
        if self.values.dtype.kind != "f":
            step = math.ceil(step * (1 << STEP_FRACTION_BITS)) / (1 << STEP_FRACTION_BITS)
        return Av1Fields(self.low, step, frame_axis=self.frame_axis)

    def along(self, axis: int) -> Av1Source:
        """The same brick with the frames along another axis."""
        return Av1Source(self.values, self.special, axis)

    def frame_axes(self) -> list[int]:
        """Axes that frames may run along: others would give frames too large, or hardly any."""
        extents = self.values.shape
        return [
            axis
            for axis in range(3)
            if axis == 0
            or (
                extents[axis] >= FEWEST_FRAMES
                and min(n for i, n in enumerate(extents) if i != axis) >= FEWEST_ROWS
                and max(n for i, n in enumerate(extents) if i != axis) <= MOST_ROWS
            )
        ]

    def code(self, step: float, *, speed: int = SPEED) -> Trial:
        """Code at a quantiser step in stored units, the nearest there is."""
        quality, gap = _levers(step / self.finest_step)
        coarsest = max(self.finest_step, (self.high - self.low) / FEWEST_SAMPLES)
        fields = self.fields(min(self.finest_step * gap, coarsest))
        samples = _to_samples(self.clean, fields).transpose(fields.frame_axes)
        data = encode_frames(np.ascontiguousarray(samples), quality, speed=speed)
        decoded = _decode(data, fields, self.values.shape, "AV1 encoder")
        error = self.error(to_stored(decoded, fields, self.values.dtype))
        return Trial(step, data, fields, decoded, float(np.mean(error**2)) if error.size else 0.0)

    def error(self, decoded: Values) -> NDArray[np.float64]:
        """Decoded minus stored values of the measured voxels."""
        inside = self.measured
        return _difference(decoded[inside], self.values[inside])

    def finish(self, trial: Trial, tile: tuple[int, int, int]) -> EncodedBase:
        """The base of a brick from one of its codings, with sigma; ``tile`` is of the records."""
        decoded = to_stored(trial.samples, trial.fields, self.values.dtype)
        classes, unit = _classes(trial.samples)[self.measured], _sigma_unit(trial.fields)
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
        z, y, x = self.values.shape
        grid = TileGrid((z, y, x), tile)
        extents = [tuple(s.stop - s.start for s in grid.box(n)) for n in range(len(grid))]
        return EncodedBase(
            psc=None,
            av1=replace(trial.fields, sigma=b"" if tables is None else tables.pack()),
            coverage=covered,
            sections=[("base", trial.data)],
            levels=(decoded,),
            tile_nbytes=tuple(
                (len(trial.data) * math.prod(e) // self.values.size,) for e in extents
            ),
            method="av1",
            needs_network=False,
        )


def decode_av1(read: ReadRange, index: BrickIndex, *, selection: Box, spread: bool) -> DecodedBrick:
    """Decode a region of an ``av1`` brick; see :func:`psc_volumetric.codec.decode_brick`."""
    fields, what = index.av1, f"brick {index.position}"
    if fields is None:
        raise FormatError("brick has no av1 fields", kind="bad-method")
    special = SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )
    data = read_section(read, index.section("base"), what=what)
    samples = _decode(data, fields, index.valid, what)
    values = to_stored(samples[selection], fields, index.dtype)
    sigma = None
    if spread:
        sigma = np.zeros(values.shape, np.float32)
        if fields.sigma:
            tables = SigmaTables.unpack(fields.sigma, 1)
            classes = _classes(samples[selection[0]])[:, *selection[1:]]
            sigma = tables.sigma(0, classes).astype(np.float32) * _sigma_unit(fields)
    if special is not None:
        special.apply(values, selection)
        if sigma is not None:
            sigma[special.index[selection] > 0] = 0
    return DecodedBrick(values, sigma)


def _decode(data: bytes, fields: Av1Fields, shape: tuple[int, ...], what: str) -> Samples:
    """Samples (z, y, x) of a stream."""
    z, y, x = shape
    frames = decode_frames(data, fields.frames((z, y, x)), what=what)
    samples: Samples = np.ascontiguousarray(frames.transpose(np.argsort(fields.frame_axes)))
    return samples


def to_stored(samples: Samples, fields: Av1Fields, dtype: np.dtype[np.generic]) -> Values:
    """Samples to stored values (SPEC 3.7).

    Integers: ``low + rshift(sample * step * 2^16, 16)``, saturating. Floats: one multiplication and
    one addition in IEEE double, then one conversion.
    """
    if dtype.kind == "f":
        floats: Values = (fields.low + samples.astype(np.float64) * fields.step).astype(dtype)
        return floats
    scaled = samples.astype(np.int64) * fields.whole_step
    wide = int(fields.low) + ((scaled + HALF) >> STEP_FRACTION_BITS)
    info = np.iinfo(dtype.str)
    values: Values = np.clip(wide, info.min, info.max).astype(dtype)
    return values


def _classes(samples: Samples) -> Classes:
    """Classes of slices: samples are 11 fraction bits between -1 and 1 unit."""
    return voxel_classes(samples.astype(np.int32) - MIDDLE, 0)


def _sigma_unit(fields: Av1Fields) -> np.float32:
    """Stored units of a sigma of 1: there are eight in a sample."""
    return np.float32(fields.step / 8)


def _to_samples(values: Values, fields: Av1Fields) -> Samples:
    """Nearest samples of stored values; encoder only."""
    scaled = np.rint((values.astype(np.float64) - fields.low) / fields.step)
    samples: Samples = np.clip(scaled, 0, SAMPLE_MAX).astype(np.uint16)
    return samples


def _difference(a: Values, b: Values) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = a.astype(np.float64) - b.astype(np.float64)
    return difference


def _levers(step: float) -> tuple[int, float]:
    """Quality, and factor >= 1 on the finest step between samples, for a quantiser step in samples.

    The best quality whose step is not above the one wanted loses the fewest of the 12 bits.
    """
    for quality in range(MAX_QUALITY + 1):
        if quantiser_step(quality) <= step:
            return quality, step / quantiser_step(quality)
    return MAX_QUALITY, 1.0
