"""PSC as its paper has it: a whole posterior sampling for every few rows. Part of the format.

Elata, Michaeli, Elad, "Zero-Shot Image Compression with Diffusion-Based Posterior Sampling",
arXiv:2407.09896; SPEC sections 5 (``restart``), 5.5 and 5.6. With DDRM at eta = 1 and noiseless
measurements, "project, then renoise fully" is the update; appendix A states eta_b = 0, which would
ignore exact measurements, so they are imposed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from psc_volumetric.entropy.adaptive import AdaptiveModel
from psc_volumetric.entropy.symbols import SymbolPort
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.loop import LevelResult, TileBatch, check_digests, summarise
from psc_volumetric.methods.psc.pca import ROW_BITS, principal_rows
from psc_volumetric.methods.psc.quantiser import float8_symbols, float8_values
from psc_volumetric.prior.runtime import exact_float

__all__ = [
    "Measurements",
    "PosteriorSampler",
    "ada_sense_step",
    "ddrm_samples",
    "measured_levels",
    "restart",
]

SAMPLE_LIMIT = (1 << 13) - 1

PosteriorSampler = Callable[["Measurements"], torch.Tensor]


class Measurements:
    """Sensing matrix and measurements of one tile: y = H x (equation 3 of the paper).

    Attributes
    ----------
    H : (k, n) float64
        Rows so far, integers of 14 fraction bits.
    y : (k, 1) float64
        Quantised measurements Q(H x), integers of 11 fraction bits.
    """

    def __init__(self, elements: int, device: torch.device) -> None:
        self.H = torch.zeros((0, elements), dtype=torch.float64, device=device)
        self.y = torch.zeros((0, 1), dtype=torch.float64, device=device)

    @staticmethod
    def measure(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Rows (m, n) on columns x (n, c): (m, c), rounded to integers."""
        half = float(1 << (ROW_BITS - 1))
        return torch.floor((rows @ x + half) * 2.0**-ROW_BITS)

    def append(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """H <- Append[H, rows], y <- Append[y, values] (Algorithm 2, lines 7 to 10)."""
        self.H = torch.cat([self.H, rows])
        self.y = torch.cat([self.y, values.view(-1, 1)])

    def project(self, x0: torch.Tensor) -> torch.Tensor:
        """(s, n) float64 particles onto the measurements: x0 + H^T (y - H x0), saturating."""
        if not len(self.H):
            return x0
        error = self.y - self.measure(self.H, x0.T)
        half = float(1 << (ROW_BITS - 1))
        moved = x0 + torch.floor((error.T @ self.H + half) * 2.0**-ROW_BITS)
        return moved.clamp_(-SAMPLE_LIMIT, SAMPLE_LIMIT)


def ada_sense_step(known: Measurements, r: int, sampler: PosteriorSampler) -> torch.Tensor:
    """One step of AdaSense (Algorithm 1 of the paper): AdaSenseStep(H_{0:k}, y_{0:k}, r).

    .. code-block:: text

        {x_i}, i = 1..s   ~   p(x | H_{0:k}, y_{0:k})          generate s posterior samples
        x_i              <-   x_i - 1/s sum_j x_j              centre them
        H~               <-   top r right singular vectors of (x_1, ..., x_s)^T
        return H~

    Parameters
    ----------
    known : Measurements
        H_{0:k} and y_{0:k}.
    r : int
        New rows; fewer come where the samples vary in fewer directions.
    sampler : callable
        Measurements -> (s, n) float64 posterior samples, integers of 11 fraction bits.

    Returns
    -------
    (r, n) float64
        H~, unit rows as integers of 14 fraction bits, the same on every machine
        (:mod:`psc_volumetric.methods.psc.pca`).
    """
    return principal_rows(sampler(known), r).double()


def ddrm_samples(
    denoiser: Denoiser,
    parameters: StreamParameters,
    tiles: Sequence[int],
    number: int,
    known: Sequence[Measurements],
) -> torch.Tensor:
    """Posterior samples of several tiles: DDRM from pure noise, each tile on its own.

    Parameters
    ----------
    denoiser : Denoiser
    parameters : StreamParameters
        Noise levels, particles and seed.
    tiles : sequence of int
        Numbers of the tiles in their brick, keys of the noise.
    number : int
        Which pass; each has its own noise.
    known : sequence of Measurements
        Of each tile.

    Returns
    -------
    (tiles, s, n) float64
        Integers of 11 fraction bits.
    """
    s, shape = parameters.particles, denoiser.prior.tile_shape
    keys = torch.tensor(tiles, dtype=torch.int64, device=denoiser.device)
    first = number * len(parameters.noise_levels)
    x0 = torch.zeros((len(tiles) * s, *shape), dtype=torch.int32, device=denoiser.device)
    for i, level in enumerate(parameters.noise_levels):
        x = denoiser.renoise(x0, parameters.seed, keys, first + i, level)
        flat = denoiser.denoise(x, level).double().reshape(len(tiles), s, -1)
        met = [own.project(samples) for own, samples in zip(known, flat, strict=True)]
        x0 = torch.cat(met).reshape(-1, *shape)
    return x0.reshape(len(tiles), s, -1)


def measured_levels(
    denoiser: Denoiser, parameters: StreamParameters, batch: TileBatch, *, last_level: int
) -> Iterator[tuple[int, list[Measurements]]]:
    """Algorithm 2 on tiles side by side: their measurements after every level, 0 without any.

    Parameters
    ----------
    denoiser, parameters, batch
        As for :func:`psc_volumetric.methods.psc.loop.single_pass`.
    last_level : int
        Stop after this one.

    Yields
    ------
    level : int
    known : list of Measurements
        Of each tile; the same objects each time, they grow.
    """
    elements = math.prod(denoiser.prior.tile_shape)
    known = [Measurements(elements, denoiser.device) for _ in batch.numbers]
    models = [AdaptiveModel(256) for _ in batch.numbers]
    sources = [None] * len(known) if batch.source is None else list(batch.source)
    ends, r = (0, *parameters.level_ends), parameters.rows_per_round
    with exact_float():
        for level in range(last_level + 1):
            for number in range(ends[level - 1] if level else 0, ends[level]):
                drawn = ddrm_samples(denoiser, parameters, batch.numbers, number, known)
                for own, port, model, source, samples in zip(
                    known, batch.ports, models, sources, drawn, strict=True
                ):
                    new = ada_sense_step(own, r, lambda _, samples=samples: samples)  # type: ignore[misc]
                    own.append(new, _exchange(port, model, new, source))
            if level:
                last = torch.stack([own.H[-r:].sum(0).long() for own in known])
                values = torch.stack([own.y.sum().long() for own in known])[:, None]
                check_digests(batch, level, last, torch.zeros_like(last) + values)
            yield level, known


def restart(
    denoiser: Denoiser, parameters: StreamParameters, batch: TileBatch, *, levels: set[int]
) -> Iterator[LevelResult]:
    """The paper's schedule on tiles, restored by the mean of ``restorations`` passes.

    Parameters
    ----------
    denoiser, parameters, batch
        As for :func:`measured_levels`.
    levels : set of int
        Levels to restore; the rounds stop at the largest.

    Yields
    ------
    LevelResult
        One per wanted level, rising.
    """
    shape = denoiser.prior.tile_shape
    for level, known in measured_levels(denoiser, parameters, batch, last_level=max(levels)):
        if level not in levels:
            continue
        first = parameters.level_ends[-1] + level * parameters.restorations
        with exact_float():
            passes = [
                ddrm_samples(denoiser, parameters, batch.numbers, first + number, known)
                for number in range(parameters.restorations)
            ]
        x0 = torch.cat(passes, 1)  # (tiles, samples of all passes, n)
        yield LevelResult(level, *summarise(x0.reshape(-1, *shape), x0.shape[1]))


def _exchange(
    port: SymbolPort, model: AdaptiveModel, rows: torch.Tensor, source: torch.Tensor | None
) -> torch.Tensor:
    """Code one float8 symbol per row with an adaptive model; quantised measurements back."""
    wanted = None
    if source is not None:
        y = Measurements.measure(rows, source.double().reshape(-1, 1))
        wanted = float8_symbols(y.long().view(-1).cpu().numpy())
    codes = np.array(
        [model.code(port, None if wanted is None else int(wanted[i])) for i in range(len(rows))],
        np.int64,
    )
    magnitude = float8_values()[np.minimum(codes & 127, 126)]
    values = np.where(codes >= 128, -magnitude, magnitude)
    return torch.from_numpy(values).to(rows.device, torch.float64)
