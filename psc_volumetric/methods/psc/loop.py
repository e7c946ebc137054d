"""The loop encoder and decoder share. Part of the format (SPEC sections 5 and 5.7).

    x      particles at a noise level          denoise -> x0
    x0     denoised particles                  observe, pick rows, exchange symbols
    x0     projected onto the measurements     renoise -> x at the next level

``single_pass`` picks rows at every step of one reverse pass (in the manner of Active Diffusion
Subsampling, arXiv:2406.14388); :mod:`psc_volumetric.methods.psc.adasense` runs a whole pass per
round of rows (PSC Algorithm 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.entropy.symbols import SymbolPort, uniform
from psc_volumetric.errors import ChecksumError
from psc_volumetric.methods.psc.context import ScaleContext
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.measure import COEFFICIENT_LIMIT, Observer, measure
from psc_volumetric.methods.psc.structured import StructuredSensing
from psc_volumetric.methods.psc.transform import BlockTransform
from psc_volumetric.prior.runtime import exact_float, integer_sqrt

__all__ = [
    "COEFFICIENT_LIMIT",
    "LevelResult",
    "Observer",
    "TileBatch",
    "check_digests",
    "single_pass",
    "summarise",
]

DIGEST_MASK = 0xFFFF


@dataclass(frozen=True)
class TileBatch:
    """Some tiles of a brick on their way through the loop.

    Attributes
    ----------
    numbers : tuple of int
        Tile numbers in the brick; they key the noise.
    ports : sequence of SymbolPort
        One writer or reader per tile.
    source : (b, slices, tile, tile) int64 tensor or None
        Normalised tiles when encoding.
    coarse : (b, blocks^2) int64 tensor
        Block means (``single_pass`` only; empty otherwise).
    """

    numbers: tuple[int, ...]
    ports: Sequence[SymbolPort]
    source: torch.Tensor | None
    coarse: torch.Tensor


@dataclass(frozen=True)
class LevelResult:
    """Posterior summary at the end of a level.

    Attributes
    ----------
    level : int
        PSC level, 1 and up (0 for ``restart`` without measurements).
    mean : (b, slices, tile, tile) int32
        Posterior mean, 11 fraction bits.
    spread : (b, slices, tile, tile) int32
        Standard deviation over particles, 14 fraction bits.
    """

    level: int
    mean: torch.Tensor
    spread: torch.Tensor


def summarise(x0: torch.Tensor, particles: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (11 fraction bits) and standard deviation (14) over the particles of each tile."""
    tiles = x0.reshape(-1, particles, *x0.shape[1:]).long()
    total = tiles.sum(1)
    mean = torch.div(2 * total + particles, 2 * particles, rounding_mode="floor")
    spread = particles * (tiles * tiles).sum(1) - total * total
    variance = torch.div(spread << 6, particles * (particles - 1), rounding_mode="floor")
    return mean.to(torch.int32), integer_sqrt(variance).to(torch.int32)


def _state_digest(mean: torch.Tensor, variance: torch.Tensor) -> NDArray[np.int32]:
    n = mean.shape[-1]
    index = torch.arange(n, dtype=torch.int64, device=mean.device)
    weights = ((index * 40503) & DIGEST_MASK) | 1
    state = (mean ^ variance) & DIGEST_MASK
    digest: NDArray[np.int32] = ((state * weights).sum(-1) & DIGEST_MASK).cpu().numpy()
    return digest.astype(np.int32)


def check_digests(batch: TileBatch, level: int, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Write each tile's state digest, or compare with the one read (SPEC section 5.7)."""
    for tile, own in enumerate(_state_digest(mean, variance)):
        given = None if batch.source is None else np.array([own], np.int32)
        stored = int(batch.ports[tile].exchange(given, 1, uniform(1 << 16))[0])
        if stored != own:
            raise ChecksumError(
                f"tile {batch.numbers[tile]}, level {level}: expected state digest {stored:04x}, "
                f"found {own:04x}",
                kind="diverged",
                hint="the chunk is damaged (run `psc-archive verify`) or this device does not "
                "compute exactly (run `psc-archive doctor --conformance`)",
            )


def single_pass(
    denoiser: Denoiser,
    parameters: StreamParameters,
    batch: TileBatch,
    *,
    last_level: int,
    observer: Observer | None = None,
) -> Iterator[LevelResult]:
    """Run one reverse pass over a batch of tiles, measuring as the noise falls.

    Parameters
    ----------
    denoiser : Denoiser
        The prior on a device.
    parameters : StreamParameters
        With schedule ``single_pass`` and ``structured`` rows.
    batch : TileBatch
        Tiles, ports and, when encoding, the source.
    last_level : int
        Stop after this level (1 or more).
    observer : Observer, optional
        Sees predictions; encoding only.

    Yields
    ------
    LevelResult
        At the end of each level.

    Raises
    ------
    ChecksumError
        The decoder's state differs from the encoder's.
    """
    slices, tile, _ = denoiser.prior.tile_shape
    device, b, s = denoiser.device, len(batch.numbers), parameters.particles
    tiles = torch.tensor(batch.numbers, dtype=torch.int64, device=device)
    transform = BlockTransform(slices, tile, device)
    sensing = _sensing(denoiser, transform, b, s)
    sensing.set_coarse(batch.coarse.to(device))
    context = ScaleContext(transform, b, parameters.step)
    truth = None if batch.source is None else transform.forward(batch.source.double()).long()
    levels = parameters.noise_levels
    start = sensing.rebuilt().repeat_interleave(s, 0)
    x = denoiser.renoise(start, parameters.seed, tiles, 0, levels[0], together=True)
    with exact_float():
        for i, noise_level in enumerate(levels):
            x0 = denoiser.denoise(x, noise_level)
            coefficients, prediction = sensing.observe(x0, noise_level)
            if observer is not None and truth is not None:
                observer.step(noise_level, sensing, prediction, truth)
            measure(sensing, context, prediction, parameters, i, batch.ports, truth, observer)
            x0 = sensing.project(coefficients)
            if i + 1 in parameters.level_ends:
                level = parameters.level_ends.index(i + 1) + 1
                check_digests(batch, level, prediction.mean, prediction.variance)
                yield LevelResult(level, *summarise(x0, s))
                if level == last_level:
                    return
            x = denoiser.renoise(x0, parameters.seed, tiles, i + 1, levels[i + 1], together=True)


def _sensing(
    denoiser: Denoiser, transform: BlockTransform, tiles: int, particles: int
) -> StructuredSensing:
    kind = StructuredSensing
    if denoiser.fused:
        from psc_volumetric.methods.psc.cpu import FusedSensing

        kind = FusedSensing
    return kind(transform, denoiser.scale_gain, denoiser.scale_floor, tiles, particles)
