"""The mean of particles, beside which posterior networks are measured.

Particles are drawn as the method ``psc`` draws them (PSC, and DDRM of Kawar et al. 2022,
arXiv:2201.11793: denoise, project onto what was measured, add noise again), but given the
coefficients of a decoded wavelet in place of a tile's own rows, and without tiles: planes are
whole, and a slab of slices sees a halo of decoded ones above and below. So the estimators differ,
and neither what was measured nor the borders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.training.posterior.packs import Coded
from pipelines.training.posterior.wavelet import analyse, dequantise, synthesise
from pipelines.training.precision import short_floats
from pipelines.training.train import cosine_alpha
from psc_volumetric.prior.making.residual_unet import ResidualUNet

__all__ = ["Particles", "mean_of_particles"]

Tensor = torch.Tensor

ZERO = 0.8  # steps, up to which encoders of wavelets give up a coefficient
BELOW, ABOVE = 0.5, 0.65  # steps from a number to the ends of its cell


@dataclass(frozen=True)
class Particles:
    """How particles are drawn.

    Attributes
    ----------
    count, evaluations : int
        Particles, and evaluations of the network for each. A single one gets no noise: what is
        added sums to zero over the particles, as in `psc`.
    first, last : float
        Noise of the first and the last evaluation, 0 (none) to 1 (nothing else).
    halo : int
        Slices of a slab, above and below, that are seen and not kept.
    seed : int
    """

    count: int = 4
    evaluations: int = 8
    first: float = 0.25
    last: float = 0.02
    halo: int = 2
    seed: int = 0

    def times(self) -> list[float]:
        """Noise of every evaluation, most first."""
        return [float(t) for t in np.linspace(self.first, self.last, self.evaluations)]


@torch.no_grad()
def mean_of_particles(denoiser: ResidualUNet, coded: Coded, how: Particles) -> Tensor:
    """(z, y, x) float32 shares of the intensity range: the mean of all particles.

    Parameters
    ----------
    denoiser : ResidualUNet
        On the CPU.
    coded : Coded
        A volume as an encoder made it.
    how : Particles
    """
    generator = torch.Generator().manual_seed(how.seed)
    cells = _Cells.of(coded)
    start = 2 * torch.from_numpy(coded.decode()) - 1
    found = start.expand(how.count, *start.shape)
    for t in how.times():
        alpha = float(cosine_alpha(torch.tensor(t)))
        noise = torch.randn(found.shape, generator=generator)
        noise = (noise - noise.mean(0)) * math.sqrt(how.count / max(how.count - 1, 1))
        noisy = alpha * found + math.sqrt(1 - alpha**2) * noise
        found = torch.stack([cells.project(_denoised(denoiser, one, t, how)) for one in noisy])
    return (found.mean(0) + 1) / 2


def _denoised(denoiser: ResidualUNet, x: Tensor, t: float, how: Particles) -> Tensor:
    """(z, y, x) of noisy samples, slab by slab."""
    slices, multiple = denoiser.conv_in.in_channels, 2 ** len(denoiser.shrink)
    kept = slices - 2 * how.halo
    rows, columns = x.shape[1:]
    edges = (0, -columns % multiple, 0, -rows % multiple)
    wide = F.pad(x[None], edges, mode="replicate")[0]
    alpha = float(cosine_alpha(torch.tensor(t)))
    parts = []
    for first in range(0, len(x), kept):
        places = torch.arange(first - how.halo, first - how.halo + slices).clamp(0, len(x) - 1)
        slab = wide[places][None]
        with short_floats("cpu"):
            velocity = denoiser(slab, torch.tensor([1000 * t])).float()
        clean = alpha * slab - math.sqrt(1 - alpha**2) * velocity
        parts.append(clean[0, how.halo : how.halo + kept, :rows, :columns])
    return torch.cat(parts)[: len(x)]


@dataclass(frozen=True)
class _Cells:
    """Where coefficients of the source lie, as far as a stream tells: (z, y, x) float32 bounds."""

    low: Tensor
    high: Tensor
    middle: float
    depth: int

    @classmethod
    def of(cls, coded: Coded) -> _Cells:
        numbers = torch.from_numpy(coded.numbers.astype(np.float32))
        sizes, signs = numbers.abs(), numbers.sign()
        inner = torch.where(sizes > 0, sizes - BELOW, torch.full_like(sizes, -ZERO))
        outer = torch.where(sizes > 0, sizes + ABOVE, torch.full_like(sizes, ZERO))
        ends = [torch.where(signs < 0, -end, end) for end in (inner, outer)]
        scaled = [dequantise(end, coded.step, coded.depth) for end in ends]
        low, high = torch.minimum(*scaled), torch.maximum(*scaled)
        return cls(low, high, coded.middle, coded.depth)

    def project(self, x: Tensor) -> Tensor:
        """Samples of -1 .. 1 whose coefficients lie in the cells, as near as may be."""
        coefficients = analyse((x + 1) / 2 - self.middle, self.depth)
        inside = torch.clamp(coefficients, self.low, self.high)
        return 2 * (synthesise(inside, self.depth) + self.middle) - 1
