"""The training loop of one posterior network, and its checkpoints.

The mean learns by squared error, every brick weighed by what the wavelet left of it, so that all
rates and bodies count alike, as decibels do. The variance learns the likelihood of that error and
gives the mean no gradient: a likelihood alone would spend least on edges, whose variance is large
and where most of the error is.
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
from pipelines.training.posterior.bricks import Batch, BrickPool
from pipelines.training.precision import short_floats
from psc_volumetric.errors import FormatError
from psc_volumetric.prior.making.posterior_net import PosteriorNet, PosteriorShape

__all__ = ["Checkpoint", "Losses", "Pace", "losses", "train"]

LIKELIHOOD = 0.1  # weight of the variance's loss
LARGEST_LOG = 20.0  # of a variance; nothing real comes near


@dataclass(frozen=True)
class Pace:
    """How fast a network learns.

    Attributes
    ----------
    batch : int
        Patches of a step.
    learning_rate, weight_decay : float
    warmup : int
        Steps of each run until the full rate.
    rest : float
        Last share of a run's time, in which the rate falls to nothing.
    ema_decay : float
    checkpoint_seconds : float
        Between checkpoints.
    """

    batch: int
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    rest: float = 0.3
    ema_decay: float = 0.999
    checkpoint_seconds: float = 20.0

    @classmethod
    def on(cls, device: torch.device) -> Pace:
        """Batches that keep a device busy."""
        if device.type == "cuda":
            return cls(64)
        return cls(4, checkpoint_seconds=120.0)

    def rate(self, number: int, progress: float) -> float:
        """Learning rate of a step at ``progress`` (0..1) of the run's time."""
        falling = min((1 - progress) / self.rest, 1.0) if self.rest else 1.0
        return self.learning_rate * min((number + 1) / self.warmup, 1.0) * max(falling, 0.01)


@dataclass
class Checkpoint:
    """A network in training.

    Attributes
    ----------
    net, mean : PosteriorNet
        Weights as they are, and their moving average, which is what training gives. Only that is
        written: a run that goes on starts from it.
    steps : int
    seconds : float
        Of all runs together.
    """

    net: PosteriorNet
    mean: PosteriorNet
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def new(cls, shape: PosteriorShape, seed: int) -> Checkpoint:
        """First weights."""
        torch.manual_seed(seed)
        return cls.of(PosteriorNet(shape))

    @classmethod
    def of(cls, net: PosteriorNet, steps: int = 0, seconds: float = 0.0) -> Checkpoint:
        """A network that training starts from, and how long it was trained."""
        return cls(net, copy.deepcopy(net), steps, seconds)

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
                    f"{path}: expected a checkpoint of a posterior network, found other tensors",
                    kind="bad-checkpoint",
                )
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        net = PosteriorNet(PosteriorShape.from_dict(json.loads(metadata["shape"])))
        net.load_state_dict(tensors)
        return cls.of(net, int(metadata["steps"]), float(metadata["seconds"]))

    def save(self, path: Path) -> None:
        """Write a checkpoint in one move, so that a process killed now leaves the last one."""
        state = self.mean.state_dict()
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        metadata = {
            "shape": json.dumps(self.net.shape.to_dict()),
            "steps": str(self.steps),
            "seconds": f"{self.seconds:.1f}",
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        save_file(tensors, beside, metadata=metadata)
        beside.replace(path)


@dataclass(frozen=True)
class Losses:
    """Of a batch: errors over what the wavelet left of the bricks, and the variance's loss."""

    wavelet: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What is minimised."""
        return self.mean + LIKELIHOOD * self.variance


def losses(net: PosteriorNet, batch: Batch) -> Losses:
    """Losses of a network; no gradient flows from the variance's to the mean."""
    mean, log_variance = net.posterior(batch.decoded, batch.step, batch.depth, batch.told)
    middle = batch.decoded.shape[1] // 2
    share = batch.inside / batch.inside.sum().clamp(min=1)
    squared = (mean - batch.original) ** 2
    before = (batch.decoded[:, middle : middle + 1] - batch.original) ** 2
    weight = share / batch.error.view(-1, 1, 1, 1)
    scale = 2 * torch.log(batch.step).view(-1, 1, 1, 1)
    relative = (log_variance - scale).clamp(-LARGEST_LOG, LARGEST_LOG)
    surprise = squared.detach() * torch.exp(-relative - scale)
    return Losses(
        wavelet=(weight * before).sum(),
        mean=(weight * squared).sum(),
        variance=(share * (relative + surprise) / 2).sum(),
    )


def train(
    state: Checkpoint,
    pool: BrickPool,
    pace: Pace,
    seconds: float,
    *,
    steps: int | None = None,
    save: Callable[[Checkpoint], None],
    report: Callable[[str], object],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train in place for ``seconds``, with a checkpoint now and then and one at the end.

    Parameters
    ----------
    state : Checkpoint
    pool : BrickPool
    pace : Pace
    seconds : float
        From the call on.
    steps : int, optional
        Most steps, if there is time for more.
    save, report : callable
        Take the state, and a line of progress.
    clock : callable
        Seconds: the time of day, or CPU time, to compare networks on a machine that does more.
    """
    began, before, number = clock(), state.seconds, 0
    saved = reported = began
    device = pool.device
    state.net = _placed(state.net, device)
    state.mean = _placed(state.mean, device).eval().requires_grad_(False)
    optimisers = Optimisers(state.net, "muon", pace.weight_decay)
    parts: Any = list(zip(state.mean.parameters(), state.net.parameters(), strict=True))
    seen: list[torch.Tensor] = []
    while (now := clock()) - began < seconds and (steps is None or number < steps):
        rate = pace.rate(number, (now - began) / seconds)
        for group in optimisers.groups():
            group["lr"] = rate
        batch = pool.batch(pace.batch)
        with short_floats(device):
            found = losses(state.net, batch)
        found.total.backward()
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0)
        optimisers.step()
        decay = min(pace.ema_decay, (state.steps + 1) / (state.steps + 20))
        with torch.no_grad():
            torch._foreach_lerp_([m for m, _ in parts], [p for _, p in parts], 1 - decay)
        seen.append(torch.stack([found.wavelet, found.mean, found.variance]).detach())
        number, state.steps = number + 1, state.steps + 1
        state.seconds = before + now - began
        if now - reported >= pace.checkpoint_seconds / 2:
            report(_progress(state, seen, now - began))
            reported, seen = now, []
        if now - saved >= pace.checkpoint_seconds:
            save(state)
            saved = now
    state.seconds = before + clock() - began
    if seen:
        report(_progress(state, seen, state.seconds - before))
    save(state)


def _placed(net: PosteriorNet, device: torch.device) -> PosteriorNet:
    return net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _progress(state: Checkpoint, seen: list[torch.Tensor], seconds: float) -> str:
    wavelet, mean, variance = torch.stack(seen).mean(0).tolist()
    gain = 10 * math.log10(max(wavelet, 1e-9) / max(mean, 1e-9))
    return (
        f"step {state.steps}, {seconds:.0f} s: {gain:+.3f} dB over the wavelet in the patches of "
        f"the last {len(seen)} steps, likelihood {variance:.4f}"
    )
