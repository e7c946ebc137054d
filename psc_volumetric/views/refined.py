"""Latents with detail: diffusion inside the cells of a ``two-stage`` stream, then its decoder.

The second stage of the two-stage codec. A latent that was sent as a number may be anything in an
interval around it; a denoiser of latents says what is likely there. Real numbers, never coded
against.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.errors import PriorMismatchError
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.noise import gaussian
from psc_volumetric.methods.two_stage.brick import LatentGrid
from psc_volumetric.methods.two_stage.fields import TwoStageFields
from psc_volumetric.methods.two_stage.latents import split_tiles
from psc_volumetric.methods.two_stage.method import grid_of
from psc_volumetric.prior import Prior
from psc_volumetric.prior.finding import refiner_of
from psc_volumetric.prior.runtime import one_thread

__all__ = ["STEPS", "refined", "refined_latents"]

Doubles = NDArray[np.float64]
Tensor = torch.Tensor

STEPS = 20
WIDER = 2.0  # of the noise that drawing starts with, against that of the quantiser
UNIT, SCHEDULE_UNIT = 2048.0, float(1 << 16)
LARGEST = 32767


def refined(read: ReadRange, index: BrickIndex, resources: Resources, seed: int) -> Doubles:
    """Stored values (z, y, x) of a brick whose latents were drawn; limits are not looked at.

    Raises
    ------
    PriorMismatchError
        There is no denoiser of these latents (kind ``"prior-missing"``).
    """
    fields, what = index.fields, f"brick {index.position}"
    assert isinstance(fields, TwoStageFields)
    grid = grid_of(index, resources)
    refiner = refiner_of(grid.autoencoder.prior)
    if refiner is None:
        raise PriorMismatchError(
            f"{what}: expected a denoiser of the latents of {grid.autoencoder.prior.name!r} "
            "beside the installed autoencoder, found none",
            kind="prior-missing",
            hint="ask for view mean or sample",
        )
    latents = grid.read(read_section(read, index.section("base"), what=what), fields.latent_step)
    drawn = refined_latents(grid, latents, fields.latent_step, refiner, seed)
    everything = tuple(range(len(grid.tiles)))
    z, y, x = (slice(0, extent) for extent in index.valid)
    samples: Any = grid.region(grid.samples(drawn, everything), everything, (z, y, x))
    stored: Doubles = fields.low + samples.astype(np.float64) * fields.step
    return stored


@one_thread()
def refined_latents(
    grid: LatentGrid, latents: NDArray[np.int64], step: int, refiner: Prior, seed: int
) -> NDArray[np.int64]:
    """Latents (z, y, x, c) that are sent as the same numbers, drawn with a denoiser.

    DDPM steps from the noise of the quantiser, a little widened, to none; what is denoised is moved
    into the cells each time.
    """
    extent = grid.autoencoder.prior.program.tile
    cells = grid.model.steps(step)
    tiles = torch.from_numpy(split_tiles(latents, extent)).double()
    half = torch.from_numpy((cells - 1) // 2).double().view(-1, 1, 1)
    numbers = torch.arange(len(tiles))
    alpha, sigma = refiner.alpha / SCHEDULE_UNIT, refiner.sigma / SCHEDULE_UNIT
    wanted = WIDER * math.sqrt(float((cells.astype(np.float64) ** 2).mean()) / 12) / UNIT
    first = int(np.abs(np.log(sigma / np.maximum(alpha, 1e-6)) - math.log(wanted)).argmin())
    levels = np.unique(np.rint(np.linspace(0, first, STEPS)).astype(int))[::-1]
    denoiser = Denoiser(refiner, "cpu")

    def noise(number: int) -> Tensor:
        return gaussian(seed, numbers, number, 1, tiles[0].numel()).double().reshape(tiles.shape)

    x = alpha[first] * tiles + sigma[first] * noise(0)
    found = tiles
    for number, level in enumerate(levels, start=1):
        rounded = torch.round(x).clamp(-LARGEST, LARGEST).to(torch.int32)
        found = denoiser.denoise(rounded, int(level)).double()
        found = torch.minimum(torch.maximum(found, tiles - half), tiles + half)
        if number < len(levels):
            following = int(levels[number])
            x = alpha[following] * found + sigma[following] * noise(number)
    return grid.joined(torch.round(found).long().numpy())
