"""PSC as its paper has it (Elata, Michaeli, Elad, arXiv:2407.09896), in floating point.

A measurement of how far a setting gets, never a stream: float results differ between machines, so
nothing could decode elsewhere what this counts. Choices, with their place in the paper:

- One step (Algorithm 1): s posterior samples given H and y, centred; the top r right singular
  vectors become the next rows of H (equation 3). s = 16, r = 12 (appendix A).
- One round (Algorithm 2): y = H x of the new rows, rounded to float8 E4M3 (section 3), which also
  is what the sampler sees: it takes y as exact (footnote 4). Values are the prior's normalised
  ones, the image range being -1..1; magnitudes above 448 saturate.
- The posterior sampler is DDRM (Kawar et al. 2022) with 25 steps at eta = 1 (appendix A). Its
  times are k / 25 for k = 24..0, the sequence of the DDRM code. Appendix A also states
  eta_b = 0, which in DDRM's equation 8 would ignore exact measurements. The authors' code of both
  methods puts alpha y + sigma noise into the measured directions, that is eta_b = 1, at every
  step and at the start; so does this. With eta = 1 the update is "impose H x0 = y, then renoise".
- The restoration is the mean of 64 such samples (appendix A, low distortion). One of them alone is
  measured too, in place of the slower and more perceptual PiGDM.
- Entropy coding: the paper names a range coder and no model, its code stores eight bits. Counted
  are ideal code lengths of an adaptive order-0 model of the 256 codes, learnt over all tiles in
  coding order, without header or flush; beside it the empirical entropy, which no such model beats.

Open in the paper and chosen here: singular vectors are made orthogonal to the earlier rows once
more, since rounding would add up over rounds; a tile has its own generator, seeded by its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Denoise",
    "Measured",
    "PaperSetting",
    "PosteriorSampler",
    "Schedule",
    "code_bits",
    "code_tile",
    "float8",
    "next_rows",
]

Denoise = Callable[[torch.Tensor, int], torch.Tensor]
LARGEST = 448.0  # of E4M3
LEARNT = 8  # weight of a symbol seen over that of one never seen


@dataclass(frozen=True)
class PaperSetting:
    """Numbers of appendix A: DDRM steps, samples s, rows r a round, samples to restore with."""

    steps: int = 25
    samples: int = 16
    rows: int = 12
    restored: int = 64


@dataclass(frozen=True)
class Schedule:
    """Signal and noise amplitude of every noise level, cleanest first, and the levels of a pass."""

    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, alpha: ArrayLike, sigma: ArrayLike, steps: int) -> Schedule:
        """Take ``steps`` levels at times k / steps, k falling to 0; level i is time (i + 1) / n."""
        a, s = np.asarray(alpha, np.float64), np.asarray(sigma, np.float64)
        times = (k / steps for k in reversed(range(steps)))
        levels = tuple(max(0, round(time * len(a)) - 1) for time in times)
        return cls(a, s, levels)


class PosteriorSampler:
    """DDRM for y = H x with orthonormal rows and no measurement noise.

    Parameters
    ----------
    denoise : callable
        (n, elements) float64 noisy values and a noise level -> x0, same shape.
    schedule : Schedule
    generator : torch.Generator
        Where noise comes from.
    """

    def __init__(self, denoise: Denoise, schedule: Schedule, generator: torch.Generator) -> None:
        self.denoise, self.schedule, self.generator = denoise, schedule, generator

    def draw(self, rows: torch.Tensor, y: torch.Tensor, count: int) -> torch.Tensor:
        """Samples of x given H x = y.

        Parameters
        ----------
        rows : (m, elements) float64
            H; m may be 0.
        y : (m,) float64
        count : int

        Returns
        -------
        (count, elements) float64
            Every one meets the measurements.
        """
        x0 = (y @ rows).expand(count, -1)
        for level in self.schedule.levels:
            noise = torch.randn(x0.shape, generator=self.generator, dtype=torch.float64)
            x = float(self.schedule.alpha[level]) * x0 + float(self.schedule.sigma[level]) * noise
            x0 = self.denoise(x, level)
            x0 = x0 + (y - x0 @ rows.T) @ rows
        return x0


def float8(y: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """Values rounded to E4M3, as float64, and their codes; there is one zero."""
    rounded = y.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).double() + 0.0
    codes: NDArray[np.uint8] = rounded.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return rounded, codes


def next_rows(samples: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Top right singular vectors of the centred samples (Algorithm 1, lines 3 and 4).

    Parameters
    ----------
    samples : (s, elements) float64
    rows : (m, elements) float64
        Rows there are.
    count : int
        Rows wanted; fewer come where nothing varies any more.
    """
    centred = samples - samples.mean(0)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    vectors = vectors[: min(count, len(samples) - 1)]
    vectors = vectors[values[: len(vectors)] > 1e-9 * math.sqrt(samples.shape[1])]
    vectors = vectors - (vectors @ rows.T) @ rows
    orthonormal: torch.Tensor = torch.linalg.qr(vectors.T)[0].T
    return orthonormal


@dataclass(frozen=True)
class Measured:
    """A tile after some rounds.

    Attributes
    ----------
    rounds : int
    rows : (m, elements) float64
        H; its rows are orthonormal.
    y : (m,) float64
        Quantised measurements.
    codes : (m,) uint8
        The same as symbols.
    """

    rounds: int
    rows: torch.Tensor
    y: torch.Tensor
    codes: NDArray[np.uint8]


def code_tile(
    x: torch.Tensor, sampler: PosteriorSampler, setting: PaperSetting, stops: Sequence[int]
) -> Iterator[Measured]:
    """Algorithm 2 on one tile; ``steps * samples`` evaluations per round.

    Parameters
    ----------
    x : (elements,) float64
    sampler : PosteriorSampler
    setting : PaperSetting
    stops : sequence of int
        Numbers of rounds to report after.
    """
    rows = torch.zeros((0, len(x)), dtype=torch.float64)
    y = torch.zeros(0, dtype=torch.float64)
    codes = np.zeros(0, np.uint8)
    for number in range(1, max(stops) + 1):
        samples = sampler.draw(rows, y, setting.samples)
        new = next_rows(samples, rows, setting.rows)
        measured, symbols = float8(new @ x)
        rows, y = torch.cat([rows, new]), torch.cat([y, measured])
        codes = np.concatenate([codes, symbols])
        if number in stops:
            yield Measured(number, rows, y, codes)


def code_bits(codes: NDArray[np.uint8]) -> tuple[float, float]:
    """Bits of a sequence of codes: ideal length of the adaptive model, and empirical entropy.

    The model gives a code that was seen k times among n the probability
    ``(1 + 8 k) / (256 + 8 n)``, as the codec's own models of small alphabets do.
    """
    weights, adaptive = np.ones(256), 0.0
    for code in codes:
        adaptive -= math.log2(weights[code] / weights.sum())
        weights[code] += LEARNT
    counts = np.bincount(codes, minlength=1).astype(np.float64)
    counts = counts[counts > 0]
    return adaptive, float(-(counts * np.log2(counts / max(len(codes), 1))).sum())
