"""The project's own float network: a residual U-Net without normalisation, at full resolution.

A denoiser has to give back amplitudes, and group normalisation takes them away; folding pixels into
channels first starves the finest scale (decision 0019). So this one has neither: convolutions,
ReLU and additions only, in the manner of DRUNet (Zhang et al., "Plug-and-Play Image Restoration
with Deep Denoiser Prior", arXiv:2008.13751) with a bias per noise level instead of a noise map.
Only training and conversion use this module; decoding never does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ResidualBlock", "ResidualTrunk", "ResidualUNet"]

FREQUENCIES, FEATURES = 32, 128  # of the time embedding
BRANCH = 0.2  # of the usual first weights, at the end of every residual branch


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(relu(x)) + bias of the time))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(FEATURES, channels)
        with torch.no_grad():
            self.conv2.weight.mul_(BRANCH)
            nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """(b, channels, h, w) and (b, FEATURES) to (b, channels, h, w)."""
        h = self.conv1(F.relu(x)) + self.time(embedded)[:, :, None, None]
        out: torch.Tensor = x + self.conv2(F.relu(h))
        return out


class ResidualTrunk(nn.Module):
    """The U-Net itself: (b, inputs, h, w) and embedded times (b, FEATURES) -> (b, outputs, h, w).

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    channels, blocks : sequence of int
        As in `psc_volumetric.prior.making.networks.Architecture`; h and w are multiples of
        ``2 ** (len(channels) - 1)``.
    """

    def __init__(
        self, inputs: int, outputs: int, channels: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, FEATURES),
            nn.SiLU(),
            nn.Linear(FEATURES, FEATURES),
            nn.SiLU(),
        )
        self.conv_in = nn.Conv2d(inputs, channels[0], 3, padding=1)
        self.conv_out = nn.Conv2d(channels[0], outputs, 3, padding=1)
        steps = list(itertools.pairwise(channels))
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in steps)
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in steps)
        self.merge = nn.ModuleList(nn.Conv2d(a, a, 1) for a, _ in steps)
        self.down = nn.ModuleList(
            nn.ModuleList(ResidualBlock(c) for _ in range(n))
            for c, n in zip(channels, blocks, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ModuleList(ResidualBlock(c) for _ in range(n))
            for c, n in zip(channels[:-1], blocks[:-1], strict=True)
        )
        with torch.no_grad():
            for merge in self.merge:
                nn.init.dirac_(merge.weight)  # type: ignore[arg-type]
                nn.init.zeros_(merge.bias)  # type: ignore[arg-type]

    @staticmethod
    def waves(t: torch.Tensor) -> torch.Tensor:
        """(b, 2 FREQUENCIES) sines and cosines of times (b,) in 0..1000."""
        ladder = torch.arange(FREQUENCIES, device=t.device) / FREQUENCIES
        angle = t[:, None].float() * torch.exp(-math.log(10000) * ladder)
        return torch.cat([angle.sin(), angle.cos()], 1)

    def run(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Output for inputs ``x`` and embedded times."""
        h = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        skips: list[torch.Tensor] = []
        for i, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedded)
            if i < len(self.shrink):
                skips.append(h)
                h = self.shrink[i](F.pixel_unshuffle(h, 2))
        for i in reversed(range(len(self.grow))):
            h = self.merge[i](F.pixel_shuffle(self.grow[i](h), 2)) + skips[i]
            for block in self.up[i]:  # type: ignore[attr-defined]
                h = block(h, embedded)
        out: torch.Tensor = self.conv_out(F.relu(h))
        return out


class ResidualUNet(ResidualTrunk):
    """Float network: (b, slices, tile, tile) and t (b,) in 0..1000 -> velocity, same shape.

    Parameters
    ----------
    slices : int
        Slices of a tile, which enter as channels.
    channels, blocks : sequence of int
        As of `ResidualTrunk`.
    fold : int
        Pixels per side folded into channels before the first convolution.
    """

    def __init__(
        self, slices: int, channels: Sequence[int], blocks: Sequence[int], *, fold: int = 1
    ) -> None:
        width = slices * fold**2
        super().__init__(width, width, channels, blocks)
        self.fold = fold

    def embedding(self, t: torch.Tensor) -> torch.Tensor:
        """(b, FEATURES) of times (b,) in 0..1000."""
        embedded: torch.Tensor = self.embed(self.waves(t))
        return embedded

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity of noisy tiles ``x`` at times ``t``."""
        folded = F.pixel_unshuffle(x, self.fold) if self.fold > 1 else x
        out = self.run(folded, self.embedding(t))
        return F.pixel_shuffle(out, self.fold) if self.fold > 1 else out
