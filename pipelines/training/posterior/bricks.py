"""Pairs of decoded and original patches, coded while training at ever new quantiser steps.

A few bricks lie ready, each a piece of a volume in another orientation, brightness and size, coded
as the wavelet codes it. Patches are drawn from all of them; after so many patches the oldest brick
makes room for a new one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipelines.training.posterior.domains import Domain, nearest_step, tabulated_steps
from pipelines.training.posterior.glimpses import glimpsed, times_finer
from pipelines.training.posterior.packs import Packed
from pipelines.training.posterior.wavelet import analyse, dequantise, quantise, synthesise
from psc_volumetric.prior.making.posterior_net import FORESEEN

__all__ = ["Batch", "Brick", "BrickPool", "Changes", "PoolSize", "Shares"]

Tensor = torch.Tensor

BLOCK = 8  # pixels a side of what activity is measured on
CONTESTANTS = 3  # places that are drawn for a patch; the one with most error is taken
LEAST_ERROR = 0.06  # of a step: pieces with hardly anything in them weigh no more than others
SMALLEST = 16  # pixels a side of a brick
FEWEST = 8  # slices of a piece whose planes are to be halved, if it has so many
SCALES = {1: 0.15, 2: 0.3, 3: 0.3, 4: 0.25}  # that are foreseen, and how often each
DETAILS = (1.0, 0.5)  # as encoders of `foresight` try them


@dataclass(frozen=True)
class Changes:
    """How pieces of volumes are changed before they are coded; see `TrainingSettings`."""

    gamma: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    rescaled: float = 0.0
    rescale: tuple[float, float] = (0.8, 1.25)


@dataclass(frozen=True)
class Shares:
    """Of the bricks of a pool.

    Attributes
    ----------
    foreseen : float
        Show coarser planes before a scale is known, as the method ``foresight`` does.
    refined : float
        Have numbers of steps that a thorough encoder chooses; that needs numba.
    """

    foreseen: float = 0.0
    refined: float = 0.0


@dataclass(frozen=True)
class PoolSize:
    """How many bricks lie ready, of which extents at most, and for how many patches."""

    bricks: int
    extents: tuple[int, int, int]
    patches: int

    @classmethod
    def on(cls, device: torch.device) -> PoolSize:
        """Large bricks on a GPU, where coding one takes a moment."""
        if device.type == "cuda":
            return cls(64, (32, 256, 256), 1024)
        return cls(24, (24, 192, 192), 40)


@dataclass(frozen=True)
class Brick:
    """One coded piece.

    Attributes
    ----------
    decoded : (z + slices - 1, y, x) float32
        First and last slices repeated; at least a patch in y and x.
    original, inside : (z, y, x), (1, y, x) float32
        ``inside`` is 0 where the piece was extended.
    step, told, depth
        As coded; what a network is told of the step.
    error : float
        Mean squared error, shares of the intensity range.
    activity : (z, n, m) float32
        Mean magnitude of the error in the patch that begins in block n, m.
    """

    decoded: Tensor
    original: Tensor
    inside: Tensor
    step: float
    told: float
    depth: int
    error: float
    activity: NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Patches (b, slices, p, p), (b, 1, p, p) and (b, 1, p, p), and per patch (b,) the rest."""

    decoded: Tensor
    original: Tensor
    inside: Tensor
    step: Tensor
    told: Tensor
    depth: Tensor
    error: Tensor


class BrickPool:
    """Draws batches; every volume is drawn in proportion to the root of its size.

    Parameters
    ----------
    volumes : sequence of Packed
        The training side.
    domain, changes, size
        What to draw.
    device : torch.device
        Where bricks are coded and kept.
    seed : int
    shares : Shares
        Of bricks that are more than a piece and its first coding; none by default.
    """

    def __init__(
        self,
        volumes: Sequence[Packed],
        domain: Domain,
        changes: Changes,
        size: PoolSize,
        device: torch.device,
        seed: int,
        shares: Shares | None = None,
    ) -> None:
        self.volumes, self.domain, self.changes, self.size = list(volumes), domain, changes, size
        self.device, self.rng = device, np.random.default_rng(seed)
        roots = np.array([math.sqrt(volume.samples.size) for volume in volumes])
        self.chances = roots / roots.sum()
        self.shares = shares or Shares()
        self.steps = tabulated_steps(domain)
        self.bricks: list[Brick] = []
        self.drawn = 0

    def batch(self, n: int) -> Batch:
        """Draw ``n`` patches; codes a new brick when it is time, and with each first draw."""
        if len(self.bricks) < self.size.bricks:
            self.bricks.append(self._brick())
        self.drawn += n
        while self.drawn >= self.size.patches:
            self.drawn -= self.size.patches
            self.bricks = [*self.bricks[1:], self._brick()]
        roots = np.array([math.sqrt(brick.original.numel()) for brick in self.bricks])
        chosen = self.rng.choice(len(roots), size=n, p=roots / roots.sum())  # small ones less
        picked = [self.bricks[i] for i in chosen]
        cuts = [self._cut(brick) for brick in picked]
        decoded, original, inside = (torch.stack(part) for part in zip(*cuts, strict=True))
        facts = np.array([[b.step, b.told, b.depth, b.error] for b in picked], np.float32)
        step, told, depth, error = torch.from_numpy(facts).to(self.device).unbind(1)
        return Batch(decoded, original, inside, step, told, depth.long(), error)

    def _cut(self, brick: Brick) -> tuple[Tensor, Tensor, Tensor]:
        """The one of a few patches in which the wavelet erred most."""
        p, slices = self.domain.patch, self.domain.shape.slices
        depth, rows, columns = brick.original.shape
        bounds = (depth, rows - p + 1, columns - p + 1)
        places = self.rng.integers(bounds, size=(CONTESTANTS, 3))
        first = places // (1, BLOCK, BLOCK)
        z, y, x = places[brick.activity[tuple(first.T)].argmax()].tolist()
        plane = (slice(y, y + p), slice(x, x + p))
        return (
            brick.decoded[(slice(z, z + slices), *plane)],
            brick.original[(slice(z, z + 1), *plane)],
            brick.inside[(slice(0, 1), *plane)],
        )

    def _brick(self) -> Brick:
        """Cut, change and code a piece of a volume."""
        rng, domain = self.rng, self.domain
        splits, finer = 0, 1.0
        if rng.random() < self.shares.foreseen:
            splits = int(rng.choice(list(SCALES), p=list(SCALES.values())))
            finer = times_finer(splits, float(rng.choice(DETAILS)))
        original = self._changed(self._piece(max(splits - 1, 0)))
        low, high = (math.log(step) for step in domain.steps)
        step = math.exp(rng.uniform(min(low + math.log(finer), high), high))
        depth = int(rng.choice(len(domain.depths), p=domain.depths))
        depth = min(depth, len(original).bit_length() - 1)
        numbers = self._numbers(original, step, depth)
        if splits:
            decoded, original = glimpsed(original, numbers, step, depth, splits)
            known = FORESEEN if domain.shape.foresees else 1.0
            return self._ready(decoded, original, step / finer, depth, known)
        middle = original.mean()
        decoded = synthesise(dequantise(numbers, step, depth), depth) + middle
        return self._ready(decoded, original, step, depth)

    def _numbers(self, values: Tensor, step: float, depth: int) -> Tensor:
        """Numbers of quantiser steps, as one of the encoders chooses them."""
        coefficients = analyse(values - values.mean(), depth)
        numbers = quantise(coefficients, step, depth)
        if self.rng.random() >= self.shares.refined:
            return numbers
        from psc_volumetric.methods.wavelet.refine import refined

        first, exact = numbers.cpu().numpy(), coefficients.cpu().numpy().astype(np.float64)
        again = refined(first.astype(np.int32), exact, step, depth)
        return torch.from_numpy(again.astype(np.float32)).to(values.device)

    def _ready(
        self, decoded: Tensor, original: Tensor, step: float, depth: int, known: float = 1.0
    ) -> Brick:
        error = float(((decoded - original) ** 2).mean())
        margin, patch = self.domain.shape.slices // 2, self.domain.patch
        inside = _extended(torch.ones_like(original[:1]), patch, 0.0)
        away = _extended((decoded - original).abs(), patch, 0.0)[:, None]
        blocks = F.avg_pool2d(away, BLOCK, ceil_mode=True)
        return Brick(
            decoded=_extended(_repeated(decoded, margin), patch),
            original=_extended(original, patch),
            inside=inside,
            step=step,
            told=known * nearest_step(self.steps, step),
            depth=depth,
            error=max(error, (LEAST_ERROR * step) ** 2),
            activity=F.avg_pool2d(blocks, patch // BLOCK, 1)[:, 0].cpu().numpy(),
        )

    def _piece(self, halvings: int) -> NDArray[np.float32]:
        """A piece of a volume in one of its orientations; wide, if planes are to be halved."""
        rng = self.rng
        slices, *extents = self.size.extents
        slices = max(slices >> halvings, min(slices, FEWEST))
        wide = [extent << halvings for extent in extents]
        volume = self.volumes[rng.choice(len(self.volumes), p=self.chances)]
        samples = volume.samples
        if volume.isotropic:
            turned = samples.transpose(rng.permutation(3))
            samples = turned if min(turned.shape[1:]) >= SMALLEST else samples
        if rng.random() < 0.5:
            samples = samples.transpose(0, 2, 1)
        for axis in range(3):
            if rng.random() < 0.5:
                samples = np.flip(samples, axis)
        spans = []
        for n, most in zip(samples.shape, (slices, *wide), strict=True):
            first = int(rng.integers(max(n - most, 0) + 1))
            spans.append(slice(first, first + most))
        values = samples[tuple(spans)].astype(np.float32)
        return np.float32(volume.low) + np.float32(volume.unit) * values

    def _changed(self, piece: NDArray[np.float32]) -> Tensor:
        """Another brightness, contrast and size, now and then with noise."""
        rng, changes = self.rng, self.changes
        values = torch.from_numpy(np.ascontiguousarray(piece)).to(self.device)
        if rng.random() < changes.rescaled:
            scale = rng.uniform(*changes.rescale)
            extents = [max(round(n * scale), SMALLEST) for n in values.shape[1:]]
            values = F.interpolate(values[None], size=extents, mode="bilinear", antialias=True)[0]
        if changes.gamma != (1.0, 1.0):
            values = values.clamp(min=0) ** rng.uniform(*changes.gamma)
        values = values * rng.uniform(*changes.gain)
        if changes.noise:
            values = values + changes.noise * rng.random() ** 2 * torch.randn_like(values)
        return values


def _repeated(values: Tensor, margin: int) -> Tensor:
    """With the first and the last slice repeated ``margin`` times."""
    ends = itertools.chain([values[:1]] * margin, [values], [values[-1:]] * margin)
    return torch.cat(list(ends))


def _extended(values: Tensor, patch: int, fill: float | None = None) -> Tensor:
    """At least ``patch`` rows and columns: the last ones repeated, or ``fill``."""
    below, right = (max(patch - n, 0) for n in values.shape[1:])
    if below == right == 0:
        return values
    if fill is not None:
        return F.pad(values, (0, right, 0, below), value=fill)
    return F.pad(values[None], (0, right, 0, below), mode="replicate")[0]
