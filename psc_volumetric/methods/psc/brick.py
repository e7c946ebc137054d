"""A brick of the method ``psc``: block means, tiles in batches, ranged reading. Part of the format.

SPEC section 5. The network on its device is handed in (`Resources.denoisers`). The self-test in
``trust`` decodes a brick whose values are known with it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.entropy.block_means import code_block_means
from psc_volumetric.entropy.symbols import SymbolReader, SymbolWriter
from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.methods.protocol import DecodedBrick, EncodedBase, EncodeJob, Resources
from psc_volumetric.methods.psc.adasense import restart
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.fields import WORD, PscFields, StreamParameters
from psc_volumetric.methods.psc.loop import LevelResult, TileBatch, single_pass
from psc_volumetric.methods.psc.measure import COEFFICIENT_LIMIT, Observer
from psc_volumetric.methods.psc.parameters import stream_parameters
from psc_volumetric.methods.psc.reading import matching_prior, read_tiles
from psc_volumetric.methods.psc.transform import BLOCK, BlockTransform
from psc_volumetric.prior import Prior
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.sigma.fit import LevelErrors, fit_tables
from psc_volumetric.sigma.tables import (
    SPREAD_BITS,
    Classes,
    SigmaTables,
    coverage,
    voxel_classes,
)
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.mapping import (
    IntensityMapping,
    denormalise,
    integer_mapping,
    normalise,
)
from psc_volumetric.values.special import SpecialMap

__all__ = ["BrickJob", "decode_psc", "encode_psc"]

PARTICLES_PER_BATCH = {"cpu": 64, "cuda": 1024}

Samples = NDArray[np.int64]
Means = NDArray[np.int32]
Shares = tuple[float, float, float]
Results = list[dict[int, tuple[Means, Classes]]]  # of every tile: level -> what it ends with


@one_thread()
def encode_psc(
    task: EncodeJob, resources: Resources, *, observer: Observer | None = None
) -> EncodedBase:
    """Encode the base of a brick with the prior.

    Parameters
    ----------
    task : EncodeJob
        Has a prior.
    resources : Resources
    observer : Observer, optional
        Sees every step's predictions.
    """
    prior, special, header, values = task.prior, task.special, task.header, task.values
    assert prior is not None
    mapping = integer_mapping(task.mapping, header.dtype)
    if any(s % t for s, t in zip(header.shape, prior.tile_shape, strict=True)):
        raise ParameterError(
            f"brick {header.shape} is not made of whole tiles {prior.tile_shape}", kind="bad-shape"
        )
    clean = values if special is None else special.fill(values, mapping.low)
    grid = TileGrid(header.valid, prior.tile_shape)
    tiles = grid.split(normalise(clean, mapping)).astype(np.int64)
    mixed = task.seed ^ crc32c(np.array(header.position, "<i8").tobytes())
    # slices repeated to fill a tile spread an error over voxels nobody reads: same quality at a
    # step coarser by the root of their share
    repeated = max(1.0, prior.tile_shape[0] / header.valid[0]) ** 0.5
    stream = stream_parameters(task.parameters, prior.levels, mixed & 0xFFFFFFFF, coarser=repeated)
    of_class = tuple(prior.first_level + level for level in stream.noise_levels)
    stream = replace(stream, noise_levels=of_class)
    job = BrickJob(grid, stream, prior, resources, mapping, header.dtype, task.limits)
    means_port = SymbolWriter()
    coarse = job.code_means(means_port, tiles)
    means_port.mark()
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
    return job.finished(task, means_port.finish()[0], words, job.coarse_tiles(coarse), results)


@one_thread()
def decode_psc(
    read: ReadRange,
    index: BrickIndex,
    *,
    selection: Box,
    level: int,
    resources: Resources,
    spread: bool,
) -> DecodedBrick:
    """Decode a region of a brick; see `BaseMethod.decode`."""
    fields = index.fields
    if not isinstance(fields, PscFields):
        raise FormatError("brick has no psc fields", kind="bad-method")
    what = f"brick {index.position}"
    special = SpecialMap.unpack(
        read_section(read, index.section("special"), what=what), index.valid, index.dtype
    )
    loaded = matching_prior(resources.priors, fields, what)
    grid = index.grid
    job = BrickJob(
        grid, fields.parameters, loaded, resources, fields.mapping, index.dtype, index.limits
    )
    stored = read_section(read, index.section("base"), what=what)
    coarse = job.code_means(SymbolReader(stored), None)
    wanted = grid.covering(selection)
    data = read_tiles(read, index, fields.words, wanted, level, what)
    samples = (
        dict(zip(wanted, job.coarse_tiles(coarse[list(wanted)]), strict=True)) if wanted else {}
    )
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
class BrickJob:
    """What encoding and decoding of one brick, and its views, have in common."""

    grid: TileGrid
    parameters: StreamParameters
    prior: Prior
    resources: Resources
    mapping: IntensityMapping
    dtype: np.dtype[np.generic]
    limits: ValueLimits | None

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """The network; asked for only when a tile needs it (never for level 0)."""
        assert self.resources.denoisers is not None
        found: Denoiser = self.resources.denoisers(self.prior, self.resources.device)
        return found

    @property
    def restarts(self) -> bool:
        """The paper's schedule: no block means, level 0 is the prior's mean."""
        return self.parameters.schedule == "restart"

    @property
    def blocks(self) -> int:
        """Blocks per tile side."""
        return self.grid.tile[1] // BLOCK

    @property
    def flat_spread(self) -> int:
        """Spread given to tiles that are coded by their block means alone."""
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
        """Exchange the block means; returns them dequantised per tile, (tiles, blocks^2)."""
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
        coded = code_block_means(port, quantised, (nz, ny * k, nx * k))
        by_tile = coded.reshape(nz, ny, k, nx, k).transpose(0, 1, 3, 2, 4)
        dequantised = by_tile.reshape(len(self.grid), k * k) * step
        return np.clip(dequantised, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)

    def coarse_tiles(self, coarse: Samples) -> NDArray[np.int32]:
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

    def finished(
        self, task: EncodeJob, means: bytes, words: list[list[bytes]], flat: Means, results: Results
    ) -> EncodedBase:
        """The base of a brick from the bytes of its means and of every tile and level."""
        counts = range(len(words[0]))
        sections = [("base", means)]
        sections += [(f"level{k + 1}", b"".join(w[k] for w in words)) for k in counts]
        decoded = self.assemble(flat, results, task.special)
        nbytes = sum(len(data) for _, data in sections)
        tables, covered = self.fit(task.values, decoded, task.special, nbytes)
        share = len(means) // len(self.grid)
        fields = PscFields(
            bytes.fromhex(self.prior.digest[:32]),
            self.prior.tile_shape,
            self.mapping,
            self.parameters,
            tuple(tuple(len(w[k]) // WORD for w in words) for k in counts),
            b"" if tables is None else tables.pack(),
        )
        fields.check_work()
        return EncodedBase(
            "psc",
            fields,
            tuple(sections),
            tuple(level for level, _ in decoded),
            tuple((share, *(len(part) for part in w)) for w in words),
            needs_network=True,
            coverage=covered,
        )

    def is_flat(self, tile: Samples, coarse: Samples) -> bool:
        """Encoder's choice: nothing beyond the block means would be coded."""
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
        size = max(1, limit // self.parameters.particles)
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
