"""Structured rows: cosine coefficients picked by posterior variance. Part of the format (SPEC 5.4).

In the spirit of AdaSense's structured variants (choose the measurements of largest posterior
variance among a fixed orthonormal family), with reverse water-filling: a coefficient is measured
once its predicted scale reaches a threshold in quantiser steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from psc_volumetric.methods.psc.transform import BlockTransform, frequency_class

__all__ = ["Prediction", "StructuredSensing"]

VARIANCE_LIMIT = 1 << 42


@dataclass(frozen=True)
class Prediction:
    """What the particles say about every coefficient of some tiles at one step.

    Attributes
    ----------
    mean : (b, n) int64
        Posterior mean, 11 fraction bits.
    variance : (b, n) int64
        Calibrated variance, 22 fraction bits.
    """

    mean: torch.Tensor
    variance: torch.Tensor


class StructuredSensing:
    """Measured coefficients of a batch of tiles, and projection onto them.

    Parameters
    ----------
    transform : BlockTransform
        The fixed orthonormal family.
    gain, floor : (levels, classes) int64
        The prior's calibration: variance = (gain * sample variance >> 16) + floor.
    tiles, particles : int
        Batch layout.
    """

    def __init__(
        self,
        transform: BlockTransform,
        gain: torch.Tensor,
        floor: torch.Tensor,
        tiles: int,
        particles: int,
    ) -> None:
        self.transform, self.gain, self.floor = transform, gain, floor
        self.tiles, self.particles = tiles, particles
        device = gain.device
        self.known = torch.zeros((tiles, transform.coefficients), dtype=torch.bool, device=device)
        self.values = torch.zeros(self.known.shape, dtype=torch.int64, device=device)
        classes = torch.from_numpy(frequency_class(transform.slices)).to(device)
        self._classes = classes.repeat(transform.blocks**2)

    def set_coarse(self, means: torch.Tensor) -> None:
        """Take the block means (b, blocks^2) int64, 11 fraction bits, as measured."""
        block = self.transform.slices * 64
        self.known[:, ::block] = True
        self.values[:, ::block] = means

    def rebuilt(self) -> torch.Tensor:
        """Tile rebuilt from measured coefficients alone, (b, slices, tile, tile) float64."""
        return self.transform.inverse(self.values.double())

    def observe(self, x0: torch.Tensor, level: int) -> tuple[torch.Tensor, Prediction]:
        """Transform denoised particles and summarise them.

        Parameters
        ----------
        x0 : (b * particles, slices, tile, tile)
            Denoised particles, 11 fraction bits.
        level : int
            Noise level they came from.

        Returns
        -------
        coefficients : (b, particles, n) float64
        prediction : Prediction
        """
        s = self.particles
        c = self.transform.forward(x0.double()).reshape(self.tiles, s, -1)
        total = c.sum(1).long()
        spread = s * (c * c).sum(1).long() - total * total
        sample = torch.div(spread, s * (s - 1), rounding_mode="floor")
        gain, floor = self.gain[level][self._classes], self.floor[level][self._classes]
        variance = (((gain * sample) >> 16) + floor).clamp_(1, VARIANCE_LIMIT)
        mean = (total + s // 2) >> (s.bit_length() - 1)
        return c, Prediction(mean, variance)

    def pick(self, prediction: Prediction, threshold: int, step: int) -> torch.Tensor:
        """Coefficients to measure: unknown, with scale >= threshold / 256 * step; (b, n) bool."""
        wide_enough = (prediction.variance << 16) >= (threshold * step) ** 2
        return wide_enough & ~self.known

    def assimilate(self, tiles: torch.Tensor, where: torch.Tensor, values: torch.Tensor) -> None:
        """Record measured coefficients: tile, flat position and value of each (int64)."""
        self.known[tiles, where] = True
        self.values[tiles, where] = values

    def project(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Replace measured coefficients of every particle; back to (b * particles, s, t, t)."""
        fixed = torch.where(self.known[:, None], self.values[:, None].double(), coefficients)
        return self.transform.inverse(fixed.reshape(self.tiles * self.particles, -1))
