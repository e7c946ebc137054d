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

from psc_volumetric.arrays import Triple, Values
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.methods.av1.fields import Av1Fields
from psc_volumetric.methods.av1.frames import (
    MAX_QUALITY,
    SAMPLE_MAX,
    decode_frames,
    encode_frames,
    quantiser_step,
)
from psc_volumetric.methods.protocol import EncodeJob
from psc_volumetric.methods.sampled import SampledSource, Samples, Trial
from psc_volumetric.methods.search import SampledMethod
from psc_volumetric.values.samples import STEP_FRACTION_BITS, StoredSamples
from psc_volumetric.values.special import SpecialMap

__all__ = ["METHOD", "Av1Source"]

THOROUGH_SPEED, SPEED, QUICK_SPEED = 2, 3, 5  # of libaom; the last for a first look
MOST_ROWS = 1 << 14  # and columns, of the format
THOROUGH_SLOWNESS, SLOWNESS = 10, 3  # time of the first two over that of the last
FEWEST_FRAMES, FEWEST_ROWS = 8, 16  # along another axis than the first
FEWEST_SAMPLES = 16  # that the range of a brick is spread over
MIDDLE = 2048  # sample of 0 normalised units


class Av1Source(SampledSource):
    """A brick ready to be coded at any quantiser step.

    Parameters
    ----------
    values, special, limits
        As `SampledSource`.
    frame_axis : int
        Axis of the brick that runs over the frames.
    is_thorough : bool
        Whether a few per cent of the bytes are worth two or three times the time.
    is_draft : bool
        Whether all codings are quick ones.
    """

    FIELDS: ClassVar[type[StoredSamples]] = Av1Fields

    def __init__(
        self,
        values: Values,
        special: SpecialMap | None,
        limits: ValueLimits | None = None,
        frame_axis: int = 0,
        *,
        is_thorough: bool = False,
        is_draft: bool = False,
    ) -> None:
        super().__init__(values, special, limits)
        self.frame_axis, self.is_thorough, self.is_draft = frame_axis, is_thorough, is_draft
        usual = THOROUGH_SLOWNESS if is_thorough else SLOWNESS
        self.slowness = 1 if is_draft else usual

    @classmethod
    def of(cls, job: EncodeJob) -> Av1Source:
        """The brick of a job."""
        own = job.values, job.special, job.limits
        return cls(*own, is_thorough=job.is_thorough, is_draft=job.is_draft)

    @classmethod
    def takes(cls, values: Values) -> bool:
        """Whether dtype and planes are within what AV1 codes."""
        return super().takes(values) and max(values.shape[1:]) <= MOST_ROWS

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
        own = self.values, self.special, self.limits
        return Av1Source(*own, axis, is_thorough=self.is_thorough, is_draft=self.is_draft)

    def variants(self) -> list[SampledSource]:
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
        source = _to_samples(self.clean, fields).transpose(fields.frame_axes)
        usual = THOROUGH_SPEED if self.is_thorough else SPEED
        speed = QUICK_SPEED if quick or self.is_draft else usual
        data = encode_frames(np.ascontiguousarray(source), quality, speed=speed)
        samples = self.decoded(data, fields, self.shape, "AV1 encoder")
        return self.trial(step, data, fields, samples)

    @staticmethod
    def decoded(data: bytes, fields: Av1Fields, shape: Triple, what: str) -> Samples:
        """Samples (z, y, x) of a stream."""
        frames = decode_frames(data, fields.frames(shape), what=what)
        samples: Samples = np.ascontiguousarray(frames.transpose(np.argsort(fields.frame_axes)))
        return samples

    @staticmethod
    def class_means(samples: Samples, fields: Av1Fields) -> NDArray[np.int64]:
        """Samples are 11 fraction bits between -1 and 1 unit."""
        return samples.astype(np.int64) - MIDDLE

    @staticmethod
    def class_unit(fields: Av1Fields) -> float:
        """One sample."""
        return fields.step


METHOD = SampledMethod("av1", Av1Source)


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
