"""Arrays of an archive that volumes of a source become, with bricks or read out of the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adapters.base import Volume
from adapters.errors import SourceError
from pipelines.archiving.value_range import SampledRange
from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.naming import free_name
from psc_volumetric.errors import PscError
from psc_volumetric.tiling import default_brick_shape

__all__ = ["PLAIN_TILE", "kept_variables", "spec_of"]

PLAIN_TILE = (8, 64, 64)


def spec_of(
    volume: Volume,
    name: str,
    tile: tuple[int, int, int],
    prior: str | None,
    parameters: dict[str, Any],
    sampled: SampledRange | None,
) -> VariableSpec:
    """The array that a volume becomes.

    Raises
    ------
    SourceError : kind ``"unsupported-volume"``.
    """
    shape = tuple(volume.array.shape)
    z, y, x = ((1,) * (3 - min(len(shape), 3)) + shape)[-3:]
    try:
        return VariableSpec(
            name=name,
            shape=shape,
            dtype=np.dtype(volume.array.dtype),
            dims=volume.dims,
            brick_shape=default_brick_shape((z, y, x), tile),
            tile_shape=tile,
            unit=volume.unit,
            slope=volume.slope,
            intercept=volume.intercept,
            affine=volume.affine,
            spacing_mm=volume.spacing_mm,
            special_values=sampled.special_values if sampled else volume.special_values,
            attrs=volume.attrs,
            coordinates=(),
            prior=prior,
            parameters=parameters,
            raw_dtype=volume.raw_dtype,
        )
    except PscError as error:
        raise SourceError(
            f"variable {volume.name!r} cannot be coded: {error}", kind="unsupported-volume"
        ) from error


def kept_variables(volumes: Sequence[Volume]) -> Iterator[KeptVariable]:
    """Variables of volumes that are read out of the original; a page is what is read at once."""
    taken: set[str] = set()
    for volume in volumes:
        assert volume.kept is not None
        name = free_name(volume.name, taken)
        taken.add(name)
        rows, columns = volume.array.shape[-2:]
        tile = (1, rows, columns)
        source = {"volume": None if volume.name == name else volume.name}
        spec = spec_of(volume, name, PLAIN_TILE, None, source, None)
        spec = replace(spec, brick_shape=tile, tile_shape=tile)
        kept = volume.kept
        yield KeptVariable(spec, kept.decoder, kept.samples, kept.places)
