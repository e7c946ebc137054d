"""Train a prior: real volumes in, a float denoiser with known held-out loss out.

The network learns the velocity ``v = alpha * noise - sigma * x`` of tiles at continuous noise
levels (v-prediction: Salimans & Ho, "Progressive Distillation", arXiv:2202.00512, section 4),
with exponential moving averages of the weights. Volumes are split by patient before anything
is drawn from them; which file belongs to the held-out side is decided by name patterns.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from psc_volumetric.prior.making.networks import Architecture, build_network

if TYPE_CHECKING:
    import torch

__all__ = [
    "NOISE_LEVELS_REPORTED",
    "TileSampler",
    "TrainingSettings",
    "TrainingVolume",
    "add_noise",
    "train",
]

log = logging.getLogger(__name__)

NOISE_LEVELS_REPORTED = (0.98, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02)
TIMES_WEIGHED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
VELOCITY_ERROR = (0.6, 0.445, 0.371, 0.216, 0.126, 0.0735, 0.0585, 0.052, 0.055, 0.075, 0.17)


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run depends on besides the data and the architecture.

    Attributes
    ----------
    minutes, batch, optimiser, learning_rate, weight_decay, warmup, ema_decay, seed
        Length and optimiser (`pipelines.training.optimisers`); ``warmup`` in steps.
    threads, bfloat16, device
        Where and how it runs.
    flat_tiles_kept : float
        Share of nearly constant tiles that are trained on.
    gamma_range, gain_range : (low, high)
        Applied to the value above low, so that -1 stays -1.
    offset : float
        Largest shift of a whole tile, normalised units.
    noise : float
        Largest standard deviation of white noise added to a tile, normalised units.
    rescaled : float
        Share of tiles that are cut larger or smaller in plane and resampled.
    rescale_range : (low, high)
        Side of such a cut, in sides of the tile.
    clip : float
        Brightest training value.
    """

    minutes: float = 75.0
    batch: int = 16
    optimiser: str = "adamw"
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup: int = 200
    ema_decay: float = 0.999
    seed: int = 0
    threads: int = 1
    bfloat16: bool = True
    device: str = "cpu"
    flat_tiles_kept: float = 0.3
    gamma_range: tuple[float, float] = (0.85, 1.18)
    gain_range: tuple[float, float] = (0.75, 1.0)
    offset: float = 0.0
    noise: float = 0.0
    rescaled: float = 0.0
    rescale_range: tuple[float, float] = (0.8, 1.25)
    clip: float = 2.2

    def unaugmented(self, seed: int) -> TrainingSettings:
        """The same without any change of values or size, and without flat tiles."""
        return replace(
            self,
            seed=seed,
            flat_tiles_kept=0.0,
            gamma_range=(1.0, 1.0),
            gain_range=(1.0, 1.0),
            offset=0.0,
            noise=0.0,
            rescaled=0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingVolume:
    """One normalised volume.

    Attributes
    ----------
    name : str
        For reports; no patient identifiers.
    values : (z, y, x) float32
        Normalised so that the intensity mapping's low is -1 and its high is +1.
    isotropic : bool
        Voxels are nearly cubic, so the axes may be permuted.
    """

    name: str
    values: np.ndarray
    isotropic: bool


class TileSampler:
    """Draws augmented tiles; every volume is drawn in proportion to the root of its size.

    Volumes are extended to whole tiles by repeating their last planes, rows and columns, as
    `psc_volumetric.tiling.TileGrid.extend` does, so small fields and edges look as when coded.
    """

    def __init__(
        self, volumes: Sequence[TrainingVolume], shape: tuple[int, int, int], s: TrainingSettings
    ) -> None:
        self.volumes = list(volumes)
        self.shape, self.settings = shape, s
        self.rng = np.random.default_rng(s.seed)
        size = np.array([math.sqrt(v.values.size) for v in self.volumes])
        self.weights = size / size.sum()

    def _oriented(self) -> np.ndarray:
        """One volume; nearly cubic voxels in any order of axes that leaves whole tiles."""
        volume = self.volumes[self.rng.choice(len(self.volumes), p=self.weights)]
        values = volume.values
        if volume.isotropic:
            turned = values.transpose(self.rng.permutation(3))
            if all(n >= m for n, m in zip(turned.shape, self.shape, strict=True)):
                return turned
        return values

    def _cut(self, values: np.ndarray) -> np.ndarray:
        """A tile anywhere in the extended volume, resampled in plane now and then."""
        s, rng = self.settings, self.rng
        shape = self.shape
        if rng.random() < s.rescaled:
            side = round(shape[1] * rng.uniform(*s.rescale_range))
            shape = (shape[0], side, side)
        at = []
        for n, whole, m in zip(values.shape, self.shape, shape, strict=True):
            extended = max(-(-n // whole) * whole, m)
            start = rng.integers(extended - m + 1)
            at.append(np.minimum(np.arange(start, start + m), n - 1))
        crop = values[np.ix_(*at)]
        return crop if shape == self.shape else _resampled(crop, self.shape[1])

    def _crop(self) -> np.ndarray:
        while True:
            crop = self._cut(self._oriented())
            if crop.std() >= 0.03 or self.rng.random() < self.settings.flat_tiles_kept:
                return crop

    def batch(self, n: int) -> np.ndarray:
        """Return (n, slices, tile, tile) float32 augmented tiles."""
        s, rng = self.settings, self.rng
        out = np.empty((n, *self.shape), np.float32)
        for i in range(n):
            crop = self._crop()
            for axis in range(3):
                if rng.random() < 0.5:
                    crop = np.flip(crop, axis)
            if rng.random() < 0.5:
                crop = crop.transpose(0, 2, 1)
            above = crop + 1
            if s.gamma_range != (1.0, 1.0):
                above = 2 * np.maximum(above / 2, 0) ** rng.uniform(*s.gamma_range)
            above = above * rng.uniform(*s.gain_range) + rng.uniform(-s.offset, s.offset)
            if s.noise:
                sigma = s.noise * rng.random() ** 2
                above = above + sigma * rng.standard_normal(self.shape, np.float32)
            out[i] = np.minimum(above - 1, s.clip)
        return out


def _resampled(crop: np.ndarray, side: int) -> np.ndarray:
    """Slices of ``crop`` at ``side`` x ``side``, bilinear, averaged where that is smaller."""
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(crop))[None]
    made = torch.nn.functional.interpolate(
        planes, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return made[0].numpy()


def cosine_alpha(t: torch.Tensor) -> torch.Tensor:
    """Signal amplitude at time ``t`` in 0..1 (0 = clean); sigma = sqrt(1 - alpha^2)."""
    import torch

    return torch.cos(t * (math.pi / 2 * 0.998))


def spread_times(n: int, g: torch.Generator) -> torch.Tensor:
    """(n,) times in 0..1, one in each n-th part, which makes the loss less noisy.

    The low-discrepancy sampler of Kingma et al., "Variational Diffusion Models", arXiv:2107.00630.
    """
    import torch

    return (torch.arange(n) + torch.rand(1, generator=g)) / n


def add_noise(
    x: torch.Tensor, t: torch.Tensor, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy tiles at times ``t``, their velocity target, and (alpha, sigma) per tile.

    The library's random numbers serve training only: coding draws its own, in integers
    (`psc_volumetric.methods.psc.noise`).
    """
    import torch

    alpha = cosine_alpha(t).view(-1, 1, 1, 1)
    sigma = (1 - alpha * alpha).sqrt()
    noise = torch.randn(x.shape, generator=g, device="cpu").to(x.device)
    return alpha * x + sigma * noise, alpha * noise - sigma * x, alpha, sigma


def loss_weights(t: torch.Tensor) -> torch.Tensor:
    """(b, 1, 1, 1) weights that make the loss of every noise level count alike.

    Squared errors are divided by what an early ``mr-head`` left of the velocity at the time: at the
    clean end most of it is noise that nobody can predict, and it would decide where capacity goes.
    """
    import torch

    left = np.interp(t.cpu().numpy(), TIMES_WEIGHED, VELOCITY_ERROR)
    return torch.from_numpy(min(VELOCITY_ERROR) / left).float().view(-1, 1, 1, 1).to(t.device)


def train(
    volumes: Sequence[TrainingVolume],
    architecture: Architecture,
    settings: TrainingSettings,
    *,
    start: torch.nn.Module | None = None,
    on_progress: Callable[[int, float, float], None] | None = None,
    on_checkpoint: Callable[[torch.nn.Module], None] | None = None,
) -> torch.nn.Module:
    """Train a denoiser for ``settings.minutes`` and return its averaged weights as a network.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
        The training side of the split.
    architecture, settings
        What to build and how to train it.
    start : torch.nn.Module, optional
        A network of this architecture to go on from; it is trained in place.
    on_progress : callable, optional
        Called with (iteration, minutes, mean loss of the last 200 iterations).
    on_checkpoint : callable, optional
        Called with the averaged network every 2000 iterations.

    Returns
    -------
    torch.nn.Module
        Averaged weights, evaluation mode.
    """
    import torch

    from pipelines.training.optimisers import Optimisers
    from pipelines.training.precision import short_floats

    torch.manual_seed(settings.seed)  # first weights, where there is no ``start``
    torch.set_num_threads(settings.threads)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (architecture.slices, architecture.tile, architecture.tile)
    sampler = TileSampler(volumes, shape, settings)
    net: torch.nn.Module = build_network(architecture) if start is None else start
    net = net.to(settings.device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimisers = Optimisers(net, settings.optimiser, settings.weight_decay)
    began, losses, i = time.monotonic(), [], 0
    while (minutes := (time.monotonic() - began) / 60) < settings.minutes:
        cosine = 0.5 * (1 + math.cos(math.pi * minutes / settings.minutes)) + 0.01
        for group in optimisers.groups():
            group["lr"] = settings.learning_rate * min(1.0, (i + 1) / settings.warmup) * cosine
        x = torch.from_numpy(sampler.batch(settings.batch)).to(settings.device)
        t = spread_times(settings.batch, generator).to(settings.device)
        x_t, target, _, _ = add_noise(x, t, generator)
        with short_floats(settings.device, wanted=settings.bfloat16):
            predicted = net(x_t, t * 1000)
        loss = (loss_weights(t) * (predicted.float() - target) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimisers.step()
        _update_average(average, net, min(settings.ema_decay, (i + 1) / (i + 20)))
        losses.append(loss.item())
        i += 1
        if i % 200 == 0 and on_progress is not None:
            on_progress(i, minutes, float(np.mean(losses[-200:])))
        if i % 2000 == 0 and on_checkpoint is not None:
            on_checkpoint(average)
    return average


def _update_average(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    import torch

    with torch.no_grad():
        for mean, new in zip(average.parameters(), net.parameters(), strict=True):
            mean.lerp_(new.detach(), 1 - decay)
