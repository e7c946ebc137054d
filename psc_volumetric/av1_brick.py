"""The base method ``av1``: 12-bit samples as frames of one stream. Part of the format (SPEC 3.7).

Samples are spread over the range of the brick; slices are the frames, or sections along another
axis. An encoder picks the nearest coarser of AV1's 64 quantiser steps and makes up for the
difference with the step between samples.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.av1_fields import Av1Fields
from psc_volumetric.bitstream.brick import BrickIndex, ReadRange
from psc_volumetric.bitstream.stored_samples import STEP_FRACTION_BITS, StoredSamples
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.classical_brick import ClassicalSource, Samples, Trial, decode_classical
from psc_volumetric.codec import DecodedBrick
from psc_volumetric.coding.av1 import (
    MAX_QUALITY,
    SAMPLE_MAX,
    decode_frames,
    encode_frames,
    quantiser_step,
)
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.errors import FormatError
from psc_volumetric.tiling import Box

__all__ = ["Av1Source", "decode_av1"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

SPEED, QUICK_SPEED = 2, 5  # of libaom; the second for a first look
MOST_ROWS = 1 << 14  # and columns, of the format
FEWEST_FRAMES, FEWEST_ROWS = 8, 16  # along another axis than the first
FEWEST_SAMPLES = 16  # that the range of a brick is spread over
MIDDLE = 2048  # sample of 0 normalised units


class Av1Source(ClassicalSource):
    """A brick ready to be coded at any quantiser step.

    Parameters
    ----------
    values, special, limits
        As `ClassicalSource`.
    frame_axis : int
        Axis of the brick that runs over the frames.
    """

    METHOD: ClassVar[str] = "av1"
    IS_SLOW: ClassVar[bool] = True

    def __init__(
        self,
        values: Values,
        special: SpecialMap | None,
        limits: ValueLimits | None = None,
        frame_axis: int = 0,
    ) -> None:
        super().__init__(values, special, limits)
        self.frame_axis = frame_axis

    @staticmethod
    def fits(values: Values, special: SpecialMap | None) -> bool:
        """Whether the method codes these values."""
        if not Av1Fields.codes(values.dtype) or max(values.shape[1:]) > MOST_ROWS:
            return False
        source = Av1Source(values, special)
        return source.fields(source.finest_step).fits(values.dtype)

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
        return Av1Source(self.values, self.special, self.limits, axis)

    def variants(self) -> list[ClassicalSource]:
        """Frames along each axis that they may run along."""
        return [self.along(axis) for axis in self.frame_axes()]

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

    def code(self, step: float, *, quick: bool = False) -> Trial:
        """Code at a quantiser step in stored units, the nearest there is."""
        quality, gap = _levers(step / self.finest_step)
        coarsest = max(self.finest_step, (self.high - self.low) / FEWEST_SAMPLES)
        fields = self.fields(min(self.finest_step * gap, coarsest))
        samples = _to_samples(self.clean, fields).transpose(fields.frame_axes)
        speed = QUICK_SPEED if quick else SPEED
        data = encode_frames(np.ascontiguousarray(samples), quality, speed=speed)
        return self.trial(step, data, fields, _decode(data, fields, self.shape, "AV1 encoder"))

    def class_means(self, trial: Trial) -> NDArray[np.int64]:
        """Samples are 11 fraction bits between -1 and 1 unit."""
        return _class_means(trial.samples)

    def class_unit(self, fields: StoredSamples) -> float:
        """One sample."""
        return fields.step


def decode_av1(read: ReadRange, index: BrickIndex, *, selection: Box, spread: bool) -> DecodedBrick:
    """Decode a region of an ``av1`` brick; see :func:`psc_volumetric.codec.decode_brick`."""
    fields = index.classical
    if not isinstance(fields, Av1Fields):
        raise FormatError("brick has no av1 fields", kind="bad-method")
    return decode_classical(
        read, index, selection=selection, spread=spread,
        decode=lambda data, shape, what: _decode(data, fields, shape, what),
        means=_class_means, class_unit=fields.step,
    )  # fmt: skip


def _decode(data: bytes, fields: Av1Fields, shape: Triple, what: str) -> Samples:
    """Samples (z, y, x) of a stream."""
    frames = decode_frames(data, fields.frames(shape), what=what)
    samples: Samples = np.ascontiguousarray(frames.transpose(np.argsort(fields.frame_axes)))
    return samples


def _class_means(samples: Samples) -> NDArray[np.int64]:
    return samples.astype(np.int64) - MIDDLE


def _to_samples(values: Values, fields: Av1Fields) -> NDArray[np.uint16]:
    """Nearest samples of stored values; encoder only."""
    scaled = np.rint((values.astype(np.float64) - fields.low) / fields.step)
    samples: NDArray[np.uint16] = np.clip(scaled, 0, SAMPLE_MAX).astype(np.uint16)
    return samples


def _levers(step: float) -> tuple[int, float]:
    """Quality, and factor >= 1 on the finest step between samples, for a quantiser step in samples.

    The best quality whose step is not above the one wanted loses the fewest of the 12 bits.
    """
    for quality in range(MAX_QUALITY + 1):
        if quantiser_step(quality) <= step:
            return quality, step / quantiser_step(quality)
    return MAX_QUALITY, 1.0
