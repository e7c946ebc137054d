"""Coding a brick with the wavelet and a network's posterior mean on top of it. Encoder only.

The wavelet decides what is sent. The network sees what a reader decodes, and the encoder how far
it is right: the share of its correction that leaves the least error is written, or none. Then the
wavelet's decisions are taken again for what the network makes of them
(:mod:`psc_volumetric.methods.posterior.refine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Values
from psc_volumetric.methods.posterior.fields import (
    DIGEST_SIZE,
    MOST_GAIN,
    MOST_OFFSET,
    MOST_SCALE,
    PosteriorFields,
    View,
)
from psc_volumetric.methods.posterior.moments import SCALE_BITS, Integers, Moments, moments
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.posterior.refine import Refiner
from psc_volumetric.methods.posterior.sigma import classes_of, unit_of
from psc_volumetric.methods.protocol import EncodedBase, EncodeJob
from psc_volumetric.methods.sampled import SampledSource, Samples, Trial
from psc_volumetric.methods.search import SteppedSource
from psc_volumetric.methods.wavelet.fields import WaveletFields
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.methods.wavelet.refine import PRICE
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import CONDITION_BITS, DEPTHS
from psc_volumetric.sigma.fit import LevelErrors, fit_tables
from psc_volumetric.sigma.tables import coverage
from psc_volumetric.values.mapping import UNIT

__all__ = ["PosteriorAttempt", "PosteriorSource", "level_of_step"]

NAME = "posterior"
FORESEEN = 2.0**-6  # as in `psc_volumetric.prior.making.posterior_net`
STEP = 256  # samples of a quantiser step
FIRST_EXCESS = 1.35  # of the wavelet's error over the one wanted, tried first
SLOPE = 1.2  # of the logarithm of the squared error over that of the quantiser step
TOLERANCE = 0.03  # share of the error below the one wanted
MOST_TRIALS = 3
FARTHEST = 2.0  # octaves from the steps that a network was made for, at which it is still asked


@dataclass(frozen=True)
class PosteriorSource:
    """A brick that the wavelet can code.

    Attributes
    ----------
    job : EncodeJob
    wavelet : SteppedSource
    estimator : Estimator
    """

    job: EncodeJob
    wavelet: SteppedSource
    estimator: Estimator

    def reaches(self, step: float) -> bool:
        """Whether errors as small as those of a quantiser step in stored units can be had."""
        return self.wavelet.reaches(step)

    def at_step(self) -> PosteriorAttempt:
        """The wavelet's coding at the step of the job, refined and corrected."""
        attempt = self.wavelet.at_step()
        return self.refined(attempt.source, attempt.trial)

    def at_error(self, mse: float, *, limit: float) -> PosteriorAttempt:
        """The coding whose squared error is nearest below ``mse``, after a few trials."""
        first = self.wavelet.at_error(FIRST_EXCESS * mse, limit=limit)
        attempt = best = self.refined(first.source, first.trial)
        for _ in range(MOST_TRIALS - 1):
            if attempt.mse <= mse and (best.mse > mse or attempt.mse > best.mse):
                best = attempt
            if (1 - TOLERANCE) * mse <= attempt.mse <= mse:
                break
            aim = (1 - TOLERANCE / 2) * mse / max(attempt.mse, 1e-300)
            step = attempt.trial.step * aim ** (1 / SLOPE)
            attempt = self.refined(first.source, first.source.code(step))
        return attempt if best.mse > mse >= attempt.mse else best

    def refined(self, source: SampledSource, trial: Trial) -> PosteriorAttempt:
        """Corrected, with numbers of steps that suit the network where that is worth its bits."""
        plain = self.corrected(source, trial)
        if plain.view is None or not isinstance(source, WaveletSource):
            return plain
        again = Refiner(source, trial.step, plain.view, self.estimator).refined()
        return min(plain, self.corrected(source, again), key=PosteriorAttempt.cost)

    def corrected(self, source: SampledSource, trial: Trial) -> PosteriorAttempt:
        """With the gain that leaves the least error; without the network where none does."""
        plain = PosteriorAttempt(self.job, source, trial, trial.samples, trial.mse)
        view = self._view(trial)
        if view is None or not source.measured.any():
            return plain
        whole = (slice(0, source.shape[0]), slice(0, source.shape[1]), slice(0, source.shape[2]))
        found = moments(trial.samples, whole, view, self.estimator)
        out_bits = self.estimator.prior.program.out_bits
        gain = _best_gain(source, trial, found.added(0 * trial.samples, 16, out_bits))
        if not gain:
            return plain
        samples = found.added(trial.samples, gain, out_bits)
        error = source.error(source.stored(trial.fields, samples))
        mse = float(np.mean(error**2))
        if mse >= trial.mse:
            return plain
        return PosteriorAttempt(
            self.job, source, trial, samples, mse, replace(view, gain=gain), found, self.estimator
        )

    def _view(self, trial: Trial) -> View | None:
        """How the network is to see a coding; None where the header has no numbers for it."""
        mapping, prior = self.job.mapping, self.estimator.prior
        unit = (mapping.high - mapping.low) / (2 * UNIT)
        scale = trial.fields.step / unit * (1 << SCALE_BITS)
        offset = (trial.fields.low - mapping.low) / unit - UNIT
        if not (1 <= scale <= MOST_SCALE and abs(offset) <= MOST_OFFSET):
            return None
        share = trial.fields.step * STEP / (2 * UNIT * unit)
        level = level_of_step(prior, share, trial.data[0])
        if level is None:
            return None
        digest = bytes.fromhex(prior.digest)[:DIGEST_SIZE]
        return View(16, digest, level, round(scale), round(offset))


@dataclass(frozen=True)
class PosteriorAttempt:
    """One coding of a brick.

    Attributes
    ----------
    job : EncodeJob
    source : SampledSource
        The wavelet's.
    trial : Trial
        Its coding.
    samples : (z, y, x) integers
        Corrected.
    mse : float
        Mean squared error in stored units over measured voxels.
    view, moments, estimator
        None where the network is not asked.
    """

    job: EncodeJob
    source: SampledSource
    trial: Trial
    samples: Samples
    mse: float
    view: View | None = None
    moments: Moments | None = None
    estimator: Estimator | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the stream."""
        return len(self.trial.data)

    @property
    def step(self) -> float:
        """Quantiser step in stored units."""
        return self.trial.step

    def cost(self) -> float:
        """Error and bits together, as the wavelet's encoder weighs them; squared steps a voxel."""
        step = self.trial.fields.step * STEP
        return self.mse / step**2 + PRICE * 8 * self.nbytes / self.source.values.size

    @cached_property
    def decoded(self) -> Values:
        """Stored values of measured voxels; others as the wavelet saw them."""
        return self.source.stored(self.trial.fields, self.samples)

    def finish(self) -> EncodedBase:
        """The base, with sigma measured."""
        if self.view is None or self.moments is None:
            base = self.source.finish(self.trial, self.job.tile, NAME)
            return replace(base, fields=_fields(base.fields, None))
        fields = _fields(self.trial.fields, self.view)
        inside, unit = self.source.measured, unit_of(fields)
        classes = classes_of(self.samples, self.moments.halves, fields)[inside]
        tables = fit_tables(
            [LevelErrors(classes, np.abs(self.source.error(self.decoded)))],
            unit=float(unit),
            rounded=self.job.values.dtype.kind in "iu",
            nbytes=self.nbytes,
        )
        assert tables is not None  # some voxel is measured
        sigma = tables.sigma(0, classes) * unit
        covered = coverage(self.job.values[inside], self.decoded[inside], sigma)
        base = self.source.based(self.trial, self.decoded, self.job.tile, NAME)
        return replace(
            base,
            fields=replace(fields, sigma=tables.pack()),
            needs_network=True,
            coverage=(covered,),
        )


def level_of_step(prior: Prior, share: float, depth: int, *, foreseen: bool = False) -> int | None:
    """The level made for the nearest step, a share of the intensity range; None if all are far.

    A network may have levels of its own for coarser planes before a scale is known: those whose
    steps are below the first of all, `FORESEEN` times what they are made for.
    """
    away = np.abs(np.log2(prior.steps / 2.0**CONDITION_BITS) - math.log2(share))
    own = prior.steps < prior.steps[0]
    if foreseen and own.any():
        away = np.abs(np.log2(prior.steps / 2.0**CONDITION_BITS) - math.log2(FORESEEN * share))
        away[~own] = math.inf
    else:
        away[own] = math.inf
    if away.min() > FARTHEST:
        return None
    return DEPTHS * int(away.argmin()) + min(depth, DEPTHS - 1)


def _fields(fields: object, view: View | None) -> PosteriorFields:
    assert isinstance(fields, WaveletFields)
    return PosteriorFields(fields.low, fields.step, fields.sigma, fields.shift, view)


def _best_gain(source: SampledSource, trial: Trial, correction: Integers) -> int:
    """Sixteenths of the correction (samples) that leave the least squared error; 0 for none."""
    inside = source.measured
    wanted = -source.error(source.stored(trial.fields, trial.samples)) / trial.fields.step
    given: NDArray[np.float64] = correction[inside].astype(np.float64)
    power = float(given @ given)
    share = float(given @ wanted) / power if power > 0 else 0.0
    return min(max(round(16 * share), 0), MOST_GAIN)
