"""Counter-based Gaussian noise in integers. Part of the format (SPEC section 5.2).

Threefry (:mod:`psc_volumetric.entropy.threefry`) gives 64 bits per counter, hence four 16-bit
indices into a shipped table of normal quantiles.
"""

from __future__ import annotations

import functools
import math

import torch

from psc_volumetric.entropy.tables import gaussian_table
from psc_volumetric.entropy.threefry import threefry2x32

__all__ = ["centred", "centring_gain", "gaussian"]


@functools.cache
def _table(device: str) -> torch.Tensor:
    return torch.from_numpy(gaussian_table().copy()).to(device, torch.int32)


def gaussian(
    seed: int, tiles: torch.Tensor, pass_number: int, particles: int, elements: int
) -> torch.Tensor:
    """Unit-variance noise with 11 fraction bits for every particle of some tiles.

    Parameters
    ----------
    seed : int
        Key word 0, 32 bits, from the stream.
    tiles : (b,) int64
        Tile numbers in the brick: key word 1.
    pass_number : int
        Denoising steps done before, over all rounds (0 for the start of the first pass).
    particles : int
        Particles per tile; particle ``p`` uses counter word 1 = ``pass_number * 64 + p``.
    elements : int
        Values per particle, a multiple of 4; counter word 0 = element // 4.

    Returns
    -------
    (b, particles, elements) int32
    """
    device = tiles.device
    c0 = torch.arange(elements // 4, dtype=torch.int64, device=device)
    c1 = pass_number * 64 + torch.arange(particles, dtype=torch.int64, device=device)
    a, b = threefry2x32((seed, tiles.view(-1, 1, 1)), c0, c1.view(-1, 1))
    index = torch.stack([a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16], dim=-1)
    return _table(str(device))[index].reshape(len(tiles), particles, elements)


def centring_gain(particles: int) -> int:
    """Factor of centred noise, 16 fraction bits: 1 / sqrt(s (s - 1)), rounded down twice."""
    return math.isqrt((1 << 32) // (particles * (particles - 1)))


def centred(noise: torch.Tensor) -> torch.Tensor:
    """Noise whose sum over the particles of a tile vanishes, of the same variance.

    The mean over ``s`` independent particles carries ``1 / s`` of their noise into every
    prediction and into the picture; noise that sums to zero does not, to first order.

    Parameters
    ----------
    noise : (b, particles, elements) int32
        Independent noise, 11 fraction bits.

    Returns
    -------
    (b, particles, elements) int64
    """
    particles = noise.shape[1]
    wide = noise.long()
    apart = particles * wide - wide.sum(1, keepdim=True)
    return (apart * centring_gain(particles) + (1 << 15)) >> 16
