"""The training loop of an autoencoder, and its checkpoints.

A scalar one learns the squared error of its tiles and what their latents cost, in the proportion in
which low rates buy error; a vector one learns the error and to stay near its codebook, whose unused
vectors are set on latents of the batch now and then.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.training.optimisers import Optimisers
from pipelines.training.precision import short_floats
from pipelines.training.train import TileSampler
from pipelines.training.two_stage.networks import NetworkShape, build_autoencoder
from psc_volumetric.errors import FormatError

__all__ = ["Checkpoint", "train_autoencoder"]

PRICE = 0.1  # squared error (normalised units) that one nat per voxel is worth
REPORT_SECONDS, CHECKPOINT_SECONDS = 60.0, 120.0
REVIVED_EVERY = 50  # steps
UNUSED = 0.05  # of the vectors' mean use
WARMUP = 100


@dataclass
class Checkpoint:
    """An autoencoder in training.

    Attributes
    ----------
    shape : NetworkShape
    net, mean : torch.nn.Module
        Weights as they are, and their moving average, which is what is written.
    steps : int
    seconds : float
        Of all runs together.
    """

    shape: NetworkShape
    net: Any
    mean: Any
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def new(cls, shape: NetworkShape, seed: int = 0) -> Checkpoint:
        """First weights."""
        torch.manual_seed(seed)
        net = build_autoencoder(shape)
        return cls(shape, net, copy.deepcopy(net).requires_grad_(False))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises
        ------
        FormatError
            The file is not one (kind ``"bad-checkpoint"``).
        """
        with safe_open(path, "torch") as opened:
            metadata = opened.metadata() or {}
            if "shape" not in metadata:
                raise FormatError(
                    f"{path}: expected a checkpoint of an autoencoder, found other tensors",
                    kind="bad-checkpoint",
                )
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state = cls.new(NetworkShape.from_dict(json.loads(metadata["shape"])))
        state.net.load_state_dict(tensors)
        state.mean.load_state_dict(tensors)
        state.steps, state.seconds = int(metadata["steps"]), float(metadata["seconds"])
        return state

    def save(self, path: Path) -> None:
        """Write the averaged weights in one move."""
        tensors = {k: v.detach().contiguous().clone() for k, v in self.mean.state_dict().items()}
        metadata = {
            "shape": json.dumps(self.shape.to_dict()),
            "steps": str(self.steps),
            "seconds": f"{self.seconds:.1f}",
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        save_file(tensors, beside, metadata=metadata)
        beside.replace(path)


def train_autoencoder(
    state: Checkpoint,
    sampler: TileSampler,
    minutes: float,
    path: Path,
    *,
    batch: int = 8,
    learning_rate: float = 2e-3,
    steps: int | None = None,
    report: Callable[[str], object],
) -> None:
    """Train in place for ``minutes``, with checkpoints at ``path``.

    Parameters
    ----------
    state : Checkpoint
    sampler : TileSampler
    minutes : float
    path : Path
    batch : int
        Tiles of a step.
    learning_rate : float
        The largest.
    steps : int, optional
        Most steps, if there is time for more.
    report : callable
        Takes a line of progress.
    """
    began, before, number = time.monotonic(), state.seconds, 0
    reported = saved = began
    state.net.to(memory_format=torch.channels_last)
    optimisers = Optimisers(state.net, "muon", 0.01)
    loss_of = _scalar_loss if state.shape.quantiser == "scalar" else _vector_loss
    seen: list[tuple[float, float]] = []
    state.net.train()
    while (now := time.monotonic()) - began < 60 * minutes and (steps is None or number < steps):
        progress = (now - began) / (60 * minutes)
        falling = 0.5 * (1 + math.cos(math.pi * progress)) + 0.01
        for group in optimisers.groups():
            group["lr"] = learning_rate * min((number + 1) / WARMUP, 1.0) * falling
        x = torch.from_numpy(sampler.batch(batch)).contiguous(memory_format=torch.channels_last)
        error, cost = loss_of(state.net, x)
        (error + cost).backward()
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0)
        optimisers.step()
        number, state.steps = number + 1, state.steps + 1
        if state.shape.quantiser == "vector" and progress < 0.6 and number % REVIVED_EVERY == 0:
            _revive(state.net, x)
        _average(state, min(0.999, (state.steps + 1) / (state.steps + 20)))
        seen.append((error.item(), cost.item()))
        state.seconds = before + now - began
        if now - reported >= REPORT_SECONDS:
            report(_progress(state, seen))
            reported, seen = now, []
        if now - saved >= CHECKPOINT_SECONDS:
            state.save(path)
            saved = now
    state.seconds = before + time.monotonic() - began
    if seen:
        report(_progress(state, seen))
    state.save(path)


def _scalar_loss(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error, and the price of the latents' nats."""
    with short_floats("cpu"):
        decoded, mean, sigma = net(x)
    mean, sigma = mean.float(), sigma.float()
    nats = 0.5 * (mean**2 + sigma**2 - 1) - torch.log(sigma)
    return ((decoded.float() - x) ** 2).mean(), PRICE * nats.sum() / x.numel()


def _vector_loss(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error, and how far the latents are from their vectors."""
    with short_floats("cpu"):
        decoded, commitment = net(x)
    return ((decoded.float() - x) ** 2).mean(), 0.1 * commitment.float()


@torch.no_grad()
def _revive(net: Any, x: torch.Tensor) -> None:
    """Set vectors that hardly any latent chose on latents of the batch."""
    quantiser = net.quantizer.quantizer
    use = quantiser.ema_cluster_size
    dead = torch.nonzero(use < UNUSED * use.mean()).flatten()
    if not len(dead):
        return
    latents = net.encoder(x).float().permute(0, 2, 3, 1).flatten(0, 2)
    chosen = latents[torch.randint(len(latents), (len(dead),))]
    quantiser.embedding.weight.data[dead] = chosen
    use[dead] = use.mean()
    quantiser.ema_w[dead] = chosen * use.mean()


@torch.no_grad()
def _average(state: Checkpoint, decay: float) -> None:
    for mean, new in zip(state.mean.parameters(), state.net.parameters(), strict=True):
        mean.lerp_(new.detach(), 1 - decay)
    if state.shape.quantiser == "vector":
        for mean, new in zip(state.mean.buffers(), state.net.buffers(), strict=True):
            mean.copy_(new)


def _progress(state: Checkpoint, seen: list[tuple[float, float]]) -> str:
    error, cost = torch.tensor(seen).mean(0).tolist()
    decibels = 10 * math.log10(4 / max(error, 1e-12))
    what = f"{cost / PRICE / math.log(2):.4f} bpv" if state.shape.quantiser == "scalar" else cost
    return f"step {state.steps}, {state.seconds:.0f} s: {decibels:.2f} dB, {what}"
