"""An archive whose values are read out of kept originals, once more, with values of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.archiving.variable_specs import PLAIN_TILE
from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.skeleton import Beside
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.codec import BrickOptions, CodecParameters, Guarantee, encode_brick
from psc_volumetric.tiling import default_brick_shape

__all__ = ["write_values"]

Values = NDArray[Any]
Bricks = list[tuple[tuple[int, ...], Values]]  # position, (z, y, x) values


def write_values(reader: ArchiveReader, place: Path) -> None:
    """Write an archive with the same variables as bricks, exactly, and without the source files.

    Parameters
    ----------
    reader : ArchiveReader
        Its variables are read out of originals.
    place : Path
        Of the new archive.

    Raises
    ------
    FormatError : an original cannot be decoded.
    """
    coordinates = reader.metadata.get("coordinates", ())
    every = [_in_bricks(kept) for kept in reader.kept.values()]
    named = {s.name: [reader.coordinate(n) for n in s.coordinates if n in coordinates]
             for s in every}  # fmt: skip
    kind = reader.metadata.get("provenance", {}).get("source_kind")
    writer = ArchiveWriter.create(
        place,
        mode=reader.mode,
        variables=every,
        beside=Beside(named),
        provenance={"source_kind": kind},
    )
    for spec in every:
        for position, values in (b for slab in _slabs(reader, spec) for b in slab):
            writer.write_brick(spec.name, position, _encoded(spec, position, values), values=values)
    writer.seal()


def _in_bricks(kept: KeptVariable) -> VariableSpec:
    spec = kept.spec
    z, y, x = ((1,) * (3 - min(spec.ndim, 3)) + spec.shape)[-3:]
    shape = default_brick_shape((z, y, x), PLAIN_TILE)
    parameters = {**spec.parameters, "mode": "lossless"}
    return replace(spec, brick_shape=shape, tile_shape=PLAIN_TILE, parameters=parameters)


def _encoded(spec: VariableSpec, position: tuple[int, ...], values: Values) -> Any:
    return encode_brick(
        values,
        position=position,
        shape=spec.brick_shape,
        mapping=None,
        parameters=CodecParameters(),
        prior=None,
        guarantee=Guarantee("lossless", is_light=True),
        options=BrickOptions(special_values=spec.special_values, tile_shape=spec.tile_shape),
    )


def _slabs(reader: ArchiveReader, spec: VariableSpec) -> Iterator[Bricks]:
    """Bricks that lie side by side: a page of an original is decoded once for all of them."""
    array, samples = reader.kept_array(spec.name), reader.kept[spec.name].samples is not None
    depth = spec.chunk_shape[-3] if spec.ndim > 2 else 1
    whole = [slice(0, size) for size in spec.shape[-2:]]
    lead, pages = (spec.shape[: spec.lead], spec.shape[-3]) if spec.ndim > 2 else ((), 1)
    taken = [tuple(slice(0, n) for n in lead)] if samples else [
        tuple(slice(n, n + 1) for n in index) for index in np.ndindex(*lead)
    ]  # fmt: skip
    for before in taken:
        for first in range(0, pages, depth):
            deep = [slice(first, min(first + depth, pages))] if spec.ndim > 2 else []
            values = array[(*before, *deep, *whole)]
            origin = [part.start for part in (*before, *deep)] + [0, 0]
            yield list(_cut(spec, values, origin))


def _cut(spec: VariableSpec, values: Values, origin: list[int]) -> Iterator[Any]:
    """Bricks inside values that begin at a place of the array."""
    ranges = [
        range(start // chunk, -(-(start + size) // chunk))
        for start, size, chunk in zip(origin, values.shape, spec.chunk_shape, strict=True)
    ]
    for number in np.ndindex(*map(len, ranges)):
        position = tuple(r[n] for r, n in zip(ranges, number, strict=True))
        box = spec.box(position)
        inside = tuple(
            slice(part.start - start, part.stop - start)
            for part, start in zip(box, origin, strict=True)
        )
        yield position, np.ascontiguousarray(values[inside]).reshape(spec.valid(position))
