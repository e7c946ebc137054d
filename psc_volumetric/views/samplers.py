"""Posterior samplers: volumes that agree with measurements, drawn with a denoiser.

Three ways from noise to a tile of which y = H x is known, all of them from the paper of PSC
(arXiv:2407.09896, appendix A) or its published code. They work in real numbers, so a view may
differ in its last digits between machines; its bytes do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from psc_volumetric.methods.psc.cells import StatedTiles
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.noise import gaussian
from psc_volumetric.prior.smooth import SmoothDenoiser

__all__ = ["SAMPLERS", "Sampler", "Task", "ddrm", "nested", "pigdm"]

Tensor = torch.Tensor

DDRM_STEPS = 25
OUTER_STEPS, INNER_STEPS = 50, 10
PIGDM_STEPS = 100
ETA = 1.0  # fresh noise at every step, the default of PiGDM
UNIT = 2048.0
SCHEDULE_UNIT = float(1 << 16)
LEAST_SIGNAL = 1e-3
SAMPLE_LIMIT = 32767


@dataclass(frozen=True, eq=False)
class Task:
    """Tiles to draw.

    Attributes
    ----------
    denoiser : Denoiser
        The prior of the stream, in integers.
    first : int
        Row of the cleanest noise level of the stream's class.
    tiles : StatedTiles
        What is known of them.
    valid : tuple of (z, y, x)
        Extents of every tile inside its brick; an encoder repeats the last plane past them.
    seed : int
        32 bits.
    smooth : SmoothDenoiser or None
        The prior over real numbers; None makes it of the denoiser's prior.
    uncorrected : int
        Last steps of PiGDM without its correction.
    """

    denoiser: Denoiser
    first: int
    tiles: StatedTiles
    valid: tuple[tuple[int, int, int], ...]
    seed: int
    smooth: SmoothDenoiser | None = None
    uncorrected: int = 0

    @property
    def levels(self) -> int:
        """Noise levels of the prior."""
        return self.denoiser.prior.levels

    def noise(self, number: int) -> Tensor:
        """Normal numbers for step ``number``, (b, slices, tile, tile), in units of 1 / 2048."""
        drawn = gaussian(self.seed, self.tiles.numbers, number, 1, math.prod(self.tiles.shape))
        return drawn.double().reshape(-1, *self.tiles.shape)

    def amplitudes(self, level: int) -> tuple[float, float]:
        """Of signal and noise at a noise level."""
        prior, row = self.denoiser.prior, self.first + level
        return prior.alpha[row] / SCHEDULE_UNIT, prior.sigma[row] / SCHEDULE_UNIT

    def denoise(self, x: Tensor, level: int) -> Tensor:
        """E[x0 | x], by the integer network."""
        rounded = torch.round(x).clamp(-SAMPLE_LIMIT, SAMPLE_LIMIT).to(torch.int32)
        device = self.denoiser.device
        return self.denoiser.denoise(rounded.to(device), self.first + level).double().cpu()

    def met(self, x0: Tensor) -> Tensor:
        """x0 + H^T (y - H x0), with what is past the edge repeated as the encoder repeats it."""
        moved = x0 + self.tiles.missing(x0)
        for tile, valid in zip(moved, self.valid, strict=True):
            _repeat_edges(tile, valid)
        return moved

    def nothing(self) -> Tensor:
        """H^T y, where every sampler starts."""
        return self.tiles.missing(
            torch.zeros((len(self.tiles.numbers), *self.tiles.shape)).double()
        )

    def renoised(self, x0: Tensor, level: int, number: int) -> Tensor:
        """Tiles at a noise level."""
        alpha, sigma = self.amplitudes(level)
        return alpha * x0 + sigma * self.noise(number)


def _repeat_edges(tile: Tensor, valid: tuple[int, int, int]) -> None:
    """Make the planes from the last valid one on equal: each becomes their mean."""
    for axis, extent in enumerate(valid):
        rest = tile.narrow(axis, extent - 1, tile.shape[axis] - extent + 1)
        rest.copy_(rest.mean(axis, keepdim=True).expand_as(rest))


Sampler = Callable[[Task], Tensor]


def _falling(levels: int, steps: int) -> list[int]:
    """At most so many distinct levels, evenly apart in time, down to the cleanest."""
    times = np.linspace(levels - 1, 0, min(steps, levels))
    return [int(level) for level in np.rint(times)]


def ddrm(task: Task) -> Tensor:
    """DDRM (Kawar et al. 2022) at eta = 1: denoise, impose H x0 = y, make noisy again; 25 steps.

    Returns
    -------
    (b, slices, tile, tile) float64
        Tiles in units of 1 / 2048 that meet the measurements.
    """
    x0 = task.nothing()
    for number, level in enumerate(_falling(task.levels, DDRM_STEPS)):
        x0 = task.met(task.denoise(task.renoised(x0, level, number), level))
    return x0


def nested(task: Task) -> Tensor:
    """DDRM of 50 steps around an ODE solver of 10: the sampler of PSC's published code.

    Where DDRM denoises, this solves the probability-flow ODE from the noise level to 0, so that
    what is projected is a sharp tile instead of a mean of tiles. The published code solves in
    single steps, the last two of first order; what it draws is as far from the source
    (docs/systems.md).
    """
    x0 = task.nothing()
    for number, level in enumerate(_falling(task.levels, OUTER_STEPS)):
        x0 = task.met(_solved(task, task.renoised(x0, level, number), level))
    return x0


def _solved(task: Task, x: Tensor, level: int) -> Tensor:
    """From a noise level to 0 with DPM-Solver++ of second order (Lu et al. 2022, 2M)."""
    before: tuple[Tensor, float] | None = None
    levels = _falling(level + 1, INNER_STEPS)
    for here, there in pairwise(levels):
        x0 = task.denoise(x, here)
        (alpha, sigma), (next_alpha, next_sigma) = map(task.amplitudes, (here, there))
        step = _signal(next_alpha, next_sigma) - _signal(alpha, sigma)
        ahead = x0 if before is None else x0 + (x0 - before[0]) * (step / (2 * before[1]))
        before = x0, step
        x = (next_sigma / sigma) * x - next_alpha * math.expm1(-step) * ahead
    return task.denoise(x, levels[-1])


def _signal(alpha: float, sigma: float) -> float:
    """Half the logarithm of the ratio of signal to noise."""
    return math.log(max(alpha, LEAST_SIGNAL) / sigma)


def pigdm(task: Task) -> Tensor:
    """Pseudoinverse-guided diffusion (Song et al. 2023, algorithm 1), 100 steps, eta = 1.

    .. code-block:: text

        x0  = E[x0 | x_t]
        g   = (d x0 / d x_t)^T H^+ (y - H x0)
        x_s = alpha_s (x0 + alpha_t g) + c1 noise + c2 (x_t - alpha_t x0) / sigma_t
        c1  = eta sqrt((1 - alpha_t^2 / alpha_s^2) sigma_s^2 / sigma_t^2),  c1^2 + c2^2 = sigma_s^2

    The factor of g is that of the authors' code. The paper's listing has alpha_t in place of
    alpha_s alpha_t, which moves x0 past the measurements where there is much noise. The derivative
    is that of the prior's network over real numbers
    (:class:`psc_volumetric.prior.smooth.SmoothDenoiser`), at noise levels between the tabulated
    ones too.
    """
    smooth = task.smooth or SmoothDenoiser(task.denoiser.prior, task.denoiser.device.type)
    levels = task.first + np.linspace(task.levels - 1, 0, PIGDM_STEPS + 1)
    x = task.renoised(task.nothing(), task.levels - 1, 0)
    for number, (level, following) in enumerate(pairwise(levels.tolist()), start=1):
        x0, guided = _guided(smooth, task, x, level)
        if number > PIGDM_STEPS - task.uncorrected:
            guided = torch.zeros_like(guided)
        (alpha, sigma), (next_alpha, next_sigma) = map(smooth.schedule, (level, following))
        kept = (alpha / next_alpha) ** 2
        fresh = ETA * math.sqrt(max(0.0, 1 - kept)) * next_sigma / sigma
        along = math.sqrt(max(0.0, next_sigma**2 - fresh**2))
        seen = (x - alpha * x0) / sigma
        x0 = x0 + alpha * guided
        x = next_alpha * x0 + fresh * task.noise(number) + along * seen
    last = smooth(x.float(), float(task.first)).double()
    return last.cpu() if task.uncorrected else task.met(last)


def _guided(smooth: SmoothDenoiser, task: Task, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Denoised tiles, and the pull of the measurements through the network's derivative."""
    with torch.enable_grad():
        noisy = x.float().to(smooth.device).requires_grad_(True)
        x0 = smooth(noisy, level)
        found = x0.detach().double().cpu()
        wanted = task.tiles.missing(found).to(x0)
        (pull,) = torch.autograd.grad((x0 * wanted).sum(), noisy)
    return found, pull.double().cpu()


SAMPLERS: dict[str, Sampler] = {"sample": ddrm, "nested": nested, "pigdm": pigdm}
