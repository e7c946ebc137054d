"""The middle of every volume or picture of a folder, and PSC with numbers of one's own choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import brick_prior, open_item, plan
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    EncodedBrick,
    IntensityMapping,
    encode_brick,
)
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.latent.fields import parameters_of
from psc_volumetric.methods.latent.parameters import falling_levels, latent_parameters
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.parameters import PAPER_RESTORED, stream_parameters
from psc_volumetric.prior import Prior, load_prior
from psc_volumetric.prior.bundle import AUTOENCODER, LATENT

__all__ = ["Crop", "Published", "compress", "crops_of"]

MOST_PASSES = 16
Values = NDArray[np.generic]


@dataclass(frozen=True)
class Published(CodecParameters):
    """The paper's setting with other numbers of samples, rows and steps, and one level.

    Attributes
    ----------
    samples, rank, steps : int
        Posterior samples and rows of a round, and DDRM steps of a sample.
    """

    setting: str = "paper"
    samples: int = 16
    rank: int = 12
    steps: int = 25


@stream_parameters.register
def _published(
    chosen: Published, levels: int, seed: int, *, coarser: float = 1.0
) -> StreamParameters:
    plain = CodecParameters(setting="paper", step=chosen.step, rounds=chosen.rounds)
    full = stream_parameters(plain, levels, seed, coarser=coarser)
    times = np.linspace(levels - 1, full.noise_levels[-1], min(chosen.steps, levels))
    noise = full.noise_levels if chosen.steps == len(full.noise_levels) else np.rint(times)
    passes = min(MOST_PASSES, max(1, PAPER_RESTORED // chosen.samples))
    return replace(
        full,
        noise_levels=tuple(int(level) for level in noise),
        particles=chosen.samples,
        rows_per_round=chosen.rank,
        restorations=passes,
        level_ends=(chosen.rounds,),
    )


@latent_parameters.register
def _published_latent(chosen: Published, levels: int, elements: int, seed: int) -> StreamParameters:
    passes = min(MOST_PASSES, max(1, PAPER_RESTORED // chosen.samples))
    noise = falling_levels(chosen.steps, levels)
    rounds = min(chosen.rounds, max(1, elements // chosen.rank))
    return parameters_of(chosen.samples, chosen.rank, passes, seed, noise, (rounds,))


@dataclass(frozen=True, eq=False)
class Crop:
    """The middle of a volume.

    Attributes
    ----------
    name : str
    values : (z, y, x) array
        Stored values.
    mapping : IntensityMapping
    special : tuple of float
        Stored values that are not measurements.
    prior : Prior
    """

    name: str
    values: Values
    mapping: IntensityMapping
    special: tuple[float, ...]
    prior: Prior


def crops_of(
    folder: Path,
    size: int,
    prior_name: str | None = None,
    prompt: str | None = None,
    places: int = 1,
) -> Iterator[Crop]:
    """The middle of every volume and picture in a folder, one tile deep, ``size`` voxels wide.

    With several ``places`` as many parts, evenly along the diagonal of the volume. A latent prior
    is told the prompt, or what a DICOM file says.

    Raises
    ------
    ParameterError : nothing there that a prior can code (kind ``"no-tiles"``).
    """
    base = "psc" if prior_name is None else base_of(load_prior(prior_name))
    options, found = ArchiveOptions(mode="lossy", base=base, prior=prior_name, prompt=prompt), 0
    for item in plan(folder, "unused", options).items:
        for variable in item.variables:
            if not variable.is_lossy or variable.range is None or item.prior is None:
                continue
            prior, found = brick_prior(item.prior, item.options.prompt), found + 1
            depth = (prior.voxels or prior.tile_shape)[0]
            volume = next(v for v in open_item(item.candidate).volumes if v.name == variable.volume)
            shape = volume.array.shape
            extents = (*[1] * (len(shape) - 3), depth, size, size)[-len(shape) :]
            mapping = IntensityMapping(variable.range.low, variable.range.high)
            name = f"{item.candidate.name}-{variable.spec.name}".replace("/", "-")
            for place, box in enumerate(_boxes(shape, extents, places)):
                values = np.asarray(volume.array[box])
                values = values.reshape(((1,) * 3 + values.shape)[-3:])
                own = name if places == 1 else f"{name}-{place}"
                yield Crop(own, values, mapping, variable.spec.special_values, prior)
    if not found:
        raise ParameterError(
            f"{folder}: expected a volume or picture that a prior can code, found none",
            kind="no-tiles",
        )


def _boxes(
    shape: tuple[int, ...], extents: tuple[int, ...], places: int
) -> Iterator[tuple[slice, ...]]:
    """Parts of a volume, evenly along its diagonal."""
    parts = [min(n, wanted) for n, wanted in zip(shape, extents, strict=True)]
    for place in range(1, places + 1):
        starts = [(n - m) * place // (places + 1) for n, m in zip(shape, parts, strict=True)]
        yield tuple(slice(s, s + m) for s, m in zip(starts, parts, strict=True))


def base_of(prior: Prior) -> str:
    """The method that codes with a prior: one of PSC, or two stages."""
    return {LATENT: "latent", AUTOENCODER: "two-stage"}.get(prior.kind, "psc")


def compress(crop: Crop, parameters: CodecParameters) -> EncodedBrick:
    """Code a crop as one brick of the method that its prior is for."""
    tile = crop.prior.voxels or crop.prior.tile_shape
    z, y, x = (-(-n // t) * t for n, t in zip(crop.values.shape, tile, strict=True))
    return encode_brick(
        crop.values,
        position=(0,),
        shape=(z, y, x),
        mapping=crop.mapping,
        parameters=parameters,
        prior=crop.prior,
        options=BrickOptions(base=base_of(crop.prior), special_values=crop.special),
    )
