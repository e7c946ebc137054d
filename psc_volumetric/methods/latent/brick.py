"""A brick of the method ``latent``. Part of the format (SPEC section 3.12).

Slices are cut into tiles, and each tile is coded as a latent by the loop of the paper of PSC
(:mod:`psc_volumetric.methods.psc.adasense`). Level 0 is what the prompt alone says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.arrays import Values
from psc_volumetric.bitstream.value_limits import ValueLimits, saturate
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.entropy.symbols import SymbolPort, SymbolReader, SymbolWriter
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.latent.parameters import latent_parameters
from psc_volumetric.methods.latent.prompt import pack_prompt
from psc_volumetric.methods.latent.space import LatentCoder
from psc_volumetric.methods.protocol import EncodedBase, EncodeJob
from psc_volumetric.methods.psc.adasense import restart
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.fields import WORD, StreamParameters
from psc_volumetric.methods.psc.loop import TileBatch
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.sigma.fit import LevelErrors, fit_tables
from psc_volumetric.sigma.tables import SPREAD_BITS, SigmaTables, coverage, voxel_classes
from psc_volumetric.tiling import Box, TileGrid
from psc_volumetric.values.mapping import (
    IntensityMapping,
    denormalise,
    integer_mapping,
    normalise,
)
from psc_volumetric.values.special import SpecialMap

__all__ = ["LatentBrick", "encode_latent"]

PARTICLES_PER_BATCH = {"cpu": 256, "cuda": 1024}

Integers = NDArray[np.int32]
Tiles = dict[int, Integers]  # number -> samples (1, y, x)
NOTHING = torch.zeros((1, 0), dtype=torch.int64)  # there are no block means


@dataclass(frozen=True)
class LatentBrick:
    """What encoding and decoding of one brick have in common."""

    grid: TileGrid
    parameters: StreamParameters
    mapping: IntensityMapping
    dtype: np.dtype[np.generic]
    limits: ValueLimits | None
    coder: LatentCoder
    denoiser: Denoiser

    def batches(self, numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Tiles that run side by side; never changes a bit."""
        limit = PARTICLES_PER_BATCH[self.coder.device.type]
        size = max(1, limit // self.parameters.particles)
        for first in range(0, len(numbers), size):
            yield tuple(numbers[first : first + size])

    def run(
        self,
        tiles: tuple[int, ...],
        ports: Sequence[SymbolPort],
        source: torch.Tensor | None,
        levels: set[int],
    ) -> Iterator[tuple[int, Integers]]:
        """The loop on some tiles: each wanted level with its samples (tiles, 1, y, x)."""
        batch = TileBatch(tiles, ports, source, NOTHING)
        for result in restart(self.denoiser, self.parameters, batch, levels=levels):
            yield result.level, self.coder.pixels(result.mean.cpu().numpy())

    def decoded(self, data: dict[int, bytes], level: int) -> Tiles:
        """Samples of tiles at a level, from their words up to it."""
        found: Tiles = {}
        for tiles in self.batches(list(data)):
            ports = [SymbolReader(data[n]) for n in tiles]
            for _, samples in self.run(tiles, ports, None, {level}):
                found.update(zip(tiles, samples, strict=True))
        return found

    @property
    def sigma_unit(self) -> np.float32:
        """Stored units in one unit of a sigma."""
        return np.float32((self.mapping.high - self.mapping.low) / (2 << SPREAD_BITS))

    def stored(
        self, tiles: Tiles, selection: Box, special: SpecialMap | None
    ) -> tuple[Values, NDArray[np.uint16]]:
        """Stored values of a region, and classes of its voxels."""
        shape = tuple(s.stop - s.start for s in selection)
        out, classes = np.empty(shape, self.dtype), np.empty(shape, np.uint16)
        for n, inside, target in self.grid.overlaps(selection, tuple(tiles)):
            values = denormalise(tiles[n][inside], self.mapping, self.dtype)
            out[target] = saturate(values, self.limits)
            classes[target] = voxel_classes(tiles[n], 0)[inside]
        if special is not None:
            special.apply(out, selection)
        return out, classes


@one_thread()
def encode_latent(task: EncodeJob, coder: LatentCoder) -> EncodedBase:
    """Encode a brick in the latent space of a prior.

    Raises
    ------
    ParameterError
        The brick is not made of whole tiles, or the prior is one that only decodes.
    """
    prior, header, space = task.prior, task.header, coder.space
    assert prior is not None
    if prior.analysis is None:
        raise ParameterError(
            f"prior {prior.name!r}: expected a network from pixels to latents, found none",
            kind="prior-missing",
            hint="archives embed what decoding needs; code with the folder of the prior",
        )
    if any(s % t for s, t in zip(header.shape, space.voxels, strict=True)):
        raise ParameterError(
            f"brick {header.shape} is not made of whole tiles {space.voxels}", kind="bad-shape"
        )
    mapping = integer_mapping(task.mapping, header.dtype)
    mixed = task.seed ^ crc32c(np.array(header.position, "<i8").tobytes())
    elements = int(np.prod(prior.tile_shape))
    chosen = latent_parameters(task.parameters, prior.levels, elements, mixed & 0xFFFFFFFF)
    grid = TileGrid(header.valid, space.voxels)
    brick = LatentBrick(
        grid, chosen, mapping, header.dtype, task.limits, coder, coder.denoiser(prior.prompt)
    )
    special = task.special
    clean = task.values if special is None else special.fill(task.values, mapping.low)
    pixels = grid.split(normalise(clean, mapping)).astype(np.int32)
    latents = coder.latents(pixels, prior.analysis)
    count = 1 + len(chosen.level_ends)
    words: list[list[bytes]] = []
    found: list[Tiles] = [{} for _ in range(count)]
    for tiles in brick.batches(range(len(grid))):
        ports = [SymbolWriter() for _ in tiles]
        source = torch.from_numpy(latents[list(tiles)]).long().to(coder.device)
        for level, samples in brick.run(tiles, ports, source, set(range(count))):
            found[level].update(zip(tiles, samples, strict=True))
            for port in ports if level else ():
                port.mark()
        words += [port.finish() for port in ports]
    vocabulary = 0 if space.words is None else len(space.words.tokens)
    return _finished(task, brick, pack_prompt(prior.prompt, vocabulary), words, found)


def _finished(
    task: EncodeJob, brick: LatentBrick, prompt: bytes, words: list[list[bytes]], tiles: list[Tiles]
) -> EncodedBase:
    """The base of a brick, with sigma measured."""
    whole = tuple(slice(0, extent) for extent in brick.grid.valid)
    selection: Box = (whole[0], whole[1], whole[2])
    decoded = [brick.stored(each, selection, task.special) for each in tiles]
    sections = [("base", prompt)]
    levels = range(len(brick.parameters.level_ends))
    sections += [(f"level{k + 1}", b"".join(own[k] for own in words)) for k in levels]
    nbytes = sum(len(data) for _, data in sections)
    tables, covered = _measured(task, brick, decoded, nbytes)
    fields = LatentFields(
        bytes.fromhex(brick.coder.prior.digest[:32]),
        brick.grid.tile,
        brick.mapping,
        brick.parameters,
        tuple(tuple(len(own[k]) // WORD for own in words) for k in levels),
        b"" if tables is None else tables.pack(),
    )
    fields.check_work()
    share = len(prompt) // len(brick.grid)
    return EncodedBase(
        "latent",
        fields,
        tuple(sections),
        tuple(values for values, _ in decoded),
        tuple((share, *map(len, own)) for own in words),
        needs_network=True,
        coverage=covered,
    )


def _measured(
    task: EncodeJob,
    brick: LatentBrick,
    decoded: list[tuple[Values, NDArray[np.uint16]]],
    nbytes: int,
) -> tuple[SigmaTables | None, tuple[tuple[float, float, float], ...]]:
    """Sigma tables from the errors of all levels, and what they cover."""
    keep = np.ones(task.values.shape, bool) if task.special is None else task.special.index == 0
    source, unit = task.values[keep], brick.sigma_unit
    exact = source.astype(np.float64)
    errors = [
        LevelErrors(classes[keep], np.abs(values[keep].astype(np.float64) - exact))
        for values, classes in decoded
    ]
    rounded = brick.dtype.kind in "iu"
    tables = fit_tables(errors, unit=float(unit), rounded=rounded, nbytes=nbytes)
    if tables is None:
        return None, ()
    covered = [
        coverage(source, values[keep], tables.sigma(k, own.classes).astype(np.float32) * unit)
        for k, ((values, _), own) in enumerate(zip(decoded, errors, strict=True))
    ]
    return tables, tuple(covered)
