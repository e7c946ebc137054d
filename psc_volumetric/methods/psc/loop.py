"""The loop encoder and decoder share. Part of the format (SPEC sections 5 and 5.7).

    x      particles at a noise level          denoise -> x0
    x0     denoised particles                  observe, pick rows, exchange symbols
    x0     projected onto the measurements     renoise -> x at the next level

``single_pass`` picks rows at every step of one reverse pass (in the manner of Active Diffusion
Subsampling, arXiv:2406.14388); ``restart`` runs a whole pass per round of rows (PSC Algorithm 2).
With DDRM at eta = 1 and noiseless measurements, "project, then renoise fully" is the update of
both; PSC appendix A states eta_b = 0, which would ignore exact measurements, so they are imposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.entropy.adaptive import AdaptiveModel
from psc_volumetric.entropy.symbols import SymbolPort, uniform
from psc_volumetric.errors import ChecksumError
from psc_volumetric.methods.psc.context import ScaleContext
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.measure import COEFFICIENT_LIMIT, Observer, measure
from psc_volumetric.methods.psc.pca import ROW_BITS, principal_rows
from psc_volumetric.methods.psc.quantiser import float8_symbols, float8_values
from psc_volumetric.methods.psc.structured import StructuredSensing
from psc_volumetric.methods.psc.transform import BlockTransform
from psc_volumetric.prior.runtime import exact_float, integer_sqrt

__all__ = [
    "COEFFICIENT_LIMIT",
    "LevelResult",
    "Observer",
    "TileBatch",
    "restart",
    "single_pass",
    "summarise",
]

SAMPLE_LIMIT = (1 << 13) - 1
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


def _check_digests(
    batch: TileBatch, level: int, mean: torch.Tensor, variance: torch.Tensor
) -> None:
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
                _check_digests(batch, level, prediction.mean, prediction.variance)
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


class _RowSensing:
    """PCA rows of one tile and projection onto them (SPEC section 5.5)."""

    def __init__(self, elements: int, device: torch.device) -> None:
        self.rows = torch.zeros((0, elements), dtype=torch.float64, device=device)
        self.values = torch.zeros((0, 1), dtype=torch.float64, device=device)

    def measure(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        half = float(1 << (ROW_BITS - 1))
        return torch.floor((rows @ x + half) * 2.0**-ROW_BITS)

    def append(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        self.rows = torch.cat([self.rows, rows])
        self.values = torch.cat([self.values, values.view(-1, 1)])

    def project(self, x0: torch.Tensor) -> torch.Tensor:
        """(s, n) float64 particles onto the measurements: x0 + H^T (y - H x0), saturating."""
        if not len(self.rows):
            return x0
        error = self.values - self.measure(self.rows, x0.T)
        half = float(1 << (ROW_BITS - 1))
        moved = x0 + torch.floor((error.T @ self.rows + half) * 2.0**-ROW_BITS)
        return moved.clamp_(-SAMPLE_LIMIT, SAMPLE_LIMIT)


def restart(
    denoiser: Denoiser, parameters: StreamParameters, batch: TileBatch, *, levels: set[int]
) -> Iterator[LevelResult]:
    """The paper's schedule on one tile: a full posterior sampling for every few rows.

    Parameters
    ----------
    denoiser, parameters, batch
        As for :func:`single_pass`; the batch holds exactly one tile.
    levels : set of int
        Levels to restore (each costs one more pass); the rounds stop at the largest.

    Yields
    ------
    LevelResult
        One per wanted level, rising.
    """
    (port,), slices_tile = batch.ports, denoiser.prior.tile_shape
    elements = slices_tile[0] * slices_tile[1] * slices_tile[2]
    sensing = _RowSensing(elements, denoiser.device)
    model = AdaptiveModel(256)
    ends = (0, *parameters.level_ends)
    rounds = ends[max(levels)]
    with exact_float():
        for level, end in enumerate(ends):
            for number in range(ends[level - 1] if level else 0, end):
                samples = _posterior(denoiser, parameters, batch, sensing, number)
                rows = principal_rows(samples, parameters.rows_per_round).double()
                values = _exchange_rows(port, model, sensing, rows, batch.source)
                sensing.append(rows, values)
            if level:
                digest = sensing.values.view(1, -1).long()
                last = sensing.rows[-parameters.rows_per_round :].sum(0, keepdim=True).long()
                _check_digests(batch, level, last, torch.zeros_like(last) + digest.sum())
            if level in levels:
                x0 = _posterior(denoiser, parameters, batch, sensing, ends[-1] + level)
                shaped = x0.reshape(-1, *slices_tile)
                yield LevelResult(level, *summarise(shaped, parameters.particles))
            if end >= rounds:
                return


def _posterior(
    denoiser: Denoiser,
    parameters: StreamParameters,
    batch: TileBatch,
    sensing: _RowSensing,
    number: int,
) -> torch.Tensor:
    """One DDRM pass: (particles, elements) float64 samples consistent with the measurements."""
    s, shape = parameters.particles, denoiser.prior.tile_shape
    tiles = torch.tensor(batch.numbers, dtype=torch.int64, device=denoiser.device)
    elements = sensing.rows.shape[1]
    x0 = torch.zeros((s, *shape), dtype=torch.int32, device=denoiser.device)
    first = number * len(parameters.noise_levels)
    for i, level in enumerate(parameters.noise_levels):
        x = denoiser.renoise(x0, parameters.seed, tiles, first + i, level)
        flat = denoiser.denoise(x, level).double().reshape(s, elements)
        x0 = sensing.project(flat).reshape(s, *shape)
    return x0.reshape(s, elements)


def _exchange_rows(
    port: SymbolPort,
    model: AdaptiveModel,
    sensing: _RowSensing,
    rows: torch.Tensor,
    source: torch.Tensor | None,
) -> torch.Tensor:
    """Code one float8 symbol per row with an adaptive model; quantised measurements back."""
    wanted = None
    if source is not None:
        y = sensing.measure(rows, source.double().reshape(-1, 1))
        wanted = float8_symbols(y.long().view(-1).cpu().numpy())
    codes = np.array(
        [model.code(port, None if wanted is None else int(wanted[i])) for i in range(len(rows))],
        np.int64,
    )
    magnitude = float8_values()[np.minimum(codes & 127, 126)]
    values = np.where(codes >= 128, -magnitude, magnitude)
    return torch.from_numpy(values).to(rows.device, torch.float64)
