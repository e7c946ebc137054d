"""The base method ``psc``: block means, tiles in batches, ranged reading. Part of the format."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.brick import BrickIndex, PscFields, ReadRange
from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping, StreamParameters
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.codec import DecodedBrick, EncodedBase, read_section
from psc_volumetric.coding.base import code_base
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.coding.symbols import SymbolReader, SymbolWriter
from psc_volumetric.errors import FormatError, ParameterError, PriorMismatchError
from psc_volumetric.intensity import denormalise, integer_mapping, normalise
from psc_volumetric.parameters import CodecParameters
from psc_volumetric.prior import Prior, PriorSource
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.sampler.denoiser import Denoiser, denoiser_for
from psc_volumetric.sampler.loop import LevelResult, TileBatch, restart, single_pass
from psc_volumetric.sampler.measure import COEFFICIENT_LIMIT, Observer
from psc_volumetric.sensing.transform import BLOCK, BlockTransform
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.uncertainty import (
    SPREAD_BITS,
    Classes,
    SigmaTables,
    coverage,
    voxel_classes,
)
from psc_volumetric.uncertainty_fit import LevelErrors, fit_tables

__all__ = ["decode_psc", "encode_psc"]

PARTICLES_PER_BATCH = {"cpu": 64, "cuda": 1024}

Values = NDArray[np.generic]
Samples = NDArray[np.int64]
Means = NDArray[np.int32]
Shares = tuple[float, float, float]
Results = list[dict[int, tuple[Means, Classes]]]  # of every tile: level -> what it ends with


@one_thread()
def encode_psc(
    values: Values,
    *,
    header: BrickHeader,
    mapping: IntensityMapping,
    parameters: CodecParameters,
    prior: Prior,
    special: SpecialMap | None,
    limits: ValueLimits | None = None,
    seed: int,
    device: str,
    observer: Observer | None = None,
) -> EncodedBase:
    """Encode the base of a brick with the prior; see :func:`psc_volumetric.codec.encode_brick`."""
    mapping = integer_mapping(mapping, header.dtype)
    if any(s % t for s, t in zip(header.shape, prior.tile_shape, strict=True)):
        raise ParameterError(
            f"brick {header.shape} is not made of whole tiles {prior.tile_shape}", kind="bad-shape"
        )
    clean = values if special is None else special.fill(values, mapping.low)
    grid = TileGrid(header.valid, prior.tile_shape)
    tiles = grid.split(normalise(clean, mapping)).astype(np.int64)
    mixed = seed ^ crc32c(np.array(header.position, "<i8").tobytes())
    # slices repeated to fill a tile spread an error over voxels nobody reads: same quality at a
    # step coarser by the root of their share
    repeated = max(1.0, prior.tile_shape[0] / header.valid[0]) ** 0.5
    stream = parameters.stream(prior.levels, mixed & 0xFFFFFFFF, coarser=repeated)
    job = _Job(grid, stream, prior, device, mapping, header.dtype, limits)
    base = SymbolWriter()
    coarse = job.code_means(base, tiles)
    base.mark()
    words: list[list[bytes]] = [[b""] * len(stream.level_ends) for _ in range(len(grid))]
    results: Results = [{} for _ in range(len(grid))]
    coded = [n for n in range(len(grid)) if not job.is_flat(tiles[n], coarse[n])]
    for batch in job.batches(coded):
        ports = [SymbolWriter() for _ in batch]
        for result in job.run(batch, ports, coarse, tiles, None, observer):
            for port in ports if result.level else ():
                port.mark()
            means = result.mean.cpu().numpy()
            classes = voxel_classes(means, result.spread.cpu().numpy())
            for n, mean, own in zip(batch, means, classes, strict=True):
                results[n][result.level] = mean, own
        for n, port in zip(batch, ports, strict=True):
            words[n] = port.finish()
    sections = [("base", base.finish()[0])]
    sections += [(f"level{k + 1}", b"".join(w[k] for w in words)) for k in range(len(words[0]))]
    decoded = job.assemble(job.base_tiles(coarse), results, special)
    tables, covered = job.fit(values, decoded, special, sum(len(d) for _, d in sections))
    share = len(sections[0][1]) // len(grid)
    return EncodedBase(
        PscFields(
            bytes.fromhex(prior.digest[:32]),
            prior.tile_shape,
            mapping,
            stream,
            tuple(tuple(len(w[k]) // 4 for w in words) for k in range(len(words[0]))),
            b"" if tables is None else tables.pack(),
        ),
        sections,
        tuple(level for level, _ in decoded),
        tuple((share, *(len(part) for part in w)) for w in words),
        coverage=covered,
    )


@one_thread()
def decode_psc(
    read: ReadRange,
    index: BrickIndex,
    *,
    selection: Box,
    level: int,
    prior: PriorSource | None,
    spread: bool,
    device: str,
) -> DecodedBrick:
    """Decode a region of a ``psc`` brick; see :func:`psc_volumetric.codec.decode_brick`."""
    fields = index.psc
    if fields is None:
        raise FormatError("brick has no psc fields", kind="bad-method")
    what = f"brick {index.position}"
    special = SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )
    loaded = _matching_prior(prior, fields, what)
    grid = index.grid
    job = _Job(grid, fields.parameters, loaded, device, fields.mapping, index.dtype, index.limits)
    base = SymbolReader(read_section(read, index.section("base"), what=what))
    coarse = job.code_means(base, None)
    wanted = grid.covering(selection)
    data = _read_tiles(read, index, wanted, level, what)
    samples = dict(zip(wanted, job.base_tiles(coarse[list(wanted)]), strict=True)) if wanted else {}
    spreads = {n: np.full(grid.tile, job.flat_spread, np.int32) for n in wanted}
    coded = [n for n in wanted if any(row[n] for row in fields.words)]
    active = [n for n in coded if level or job.restarts]
    for batch in job.batches(active):
        ports = [SymbolReader(data[n]) for n in batch]
        for result in job.run(batch, ports, coarse, None, level):
            if result.level == level:
                samples.update(zip(batch, result.mean.cpu().numpy(), strict=True))
                spreads.update(zip(batch, result.spread.cpu().numpy(), strict=True))
    shape = tuple(s.stop - s.start for s in selection)
    out = np.empty(shape, index.dtype)
    sigma = np.zeros(shape, np.float32) if spread else None
    tables = (
        SigmaTables.unpack(fields.sigma, index.base_levels) if spread and fields.sigma else None
    )
    for n, inside, target in grid.overlaps(selection, wanted):
        out[target] = job.stored(samples[n][inside])
        if sigma is not None:
            own = spreads[n]
            if tables is not None:
                own = tables.sigma(level, voxel_classes(samples[n], own))
            sigma[target] = own[inside].astype(np.float32) * np.float32(job.sigma_unit)
    if special is not None:
        special.apply(out, selection)
        if sigma is not None:
            sigma[special.index[selection] > 0] = 0
    return DecodedBrick(out, sigma)


@dataclass(frozen=True)
class _Job:
    """What encoding and decoding of one brick have in common."""

    grid: TileGrid
    parameters: StreamParameters
    prior: Prior
    device: str
    mapping: IntensityMapping
    dtype: np.dtype[np.generic]
    limits: ValueLimits | None

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """The network; loaded and self-tested only when a tile needs it (never for level 0)."""
        return denoiser_for(self.prior, self.device)

    @property
    def restarts(self) -> bool:
        """The paper's schedule: no base, level 0 is the prior's mean."""
        return self.parameters.schedule == "restart"

    @property
    def blocks(self) -> int:
        """Blocks per tile side."""
        return self.grid.tile[1] // BLOCK

    @property
    def flat_spread(self) -> int:
        """Spread given to tiles that are coded by their base alone."""
        return self.parameters.coarse_step >> (SAMPLE_FRACTION_BITS - SPREAD_BITS + 6)

    @property
    def sigma_unit(self) -> float:
        """Stored units in one unit of a spread."""
        return (self.mapping.high - self.mapping.low) / (2 << SPREAD_BITS)

    def stored(self, samples: NDArray[np.integer]) -> Values:
        """Stored values of samples."""
        return saturate(denormalise(samples, self.mapping, self.dtype), self.limits)

    def transform(self) -> BlockTransform:
        """Block transform of a tile on the CPU."""
        return BlockTransform(self.grid.tile[0], self.grid.tile[1], torch.device("cpu"))

    def code_means(self, port: SymbolWriter | SymbolReader, tiles: Samples | None) -> Samples:
        """Exchange the base; returns dequantised block means per tile, (tiles, blocks^2)."""
        nz, ny, nx = self.grid.counts
        k, step = self.blocks, self.parameters.coarse_step
        if self.restarts:
            return np.zeros((len(self.grid), k * k), np.int64)
        quantised = None
        if tiles is not None:
            c = self.transform().forward(torch.from_numpy(tiles).double())
            means = c[:, :: self.grid.tile[0] * 64].numpy().astype(np.int64)
            rounded = (2 * means + step) // (2 * step)
            quantised = rounded.reshape(nz, ny, nx, k, k).transpose(0, 1, 3, 2, 4)
            quantised = quantised.reshape(nz, ny * k, nx * k)
        coded = code_base(port, quantised, (nz, ny * k, nx * k))
        by_tile = coded.reshape(nz, ny, k, nx, k).transpose(0, 1, 3, 2, 4)
        dequantised = by_tile.reshape(len(self.grid), k * k) * step
        return np.clip(dequantised, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)

    def base_tiles(self, coarse: Samples) -> NDArray[np.int32]:
        """Tiles rebuilt from their block means alone, (n, slices, tile, tile)."""
        slices, tile, _ = self.grid.tile
        c = torch.zeros((len(coarse), slices * tile * tile), dtype=torch.float64)
        c[:, :: slices * 64] = torch.from_numpy(coarse).double()
        rebuilt: NDArray[np.int32] = self.transform().inverse(c).numpy().astype(np.int32)
        return rebuilt

    def assemble(
        self, flat: Means, results: Results, special: SpecialMap | None
    ) -> list[tuple[Values, Classes]]:
        """Stored values of the valid part at every level as a reader gets them, and classes."""
        flat_classes = voxel_classes(flat, self.flat_spread)
        levels = []
        for level in range(1 + len(self.parameters.level_ends)):
            out = np.empty(self.grid.valid, self.dtype)
            classes = np.empty(self.grid.valid, np.uint16)
            for n in range(len(self.grid)):
                box = self.grid.box(n)
                inside = tuple(slice(0, b.stop - b.start) for b in box)
                mean, own = results[n].get(level, (flat[n], flat_classes[n]))
                out[box] = self.stored(mean[inside])
                classes[box] = own[inside]
            if special is not None:
                special.apply(out, (slice(None),) * 3)
            levels.append((out, classes))
        return levels

    def fit(
        self,
        values: Values,
        decoded: list[tuple[Values, Classes]],
        special: SpecialMap | None,
        nbytes: int,
    ) -> tuple[SigmaTables | None, tuple[Shares, ...]]:
        """Sigma tables from the errors of all levels, and what they cover."""
        keep = np.ones(values.shape, bool) if special is None else special.index == 0
        source, unit = values[keep], self.sigma_unit
        exact = source.astype(np.float64)
        levels = [
            LevelErrors(classes[keep], np.abs(level[keep].astype(np.float64) - exact))
            for level, classes in decoded
        ]
        rounded = self.dtype.kind in "iu"
        tables = fit_tables(levels, unit=unit, rounded=rounded, nbytes=nbytes)
        if tables is None:
            return None, ()
        covered = []
        for number, ((out, _), level) in enumerate(zip(decoded, levels, strict=True)):
            sigma = tables.sigma(number, level.classes).astype(np.float32) * np.float32(unit)
            covered.append(coverage(source, out[keep], sigma))
        return tables, tuple(covered)

    def is_flat(self, tile: Samples, coarse: Samples) -> bool:
        """Encoder's choice: nothing beyond the base would be coded."""
        if self.restarts:
            return False
        c = self.transform().forward(torch.from_numpy(tile[None]).double())[0].numpy()
        c[:: self.grid.tile[0] * 64] -= coarse
        return bool(np.abs(c).max() <= self.parameters.step / 2)

    def batches(self, numbers: list[int]) -> Iterator[list[int]]:
        """Tiles that run side by side; never changes a bit."""
        if not numbers:
            return
        limit = PARTICLES_PER_BATCH[self.denoiser.device.type]
        size = 1 if self.restarts else max(1, limit // self.parameters.particles)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]

    def run(
        self,
        batch: list[int],
        ports: list[SymbolWriter] | list[SymbolReader],
        coarse: Samples,
        tiles: Samples | None,
        level: int | None,
        observer: Observer | None = None,
    ) -> Iterator[LevelResult]:
        """Run the loop; ``level`` None runs and yields every level."""
        source = None if tiles is None else torch.from_numpy(tiles[batch])
        device = self.denoiser.device
        job = TileBatch(
            tuple(batch),
            ports,
            None if source is None else source.to(device),
            torch.from_numpy(coarse[batch]),
        )
        last = len(self.parameters.level_ends)
        if self.restarts:
            wanted = set(range(last + 1)) if level is None else {level}
            return restart(self.denoiser, self.parameters, job, levels=wanted)
        return single_pass(
            self.denoiser,
            self.parameters,
            job,
            last_level=last if level is None else level,
            observer=observer,
        )


def _matching_prior(source: PriorSource | None, fields: PscFields, what: str) -> Prior:
    digest = fields.prior_digest.hex()
    if source is None:
        raise PriorMismatchError(
            f"{what}: needs the prior {digest}, none was offered",
            kind="prior-missing",
            hint="open the stream through its archive, which embeds the prior",
        )
    prior = source(digest)
    if not prior.digest.startswith(digest):
        raise PriorMismatchError(
            f"{what}: needs the prior {digest}, was offered {prior.digest}", kind="prior-mismatch"
        )
    levels = fields.parameters.noise_levels
    if prior.tile_shape != fields.tile or max(levels) >= prior.levels:
        raise FormatError(
            f"{what}: tile {fields.tile} or noise level {max(levels)} does not fit the prior "
            f"({prior.tile_shape}, {prior.levels} levels)",
            kind="bad-parameter",
        )
    return prior


def _read_tiles(
    read: ReadRange, index: BrickIndex, tiles: tuple[int, ...], level: int, what: str
) -> dict[int, bytes]:
    """Words of the tiles up to ``level``; whole sections when all tiles are wanted."""
    pieces: dict[int, list[bytes]] = {n: [] for n in tiles}
    if index.psc is None or not tiles:
        return {}
    whole = len(tiles) == len(index.grid)
    for k in range(1, level + 1):
        section, row = index.section(f"level{k}"), index.psc.words[k - 1]
        starts = np.cumsum([0, *row]) * 4
        if whole:
            first, data = 0, read_section(read, section, what=what)
        else:
            first, stop = int(starts[tiles[0]]), int(starts[tiles[-1] + 1])
            data = read(section.offset + first, stop - first) if stop > first else b""
            if len(data) != stop - first:
                raise FormatError(
                    f"{what}: section {section.name!r}: expected {stop - first} bytes at offset "
                    f"{section.offset + first}, found {len(data)}",
                    kind="truncated",
                    hint="the chunk is cut, run `psc-archive verify`",
                )
        for n in tiles:
            pieces[n].append(data[int(starts[n]) - first : int(starts[n + 1]) - first])
    return {n: b"".join(parts) for n, parts in pieces.items()}
