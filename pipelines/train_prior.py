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
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from psc_volumetric.prior.architecture import Architecture, build_network

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


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run depends on besides the data and the architecture."""

    minutes: float = 75.0
    batch: int = 16
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
    clip: float = 2.2

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
    """Draws augmented tiles; every volume is drawn in proportion to the root of its size."""

    def __init__(
        self, volumes: Sequence[TrainingVolume], shape: tuple[int, int, int], s: TrainingSettings
    ) -> None:
        self.volumes = [v for v in volumes if self._fits(v, shape)]
        self.shape, self.settings = shape, s
        self.rng = np.random.default_rng(s.seed)
        size = np.array([math.sqrt(v.values.size) for v in self.volumes])
        self.weights = size / size.sum()

    @staticmethod
    def _fits(volume: TrainingVolume, shape: tuple[int, int, int]) -> bool:
        return all(n >= m for n, m in zip(volume.values.shape, shape, strict=True))

    def _crop(self) -> np.ndarray:
        s, rng = self.settings, self.rng
        while True:
            volume = self.volumes[rng.choice(len(self.volumes), p=self.weights)]
            values = volume.values
            if volume.isotropic:
                values = values.transpose(rng.permutation(3))
            if any(n < m for n, m in zip(values.shape, self.shape, strict=True)):
                continue
            at = [rng.integers(n - m + 1) for n, m in zip(values.shape, self.shape, strict=True)]
            crop = values[tuple(slice(a, a + m) for a, m in zip(at, self.shape, strict=True))]
            if crop.std() >= 0.03 or rng.random() < s.flat_tiles_kept:
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
            bright = np.maximum((crop + 1) / 2, 0) ** rng.uniform(*s.gamma_range)
            out[i] = np.minimum(bright * rng.uniform(*s.gain_range) * 2 - 1, s.clip)
        return out


def cosine_alpha(t: torch.Tensor) -> torch.Tensor:
    """Signal amplitude at time ``t`` in 0..1 (0 = clean); sigma = sqrt(1 - alpha^2)."""
    import torch

    return torch.cos(t * (math.pi / 2 * 0.998))


def add_noise(
    x: torch.Tensor, t: torch.Tensor, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy tiles at times ``t``, their velocity target, and (alpha, sigma) per tile."""
    import torch

    alpha = cosine_alpha(t).view(-1, 1, 1, 1)
    sigma = (1 - alpha * alpha).sqrt()
    noise = torch.randn(x.shape, generator=g, device="cpu").to(x.device)
    return alpha * x + sigma * noise, alpha * noise - sigma * x, alpha, sigma


def train(
    volumes: Sequence[TrainingVolume],
    architecture: Architecture,
    settings: TrainingSettings,
    *,
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

    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (architecture.slices, architecture.tile, architecture.tile)
    sampler = TileSampler(volumes, shape, settings)
    net: torch.nn.Module = build_network(architecture).to(settings.device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(
        net.parameters(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(0.9, 0.99),
    )
    start, losses, i = time.monotonic(), [], 0
    while (minutes := (time.monotonic() - start) / 60) < settings.minutes:
        cosine = 0.5 * (1 + math.cos(math.pi * minutes / settings.minutes)) + 0.01
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (i + 1) / settings.warmup) * cosine
        x = torch.from_numpy(sampler.batch(settings.batch)).to(settings.device)
        t = torch.rand(settings.batch, generator=generator).to(settings.device)
        x_t, target, _, _ = add_noise(x, t, generator)
        device_type = torch.device(settings.device).type
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=settings.bfloat16):
            predicted = net(x_t, t * 1000)
        loss = ((predicted.float() - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
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
