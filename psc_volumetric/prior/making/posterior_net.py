"""Float network of the amortised posterior: mean and variance of voxels given a decoded brick.

Where the published sampler draws particles from the posterior, this network gives its first two
moments in one evaluation: slices as the wavelet decoded them go in, the correction of the middle
one and the logarithm of its variance come out. It is `ResidualTrunk` with other ends, so it
converts to integers as the denoisers do: the quantiser step and the splits of z are biases, one
row for every pair. Only training and conversion use this module.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.bundle import DEPTHS
from psc_volumetric.prior.making.residual_unet import FREQUENCIES, ResidualTrunk

__all__ = ["DEPTHS", "FORESEEN", "OUTPUTS", "PosteriorNet", "PosteriorShape", "step_time"]

OCTAVES = 12  # of the quantiser step, up to the whole range
FIRST_LOG_VARIANCE = -2.5  # in squared steps, about what the wavelet leaves
OUTPUTS = 2
STEPS_PER_UNIT = 4  # quantiser steps that are 1 for the network, so that its inputs are about 1
FORESEEN = 2.0**-6  # of the step that is told, where planes are coarser ones before a scale
REACH = 4  # pixels to each side that the local mean is taken over


@dataclass(frozen=True)
class PosteriorShape:
    """Shape of a posterior network.

    Parameters
    ----------
    slices : int
        Decoded slices it sees, odd; the middle one is corrected.
    channels, blocks : tuple of int
        As in `psc_volumetric.prior.making.networks.Architecture`.
    foresees : bool
        Whether it has levels of its own for coarser planes before a scale is known.
    """

    slices: int = 5
    channels: tuple[int, ...] = (16, 32, 48)
    blocks: tuple[int, ...] = (2, 2, 2)
    foresees: bool = False

    def __post_init__(self) -> None:
        if self.slices < 1 or self.slices % 2 == 0 or len(self.channels) != len(self.blocks):
            raise ParameterError(
                "posterior network: expected an odd number of slices and as many channels as "
                f"blocks, found {self.slices}, {self.channels!r} and {self.blocks!r}",
                kind="bad-architecture",
            )

    @property
    def multiple(self) -> int:
        """Rows and columns of its input are multiples of this."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PosteriorShape:
        """Rebuild from :meth:`to_dict`; unknown keys are a ``TypeError``."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def step_time(step: torch.Tensor) -> torch.Tensor:
    """Time (0..1000) of quantiser steps, shares of the intensity range: even in octaves."""
    return ((torch.log2(step) + OCTAVES) / OCTAVES).clamp(0, 1) * 1000


class PosteriorNet(ResidualTrunk):
    """`features` (b, 2 slices, h, w) of decoded slices -> (b, 2, h, w).

    Channel 0 is the correction of the middle slice in quantiser steps, channel 1 the natural
    logarithm of the variance that is left, in squared steps.

    Attributes
    ----------
    shape : PosteriorShape
    """

    def __init__(self, shape: PosteriorShape) -> None:
        super().__init__(2 * shape.slices, OUTPUTS, shape.channels, shape.blocks)
        self.shape = shape
        self.depth = nn.Embedding(DEPTHS, 2 * FREQUENCIES)
        with torch.no_grad():
            nn.init.zeros_(self.depth.weight)
            nn.init.zeros_(self.conv_out.weight)
            self.conv_out.bias.copy_(torch.tensor([0.0, FIRST_LOG_VARIANCE]))  # type: ignore[union-attr]

    def embedding(self, step: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """(b, FEATURES) of quantiser steps (b,), shares of the range, and splits of z (b,)."""
        waves = self.waves(step_time(step)) + self.depth(depth.clamp(max=DEPTHS - 1))
        embedded: torch.Tensor = self.embed(waves)
        return embedded

    def forward(self, x: torch.Tensor, step: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Correction and log-variance; see the class."""
        return self.run(x, self.embedding(step, depth))

    @staticmethod
    def features(decoded: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """What the network sees of decoded slices: (b, 2 slices, h, w).

        First in quantiser steps, so that artefacts look alike at every rate, without the local
        mean of the middle slice, beside which they would have few bits; then as they are.
        """
        middle = decoded.shape[1] // 2
        mean = F.avg_pool2d(
            decoded[:, middle : middle + 1], 2 * REACH + 1, 1, REACH, count_include_pad=False
        )
        steps = (decoded - mean) / (STEPS_PER_UNIT * step.view(-1, 1, 1, 1))
        return torch.cat([steps, 2 * decoded - 1], 1)

    def posterior(
        self,
        decoded: torch.Tensor,
        step: torch.Tensor,
        depth: torch.Tensor,
        told: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance (b, 1, h, w) of the middle one of decoded slices.

        Parameters
        ----------
        decoded : (b, slices, h, w)
            0 at the low end of the intensity range, 1 at its high end.
        step : (b,)
            Quantiser steps, shares of the range.
        depth : (b,) int64
            Splits of z.
        told : (b,), optional
            `FORESEEN` times the step where planes are coarser ones before a scale; else the step.
        """
        scale = step.view(-1, 1, 1, 1)
        condition = step if told is None else told
        out = self(self.features(decoded, step), condition, depth).float()
        middle = decoded.shape[1] // 2
        mean = decoded[:, middle : middle + 1] + scale * out[:, :1]
        return mean, out[:, 1:] + 2 * torch.log(scale)
