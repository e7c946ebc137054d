"""Views of bricks of the method ``latent``: latents drawn by the prior, decoded to pixels.

The paper restores an image so (PSC, experiments with Stable Diffusion): PiGDM in 100 steps, without
its correction in the last 5. Those steps may leave the intervals of the stream; how many numbers do
is in the result.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.entropy.symbols import SymbolReader
from psc_volumetric.methods.latent.brick import NOTHING, LatentBrick
from psc_volumetric.methods.latent.method import opened_brick
from psc_volumetric.methods.latent.prompt import unpack_prompt
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.adasense import Measurements, measured_levels
from psc_volumetric.methods.psc.cells import StatedTiles
from psc_volumetric.methods.psc.loop import TileBatch
from psc_volumetric.methods.psc.quantiser import float8_cells
from psc_volumetric.methods.psc.reading import read_tiles
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.prior.smooth_text import SmoothReader
from psc_volumetric.values.mapping import UNIT
from psc_volumetric.views.samplers import SAMPLERS, Task

__all__ = ["drawn_latents"]

UNCORRECTED = 5  # last steps of PiGDM
LATENT_LIMIT = (1 << 13) - 1


@one_thread()
def drawn_latents(
    read: ReadRange, index: BrickIndex, resources: Resources, name: str, seed: int
) -> tuple[NDArray[np.float64], int]:
    """Values (z, y, x) of a view in stored units, and numbers of the stream that it contradicts.

    Parameters
    ----------
    read, index, resources
        As of :func:`psc_volumetric.views.brick.view_brick`.
    name : str
        Of `SAMPLERS`.
    seed : int
        Of the view.
    """
    brick, fields = opened_brick(read, index, resources)
    smooth = _smooth(read, index, brick)
    key = hashlib.sha256(f"{seed} {name} {fields.parameters.seed}".encode()).digest()
    own_seed = int.from_bytes(key[:4], "little")
    last, numbers = len(fields.parameters.level_ends), range(len(index.grid))
    data = read_tiles(read, index, fields.words, tuple(numbers), last, f"brick {index.position}")
    out, wrong = np.empty(index.valid), 0
    unit = (fields.mapping.high - fields.mapping.low) / (2 * UNIT)
    for tiles in brick.batches(numbers):
        batch = TileBatch(tiles, [SymbolReader(data[n]) for n in tiles], None, NOTHING)
        *_, (_, known) = measured_levels(brick.denoiser, fields.parameters, batch, last_level=last)
        stated = _stated(tiles, known, brick.coder.prior.tile_shape)
        whole = (brick.coder.prior.tile_shape,) * len(tiles)
        task = Task(brick.denoiser, 0, stated, whole, own_seed, smooth, UNCORRECTED)
        drawn = torch.round(SAMPLERS[name](task)).clamp(-LATENT_LIMIT, LATENT_LIMIT)
        measured = stated.measure(drawn)
        wrong += int(((measured < stated.low) | (measured > stated.high)).sum())
        samples = brick.coder.pixels(drawn.to(torch.int32).numpy())
        for n, own in zip(tiles, samples, strict=True):
            box = index.grid.box(n)
            inside = tuple(slice(0, b.stop - b.start) for b in box)
            out[box] = fields.mapping.low + (own[inside] + UNIT) * unit
    return out, wrong


def _smooth(read: ReadRange, index: BrickIndex, brick: LatentBrick) -> SmoothReader:
    words, what = brick.coder.space.words, f"brick {index.position}"
    vocabulary = 0 if words is None else len(words.tokens)
    prompt = unpack_prompt(read_section(read, index.section("base"), what=what), vocabulary, what)
    register = brick.coder.space.register(prompt)
    return SmoothReader(brick.coder.prior, register, brick.coder.device.type)


def _stated(
    tiles: tuple[int, ...], known: list[Measurements], shape: tuple[int, int, int]
) -> StatedTiles:
    """Rows of every tile with what was measured; one with fewer than others has rows of zeros."""
    most = max(len(own.H) for own in known)
    rows = torch.zeros((len(tiles), most, math.prod(shape)), dtype=torch.int16)
    values = torch.zeros((len(tiles), most), dtype=torch.float64)
    low, high = torch.full_like(values, -torch.inf), torch.full_like(values, torch.inf)
    for number, own in enumerate(known):
        y = own.y.view(-1).cpu()
        rows[number, : len(y)] = own.H.to(torch.int16).cpu()
        values[number, : len(y)] = y
        ends = float8_cells(y.long().numpy())
        low[number, : len(y)], high[number, : len(y)] = (torch.from_numpy(end) for end in ends)
    return StatedTiles(torch.tensor(tiles), values, low, high, rows, shape)
