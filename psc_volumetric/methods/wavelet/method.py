"""The base method ``wavelet``: one transform over the whole brick. Part of the format (SPEC 3.8).

Samples are integers, 256 of them in a quantiser step. It is the method of smooth fields, whose
large scales reach farther than a tile, and of small bricks, because its stream has no headers.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Triple, Values
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.methods.protocol import EncodeJob
from psc_volumetric.methods.sampled import SampledSource, Samples, Trial
from psc_volumetric.methods.search import SampledMethod
from psc_volumetric.methods.wavelet.coder import decode_steps, encode_steps
from psc_volumetric.methods.wavelet.fields import WaveletFields
from psc_volumetric.methods.wavelet.transform import (
    UNITS,
    analyse,
    dequantise,
    full_depth,
)
from psc_volumetric.values.samples import STEP_FRACTION_BITS, StoredSamples
from psc_volumetric.values.special import SpecialMap

__all__ = ["METHOD", "WaveletSource"]

CLASS_LIMIT = 2048  # samples are shifted for the classes of sigma until all are within it
SLOWNESS = 2  # of codings whose numbers are gone over again
MOST_STEPS = 1 << 22  # quantiser steps that the range of a brick is divided into
SMALLEST = 2.0**-512


class WaveletSource(SampledSource):
    """A brick ready to be coded at any quantiser step.

    Parameters
    ----------
    values, special, limits
        As `SampledSource`.
    depth : int, optional
        Splits of z; as many as go by default.
    is_thorough : bool
        Whether numbers of steps are gone over again, but for quick codings.
    """

    FIELDS: ClassVar[type[StoredSamples]] = WaveletFields
    compares_whole: ClassVar[bool] = True  # air around a body lies at the borders, not inside

    def __init__(
        self,
        values: Values,
        special: SpecialMap | None,
        limits: ValueLimits | None = None,
        depth: int | None = None,
        *,
        is_thorough: bool = False,
    ) -> None:
        super().__init__(values, special, limits)
        self.slowness = SLOWNESS if is_thorough else 1
        self.depth = full_depth(values.shape[0]) if depth is None else depth

    @classmethod
    def of(cls, job: EncodeJob) -> WaveletSource:
        """The brick of a job."""
        return cls(job.values, job.special, job.limits, is_thorough=job.is_thorough)

    def variants(self) -> list[SampledSource]:
        """All depths of z: thick slices are best left alone, or split once."""
        own = self.values, self.special, self.limits
        depths = range(self.depth, -1, -1)
        thorough = self.slowness > 1
        return [WaveletSource(*own, depth, is_thorough=thorough) for depth in depths]

    @property
    def finest_step(self) -> float:
        """Smallest quantiser step in stored units."""
        return max((self.high - self.low) / MOST_STEPS, SMALLEST)

    @cached_property
    def middle(self) -> float:
        """Stored value of sample 0; whole for integers."""
        mean = float(self.clean.astype(np.float64).mean())
        return mean if self.values.dtype.kind == "f" else float(round(mean))

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """Of the whole brick, stored units."""
        return analyse(self.clean.astype(np.float64) - self.middle, self.depth)

    def fields(self, step: float) -> WaveletFields:
        """Header fields for a quantiser step; a multiple of 2^-16 per sample for integers."""
        sample = step / UNITS
        if self.values.dtype.kind == "f":
            return WaveletFields(self.middle, min(sample, WaveletFields.WIDEST_FLOAT_STEP))
        whole = max(round(sample * (1 << STEP_FRACTION_BITS)), 1) / (1 << STEP_FRACTION_BITS)
        return WaveletFields(self.middle, min(whole, WaveletFields.WIDEST_STEP))

    def code(self, step: float, *, quick: bool = False) -> Trial:
        """Code at a quantiser step in stored units, the nearest there is."""
        steps = self.quantised(step)
        first = self.coded(step, steps)
        if quick or self.slowness == 1:
            return first
        again = self.coded(step, self.refined(step, steps))
        return min(first, again, key=self.cost)

    def cost(self, trial: Trial) -> float:
        """Error and bits together; squared steps a voxel."""
        from psc_volumetric.methods.wavelet.refine import PRICE

        share = np.count_nonzero(self.measured) / self.values.size
        bits = 8 * len(trial.data) / self.values.size
        return trial.mse * share / (trial.fields.step * UNITS) ** 2 + PRICE * bits

    def quantised(self, step: float) -> NDArray[np.int32]:
        """Numbers of quantiser steps (z, y, x) of the whole brick, chosen for its coefficients."""
        from psc_volumetric.methods.wavelet.fit import quantise

        fields = self.fields(max(step, self.finest_step))
        return quantise(self.coefficients, fields.step * UNITS, self.depth)

    def refined(self, step: float, steps: NDArray[np.int32]) -> NDArray[np.int32]:
        """Numbers of steps that leave less error in fewer bits."""
        from psc_volumetric.methods.wavelet.refine import refined

        fields = self.fields(max(step, self.finest_step))
        measured = None if self.special is None else self.measured
        return refined(steps, self.coefficients, fields.step * UNITS, self.depth, measured)

    def coded(self, step: float, steps: NDArray[np.int32]) -> Trial:
        """The coding that has these numbers of quantiser steps."""
        from psc_volumetric.methods.wavelet.synthesis import synthesise

        fields = self.fields(max(step, self.finest_step))
        samples = synthesise(dequantise(steps, self.depth), self.depth)
        shift = max(int(np.abs(samples).max()).bit_length() - CLASS_LIMIT.bit_length() + 1, 0)
        fields = WaveletFields(fields.low, fields.step, shift=shift)
        return self.trial(step, encode_steps(steps, self.depth), fields, samples)

    @staticmethod
    def decoded(data: bytes, fields: WaveletFields, shape: Triple, what: str) -> Samples:
        """Samples (z, y, x) of a stream."""
        from psc_volumetric.methods.wavelet.synthesis import synthesise

        steps, depth = decode_steps(data, shape, what=what)
        return synthesise(dequantise(steps, depth), depth)

    @staticmethod
    def class_means(samples: Samples, fields: WaveletFields) -> NDArray[np.int64]:
        """Samples, shifted to 11 fraction bits or fewer."""
        return samples.astype(np.int64) >> fields.shift

    @staticmethod
    def class_unit(fields: WaveletFields) -> float:
        """Stored units of a shifted sample."""
        return fields.step * 2.0**fields.shift


METHOD = SampledMethod("wavelet", WaveletSource)
