"""What a psc stream says of the values it was made of: measurements, each with an interval.

Not part of the format. A stream measures some coefficients of every tile (or rows of its own
making), and an encoder rounds each to a symbol. Values whose measurements lie in the intervals of
these symbols make the encoder write the same symbols: what is measured next follows from the
symbols alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.entropy.symbols import SymbolReader
from psc_volumetric.errors import FormatError, LimitExceededError
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.adasense import measured_levels
from psc_volumetric.methods.psc.brick import BrickJob
from psc_volumetric.methods.psc.fields import PscFields
from psc_volumetric.methods.psc.loop import TileBatch
from psc_volumetric.methods.psc.measure import Coded, Observer
from psc_volumetric.methods.psc.pca import ROW_BITS
from psc_volumetric.methods.psc.quantiser import float8_cells, uniform_cells
from psc_volumetric.methods.psc.reading import matching_prior, read_tiles
from psc_volumetric.methods.psc.transform import BlockTransform
from psc_volumetric.prior import Prior
from psc_volumetric.prior.runtime import one_thread

__all__ = ["Stated", "StatedTiles", "stated_by"]

Tensor = torch.Tensor

MOST_BYTES = 1 << 31  # of the rows of a brick


@dataclass(frozen=True, eq=False)
class StatedTiles:
    """Measurements y = H x of some tiles, in units of 1 / 2048.

    Attributes
    ----------
    numbers : (b,) int64
        Tiles of the brick.
    values, low, high : (b, m) float64
        Each number of y as the decoder has it, and the interval that the source's lies in; those
        that were not measured are 0 between infinities.
    rows : (b, m, n) int16 or None
        Orthonormal rows of H, 14 fraction bits; None: all coefficients of the block transform.
    shape : (slices, tile, tile)
    """

    numbers: Tensor
    values: Tensor
    low: Tensor
    high: Tensor
    rows: Tensor | None
    shape: tuple[int, int, int]

    def measure(self, x: Tensor) -> Tensor:
        """H x of tiles (b, slices, tile, tile), in real numbers."""
        if self.rows is None:
            return self._transform.forward(x)
        return self._sums(x) * 2.0**-ROW_BITS

    def back(self, y: Tensor) -> Tensor:
        """H^T y: tiles (b, slices, tile, tile) of differences of measurements (b, m)."""
        if self.rows is None:
            return self._transform.inverse(y)
        moved = [own @ rows.double() for own, rows in zip(y, self.rows, strict=True)]
        return torch.stack(moved).reshape(-1, *self.shape) * 2.0**-ROW_BITS

    def missing(self, x: Tensor) -> Tensor:
        """H^T (y - H x): what brings tiles onto the measurements."""
        known = torch.isfinite(self.low) | torch.isfinite(self.high)
        return self.back(torch.where(known, self.values - self.measure(x), 0.0))

    def take(self, part: slice) -> StatedTiles:
        """Some of the tiles."""
        rows = None if self.rows is None else self.rows[part]
        numbers, values = self.numbers[part], self.values[part]
        return StatedTiles(numbers, values, self.low[part], self.high[part], rows, self.shape)

    def encoded(self, x: Tensor) -> Tensor:
        """What the encoder measures of integer tiles."""
        if self.rows is None:
            return BlockTransform(self.shape[0], self.shape[1], x.device).forward(x)
        return torch.floor((self._sums(x) + float(1 << (ROW_BITS - 1))) * 2.0**-ROW_BITS)

    def _sums(self, x: Tensor) -> Tensor:
        assert self.rows is not None
        return torch.stack(
            [rows.double() @ own for own, rows in zip(x.flatten(1), self.rows, strict=True)]
        )

    @property
    def _transform(self) -> BlockTransform:
        return BlockTransform(self.shape[0], self.shape[1], self.values.device, rounds=False)


@dataclass(frozen=True, eq=False)
class Stated:
    """All that a brick's stream says.

    Attributes
    ----------
    job : BrickJob
        Grid, prior and mapping of the brick.
    tiles : StatedTiles
        Those with words.
    flat : StatedTiles
        Those that are coded by their block means alone.
    """

    job: BrickJob
    tiles: StatedTiles
    flat: StatedTiles

    @property
    def prior(self) -> Prior:
        """The network that the stream was coded with."""
        return self.job.prior


@one_thread()
def stated_by(read: ReadRange, index: BrickIndex, resources: Resources) -> Stated:
    """Decode a brick for its measurements instead of its values.

    Parameters
    ----------
    read : callable
        ``read(offset, length) -> bytes``.
    index : BrickIndex
    resources : Resources
        With denoisers.

    Raises
    ------
    FormatError
        Damaged, or coded by another method (kind ``"bad-method"``).
    PriorMismatchError
        As for decoding.
    """
    fields, what = index.fields, f"brick {index.position}"
    if not isinstance(fields, PscFields):
        raise FormatError(f"{what}: expected fields of psc", kind="bad-method")
    prior = matching_prior(resources.priors, fields, what)
    job = BrickJob(
        index.grid, fields.parameters, prior, resources, fields.mapping, index.dtype, index.limits
    )
    base = read_section(read, index.section("base"), what=what)
    coarse = job.code_means(SymbolReader(base), None)
    numbers = list(range(len(index.grid)))
    last = len(fields.parameters.level_ends)
    data = read_tiles(read, index, fields.words, tuple(numbers), last, what)
    coded = [n for n in numbers if any(row[n] for row in fields.words)]
    flat = [n for n in numbers if n not in set(coded)]
    means = torch.from_numpy(coarse).double()
    ports = {n: SymbolReader(data[n]) for n in coded}
    tiles = _rows(job, ports, last) if job.restarts else _coefficients(job, ports, means, last)
    return Stated(job, tiles, _flat(job, flat, means))


def _of_means(job: BrickJob, numbers: list[int], means: Tensor) -> StatedTiles:
    """Block means, which the encoder rounds to the nearest step."""
    slices, tile, _ = job.grid.tile
    shape = (len(numbers), slices * tile * tile)
    values, low = torch.zeros(shape, dtype=torch.float64), torch.full(shape, -torch.inf).double()
    high, block, half = -low, slices * 64, job.parameters.coarse_step / 2
    own = means[numbers]
    values[:, ::block], low[:, ::block], high[:, ::block] = own, own - half, own + half
    return StatedTiles(torch.tensor(numbers), values, low, high, None, job.grid.tile)


def _flat(job: BrickJob, numbers: list[int], means: Tensor) -> StatedTiles:
    """Tiles in which nothing but the means would have been coded."""
    if job.restarts:
        return _of_means(job, [], means)
    tiles, half = _of_means(job, numbers, means), job.parameters.step / 2
    block = job.grid.tile[0] * 64
    low, high = torch.full_like(tiles.low, -half), torch.full_like(tiles.high, half)
    low[:, ::block] = torch.maximum(tiles.low, tiles.values - half)[:, ::block]
    high[:, ::block] = torch.minimum(tiles.high, tiles.values + half)[:, ::block]
    return replace(tiles, low=low, high=high)


class _Collector(Observer):
    """Keeps the intervals of what is decoded."""

    def __init__(self, tiles: StatedTiles, step: int) -> None:
        self._tiles, self._step = tiles, step

    def measured(self, coded: Coded) -> None:
        """Note values and intervals."""
        at = coded.tiles.cpu(), coded.where.cpu()
        mean, step = coded.mean.double().cpu(), float(self._step)
        low, high = uniform_cells(coded.symbols.cpu(), coded.bins.cpu())
        self._tiles.values[at] = mean + coded.symbols.double().cpu() * step
        self._tiles.low[at] = mean + low * step
        self._tiles.high[at] = mean + high * step


def _coefficients(
    job: BrickJob, ports: dict[int, SymbolReader], means: Tensor, last: int
) -> StatedTiles:
    tiles = _of_means(job, list(ports), means)
    done, coarse = 0, means.numpy().astype(np.int64)
    for batch in job.batches(list(ports)):
        part = slice(done, done + len(batch))
        watch = _Collector(tiles.take(part), job.parameters.step)
        for _ in job.run(batch, [ports[n] for n in batch], coarse, None, last, watch):
            pass
        done = part.stop
    return tiles


def _rows(job: BrickJob, ports: dict[int, SymbolReader], last: int) -> StatedTiles:
    """Rows of every tile; a tile with fewer than others gets rows of zeros."""
    most = job.parameters.level_ends[-1] * job.parameters.rows_per_round
    shape = (len(ports), most, math.prod(job.grid.tile))
    if 2 * math.prod(shape) > MOST_BYTES:
        raise LimitExceededError(
            f"a view of {len(ports)} tiles with {most} rows each takes {2 * math.prod(shape)} "
            f"bytes of memory, at most {MOST_BYTES} are used",
            kind="limit",
            hint="restore the mean, or archive in smaller bricks",
        )
    rows = torch.zeros(shape, dtype=torch.int16)
    values = torch.zeros(shape[:2], dtype=torch.float64)
    low, high = torch.full_like(values, -torch.inf), torch.full_like(values, torch.inf)
    none = torch.zeros((1, 0), dtype=torch.int64)
    for tile, (number, port) in enumerate(ports.items()):
        batch = TileBatch((number,), [port], None, none)
        *_, (_, (known,)) = measured_levels(job.denoiser, job.parameters, batch, last_level=last)
        y = known.y.view(-1).cpu()
        rows[tile, : len(y)] = known.H.to(torch.int16).cpu()
        values[tile, : len(y)] = y
        ends = float8_cells(y.long().numpy())
        low[tile, : len(y)], high[tile, : len(y)] = (torch.from_numpy(end) for end in ends)
    return StatedTiles(torch.tensor(list(ports)), values, low, high, rows, job.grid.tile)
