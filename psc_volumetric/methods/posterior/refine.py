"""Numbers of quantiser steps chosen for what the network makes of them. Encoder only.

The wavelet's encoder takes every coefficient for itself: nearest to the source, as far as that is
worth its bits. But coefficients are not quite independent, and a reader sees what the network makes
of them. So the encoder goes over them again: the slope of the reader's error along each coefficient
says where it had best be, and the decision between error and bits is taken anew from there (a
proximal step, as in iterative shrinkage), an eighth of the coefficients at a time, so that
neighbours do not all mend the same error. In between the slopes are moved by what the wavelet alone
would make of the changes; the network is asked twice. How streams are read does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from psc_volumetric.methods.posterior.fields import View
from psc_volumetric.methods.posterior.moments import (
    MEAN_REACH,
    SATURATION,
    SCALE_BITS,
    UNIT_BITS,
    VIEWED,
    Span,
    windows,
)
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.posterior.smooth import SmoothNetwork
from psc_volumetric.methods.sampled import Trial
from psc_volumetric.methods.wavelet.gradient import curvatures, decoded, slopes
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.methods.wavelet.prices import COLOURS
from psc_volumetric.methods.wavelet.refine import Chooser
from psc_volumetric.methods.wavelet.synthesis import synthesise
from psc_volumetric.methods.wavelet.transform import UNITS, dequantise
from psc_volumetric.prior.runtime import one_thread

__all__ = ["ROUNDS", "SWEEPS", "Refiner", "Slopes"]

ROUNDS = 2  # more gain nothing on CT, and lose on heads
SWEEPS = 2  # over all coefficients, each time: they cost little beside the network
WINDOW = 384  # rows and columns at once: what torch keeps for the slopes is some 40 times as much
MOST_SHARE = 2.0  # of the correction

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


class Slopes(NamedTuple):
    """How a reader's error depends on what is decoded.

    Attributes
    ----------
    by_sample : (z, y, x) float32
        Derivatives by every sample; error and samples in quantiser steps.
    error : float
        Summed squares, squared steps.
    share : float
        Of the correction, that would leave the least error.
    """

    by_sample: Floats
    error: float
    share: float


@dataclass(frozen=True)
class Refiner:
    """A brick whose numbers of steps are gone over again.

    Attributes
    ----------
    source : WaveletSource
    step : float
        Quantiser step, stored units.
    view : View
        How the network sees it; its gain is not used.
    estimator : Estimator
    """

    source: WaveletSource
    step: float
    view: View
    estimator: Estimator

    def refined(self) -> Trial:
        """The coding after all rounds."""
        source = self.source
        depth, share = source.depth, 1.0
        chooser = Chooser(source.quantised(self.step), depth)
        inverse = np.float32(-0.5) / curvatures(source.shape, depth).astype(np.float32)
        with one_thread(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            # the same bits for any number of threads, and each time
            for _ in range(ROUNDS):
                found = self.slopes(synthesise(dequantise(chooser.steps, depth), depth), share)
                share, slope = found.share, found.by_sample
                for number in range(SWEEPS * COLOURS):
                    changes = chooser.choose(slopes(slope, depth) * inverse, number)
                    slope += 2 * decoded(changes, depth)
        return source.coded(self.step, chooser.steps)

    @cached_property
    def _target(self) -> Doubles:
        """Samples that would be without error."""
        fields = self.source.fields(max(self.step, self.source.finest_step))
        wanted: Doubles = (self.source.clean.astype(np.float64) - fields.low) / fields.step
        return wanted

    @cached_property
    def _network(self) -> SmoothNetwork:
        return SmoothNetwork(self.estimator.prior.program, self.estimator.device)

    def slopes(self, samples: NDArray[np.int64], share: float) -> Slopes:
        """Of the error with a share of the network's correction."""
        z, y, x = samples.shape
        out = np.zeros(samples.shape, np.float32)
        whole = (slice(0, z), slice(0, y), slice(0, x))
        spans = list(windows(samples.shape, whole, self.estimator, WINDOW))
        sums = np.zeros(3)
        for plane in range(z):
            for window in spans:
                sums += self._of_window(samples, plane, window, share, out)
        error, power, cross = sums.tolist()
        best = min(max(cross / power, 0.0), MOST_SHARE) if power > 0 else 0.0
        return Slopes(out, error, best)

    def _of_window(
        self,
        samples: NDArray[np.int64],
        plane: int,
        window: tuple[Span, Span],
        share: float,
        out: Floats,
    ) -> tuple[float, float, float]:
        """Add the slopes of one window of a plane to ``out``; gives the sums of `Slopes`.

        The network sees the window and what it looks past; the error is that of the window alone.
        """
        around = self.estimator.prior.program.slices // 4
        places = [
            np.clip(np.arange(first, last), 0, count - 1)
            for (first, last), count in zip(
                ((plane - around, plane + around + 1), *((s.first, s.last) for s in window)),
                samples.shape, strict=True,
            )
        ]  # fmt: skip
        device = self.estimator.device
        near = torch.from_numpy(samples[np.ix_(*places)].astype(np.float32)).to(device)
        near.requires_grad_(True)
        inside = tuple(slice(span.start, span.stop) for span in window)
        rows, columns = (span.inside for span in window)
        target = torch.from_numpy(self._target[plane][inside].astype(np.float32)).to(device)
        counts = torch.from_numpy(self.source.measured[plane][inside]).to(device)
        correction = self._correction(near)[rows, columns]
        error = (near[around][rows, columns] - target) * counts
        given = correction * counts
        loss = ((error + share * given) ** 2).sum() / UNITS**2
        loss.backward()
        assert near.grad is not None
        # derivatives by samples in steps: a step is so many of them
        np.add.at(out, np.ix_(*places), (near.grad * UNITS).cpu().numpy())
        with torch.no_grad():
            return float(loss), float((given**2).sum()), float(-(given * error).sum())

    def _correction(self, near: torch.Tensor) -> torch.Tensor:
        """What the network adds to the middle of some planes, in samples."""
        middle, size = len(near) // 2, 2 * MEAN_REACH + 1
        mean = F.avg_pool2d(
            near[None, middle : middle + 1], size, 1, MEAN_REACH, count_include_pad=False
        )
        away = 2 * (near[None] - mean)
        whole = near[None].clamp(-VIEWED, VIEWED) * (self.view.scale * 2.0**-SCALE_BITS)
        seen = torch.cat([away, whole + self.view.offset], 1).clamp(-SATURATION, SATURATION)
        bits = self.estimator.prior.program.out_bits
        return self._network(seen, self.view.level)[0, 0] * 2.0 ** (UNIT_BITS - bits)
