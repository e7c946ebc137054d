"""Views of bricks of the method ``psc``: drawn by its prior, tile by tile."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.cells import Stated, StatedTiles, stated_by
from psc_volumetric.methods.psc.trust import denoiser_for
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.tiling import TileGrid
from psc_volumetric.values.mapping import IntensityMapping, normalise
from psc_volumetric.views.samplers import SAMPLERS, Task

__all__ = ["TileCells", "drawn_by_prior", "stated_tiles"]

Doubles = NDArray[np.float64]

TILES_AT_ONCE = {"cpu": 8, "cuda": 64}
UNIT = 2048
ROUNDING = 2.0  # seven deviations of the error of rounding to integers
MORE_ROUNDING = 4.0  # units of 1 / 2048, of the encoder's own
TIE = 1e-3  # an end itself may go either way
MOST_MARGIN = 0.25  # of the width of an interval


def stated_tiles(read: ReadRange, index: BrickIndex, resources: Resources) -> Stated:
    """What the stream of a brick says, decoded by networks that pass the self-test."""
    if resources.denoisers is None:
        resources = replace(resources, denoisers=denoiser_for)
    return stated_by(read, index, resources)


@one_thread()
def drawn_by_prior(stated: Stated, name: str, seed: int, clean: Doubles) -> Doubles:
    """Values (z, y, x) of a view, stored units; tiles without words stay what they are.

    Parameters
    ----------
    stated : Stated
    name : str
        Of `SAMPLERS`.
    seed : int
        Of the view.
    clean : (z, y, x) float64
        Decoded.
    """
    job, out = stated.job, clean.copy()
    key = hashlib.sha256(f"{seed} {name} {job.parameters.seed}".encode()).digest()
    own_seed = int.from_bytes(key[:4], "little")
    count = len(stated.tiles.numbers)
    first = job.parameters.noise_levels[0] // job.prior.levels * job.prior.levels
    size = TILES_AT_ONCE[job.denoiser.device.type] if count else 1
    for start in range(0, count, size):
        part = stated.tiles.take(slice(start, start + size))
        boxes = [job.grid.box(number) for number in part.numbers.tolist()]
        valid = tuple((z.stop - z.start, y.stop - y.start, x.stop - x.start) for z, y, x in boxes)
        drawn = SAMPLERS[name](Task(job.denoiser, first, part, valid, own_seed)).numpy()
        for box, extents, tile in zip(boxes, valid, drawn, strict=True):
            inside = tuple(slice(0, extent) for extent in extents)
            out[box] = _stored(tile[inside], job.mapping)
    return out


def _stored(samples: Doubles, mapping: IntensityMapping) -> Doubles:
    return mapping.low + (samples + UNIT) * ((mapping.high - mapping.low) / (2 * UNIT))


@dataclass(frozen=True, eq=False)
class TileCells:
    """Intervals of the measurements of all tiles of a brick, in one row.

    Attributes
    ----------
    grid : TileGrid
    mapping : IntensityMapping
    parts : tuple of StatedTiles
    low, high : (n,) float64
        Their intervals one after the other, in units of 1 / 2048.
    """

    grid: TileGrid
    mapping: IntensityMapping
    parts: tuple[StatedTiles, ...]
    low: Doubles
    high: Doubles

    @classmethod
    def of(cls, stated: Stated) -> Self:
        """Of what a stream says."""
        parts = tuple(part for part in (stated.tiles, stated.flat) if len(part.numbers))
        low, high = (
            np.concatenate([getattr(p, end).numpy().reshape(-1) for p in parts])
            for end in ("low", "high")
        )
        return cls(stated.job.grid, stated.job.mapping, parts, low + TIE, high - TIE)

    @property
    def zero(self) -> float:
        """Stored value at the low end of the mapping."""
        return self.mapping.low

    def analyse(self, values: Doubles) -> Doubles:
        """Measurements of stored values."""
        samples = self.grid.split(normalise(values, self.mapping)).astype(np.float64)
        tiles = torch.from_numpy(samples)
        found = [part.encoded(tiles[part.numbers]).reshape(-1) for part in self.parts]
        return torch.cat(found).numpy()

    def moved(self, values: Doubles, by: Doubles) -> Doubles:
        """Stored values with other measurements; what reaches past the edge is averaged there."""
        tiles = torch.zeros((len(self.grid), *self.grid.tile), dtype=torch.float64)
        start = 0
        for part in self.parts:
            stop = start + part.values.numel()
            tiles[part.numbers] = part.back(torch.from_numpy(by[start:stop]).view_as(part.values))
            start = stop
        unit = (self.mapping.high - self.mapping.low) / (2 * UNIT)
        return values + _joined(tiles.numpy(), self.grid) * unit

    def nearest(self, numbers: Doubles) -> Doubles:
        """Measurements moved into their intervals."""
        inside: Doubles = np.clip(numbers, self.low, self.high)
        return inside

    def outside(self, numbers: Doubles) -> NDArray[np.bool_]:
        """Which measurements contradict the stream."""
        wrong: NDArray[np.bool_] = (numbers < self.low) | (numbers > self.high)
        return wrong

    def inner(self, *, whole: bool) -> TileCells:
        """Narrower by what rounding may move measurements."""
        unit = 2 * UNIT / (self.mapping.high - self.mapping.low)
        margin = MORE_ROUNDING + (ROUNDING * unit if whole else 0.0)
        narrower = np.minimum(margin, MOST_MARGIN * (self.high - self.low))
        return replace(self, low=self.low + narrower, high=self.high - narrower)


def _joined(tiles: Doubles, grid: TileGrid) -> Doubles:
    """Undo `TileGrid.split`; a plane that was repeated becomes the mean of its copies."""
    (nz, ny, nx), (tz, ty, tx) = grid.counts, grid.tile
    blocks = tiles.reshape(nz, ny, nx, tz, ty, tx).transpose(0, 3, 1, 4, 2, 5)
    values: Doubles = blocks.reshape(nz * tz, ny * ty, nx * tx)
    for axis, valid in enumerate(grid.valid):
        last = np.take(values, range(valid - 1, values.shape[axis]), axis).mean(axis, keepdims=True)
        kept = np.take(values, range(valid - 1), axis)
        values = np.concatenate([kept, last], axis)
    return values
