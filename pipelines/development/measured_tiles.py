"""Tiles of given volumes, and what one setting of the codec makes of them; for measurements.

Tiles are coded side by side as one brick, and every byte of that brick counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan, VariablePlan, brick_prior, open_item, plan
from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    IntensityMapping,
    TileRecord,
    encode_brick,
)
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.psc import quantiser
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.methods.psc.trust import offering
from psc_volumetric.metrics import rate_bpv
from psc_volumetric.prior import Prior
from psc_volumetric.prior.trusted import Network
from psc_volumetric.tiling import TileGrid
from psc_volumetric.values.mapping import integer_mapping, normalise
from psc_volumetric.values.special import SpecialMap

__all__ = [
    "CountedNetwork",
    "PriorName",
    "Sources",
    "TileCount",
    "TilePoint",
    "Tiles",
    "code_tiles",
    "counted",
    "numbers",
    "psnr_of",
    "tiles_of",
]

# Options of every measurement on tiles.
Sources = Annotated[list[Path], typer.Argument(help="Files and folders with volumes.")]
TileCount = Annotated[int, typer.Option(help="Tiles over all volumes.")]
PriorName = Annotated[
    str | None, typer.Option(help="Name or folder; default: what fits the first source.")
]

PEAK = 2.0  # range of normalised values
UNIT = 1 << SAMPLE_FRACTION_BITS

Tiles = NDArray[np.float32]


class CountedNetwork:
    """A network that counts on how many tiles it was evaluated."""

    def __init__(self, network: Network) -> None:
        self.network, self.evaluations = network, 0

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Count and run."""
        self.evaluations += len(x)
        return self.network(x, level)


def counted(denoiser: Denoiser) -> CountedNetwork:
    """Put a counter around the network of a denoiser, and return it."""
    counter = CountedNetwork(denoiser.network)
    denoiser.network = counter
    return counter


@dataclass(frozen=True)
class TilePoint:
    """What one setting makes of some tiles.

    Attributes
    ----------
    rate_bpv, psnr_db : float
        Over all tiles together; the peak is the range of normalised values.
    evaluations, seconds : float
        Network evaluations and CPU seconds, per tile.
    header_bpv : float
        Part of the rate that is header, index and sigma tables: the same for any number of tiles,
        so the more of it the fewer tiles there are. 0 where none is counted.
    earlier : int
        Tiles that had better ended at an earlier level, at the slope that symbols are rounded with.
    """

    rate_bpv: float
    psnr_db: float
    evaluations: float
    seconds: float
    header_bpv: float = 0.0
    earlier: int = 0


def psnr_of(error: float) -> float:
    """PSNR in dB of a mean squared error of normalised values."""
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers with commas between, found {text!r}") from error


def tiles_of(
    sources: Sequence[Path], count: int, prior_name: str | None = None
) -> tuple[Tiles, Prior]:
    """Normalised tiles from the middle of volumes, as many of each as the count allows.

    Parameters
    ----------
    sources : sequence of Path
        Files and folders.
    count : int
        Tiles in all; every volume gives the tiles nearest the centre of its middle frame.
    prior_name : str, optional
        Name or folder; None takes what the first source suggests.

    Returns
    -------
    tiles : (n, slices, tile, tile) float32
    prior : Prior

    Raises
    ------
    ParameterError
        No volume that a prior can code (kind ``"no-tiles"``).
    """
    options = ArchiveOptions(mode="lossy", base="psc", prior=prior_name)
    volumes = [found for source in sources for found in _volumes(source, options)]
    names = [item.prior for item, _ in volumes if item.prior is not None]
    if not names or count < 1:
        raise ParameterError(
            f"expected a volume that a prior can code and at least one tile, found {len(names)} "
            f"such volumes and {count} tiles",
            kind="no-tiles",
        )
    prior = brick_prior(names[0])
    shares = [len(part) for part in np.array_split(np.arange(count), len(volumes))]
    parts = [
        _central(item, variable, prior, share)
        for (item, variable), share in zip(volumes, shares, strict=True)
        if share
    ]
    return np.concatenate(parts), prior


def _volumes(source: Path, options: ArchiveOptions) -> Iterator[tuple[ItemPlan, VariablePlan]]:
    for item in plan(source, "unused.psc.zarr", options).items:
        for variable in item.variables:
            if variable.is_lossy and variable.range is not None:
                yield item, variable


def _central(item: ItemPlan, variable: VariablePlan, prior: Prior, count: int) -> Tiles:
    """Tiles nearest the centre of the middle frame, (count or fewer, slices, tile, tile)."""
    volume = next(v for v in open_item(item.candidate).volumes if v.name == variable.volume)
    axes = len(volume.array.shape)
    shape = (1,) * (3 - min(axes, 3)) + tuple(volume.array.shape)
    frame = tuple(slice(n // 2, n // 2 + 1) for n in shape[:-3])
    grid = TileGrid((shape[-3], shape[-2], shape[-1]), prior.tile_shape)
    middle = (np.array(grid.counts) - 1) / 2
    away = [float(np.square(np.array(grid.position(n)) - middle).sum()) for n in range(len(grid))]
    tiles = []
    for number in np.argsort(away, kind="stable")[:count]:
        box = (*frame, *grid.box(int(number)))[-axes:]
        tiles.append(_normalised(np.asarray(volume.array[box]), variable, prior))
    return np.stack(tiles)


def _normalised(values: NDArray[Any], variable: VariablePlan, prior: Prior) -> Tiles:
    """One tile, edges repeated where the volume ends in it, special values filled."""
    sampled = variable.range
    assert sampled is not None
    values = values.reshape(((1,) * 3 + values.shape)[-3:])
    special = SpecialMap.find(values, variable.spec.special_values)
    clean = values if special is None else special.fill(values, sampled.low)
    mapping = integer_mapping(IntensityMapping(sampled.low, sampled.high), values.dtype)
    z, y, x = values.shape
    samples = TileGrid((z, y, x), prior.tile_shape).split(normalise(clean, mapping))
    tile: Tiles = samples[0].astype(np.float32) / np.float32(UNIT)
    return tile


def code_tiles(tiles: Tiles, parameters: CodecParameters, denoiser: Denoiser) -> TilePoint:
    """Encode tiles as one brick of base ``psc``; errors are those of its last level.

    Parameters
    ----------
    tiles : (n, slices, tile, tile) float32
        Normalised values.
    parameters : CodecParameters
    denoiser : Denoiser
        Carrier of the network; decoding takes as many evaluations as encoding.
    """
    values = np.concatenate(list(tiles), axis=2)
    counter = counted(denoiser)
    start = time.process_time()
    try:
        coded = encode_brick(
            values,
            position=(0,),
            shape=(values.shape[0], values.shape[1], values.shape[2]),
            mapping=IntensityMapping(-1.0, 1.0),
            parameters=parameters,
            prior=denoiser.prior,
            options=BrickOptions(
                device="cpu",
                base="psc",
                denoisers=offering(denoiser),
            ),
        )
    finally:
        denoiser.network = counter.network
    seconds = time.process_time() - start
    payload = sum(section.nbytes for section in coded.index.sections)
    return TilePoint(
        rate_bpv(len(coded.data), values.size),
        psnr_of(float(np.mean([record.mse[-1] for record in coded.records]))),
        counter.evaluations / len(tiles),
        seconds / len(tiles),
        rate_bpv(len(coded.data) - payload, values.size),
        sum(_ends_late(record, tiles[0].size, parameters.step) for record in coded.records),
    )


def _ends_late(record: TileRecord, voxels: int, step: float) -> bool:
    """Whether squared error + slope x bits is less at an earlier level than at the last."""
    slope = quantiser.THRIFT * step**2
    bits = 8 * np.cumsum(record.nbytes)
    cost = np.asarray(record.mse) * voxels + slope * bits
    return bool(cost[:-1].min() < cost[-1])
