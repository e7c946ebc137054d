"""Everything of an archive that is known before the first brick: metadata and coordinates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.attributes import json_safe, plain_attributes
from psc_volumetric.archive.layout import (
    ATTRIBUTE,
    FORMAT,
    METADATA_KEY,
    README_KEY,
    VariableSpec,
    encode_json,
)
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.naming import free_name, settle_dims
from psc_volumetric.archive.readme import readme_text
from psc_volumetric.archive.source import FileLike
from psc_volumetric.archive.stage import Stage
from psc_volumetric.errors import ParameterError

__all__ = ["CoordinateLike", "PlainCoordinate", "Skeleton", "build_skeleton", "world_coordinates"]

ALIGNED = 1e-6


class CoordinateLike(Protocol):
    """Values along one or more axes (``adapters.base.Coordinate``)."""

    @property
    def name(self) -> str:
        """As in the source."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Axis names."""

    @property
    def values(self) -> NDArray[Any]:
        """Stored values."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """JSON-able attributes."""


@dataclass(frozen=True, eq=False)
class PlainCoordinate:
    """A coordinate array of the archive."""

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Digest of dtype, shape and values."""
        head = f"{self.values.dtype.str} {self.values.shape} ".encode()
        return sha256_hex(head + np.ascontiguousarray(self.values).tobytes())


@dataclass(frozen=True)
class Skeleton:
    """Variables with their final axis names, and the coordinate arrays they share."""

    mode: str
    variables: tuple[VariableSpec, ...]
    coordinates: tuple[PlainCoordinate, ...]
    attrs: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Digest of what is being archived and how; a resumed run has to have the same."""
        document = {
            "mode": self.mode,
            "root": self.root_metadata(None),
            "variables": {v.name: v.metadata(self.mode) for v in self.variables},
            "coordinates": {c.name: [list(c.dims), c.fingerprint] for c in self.coordinates},
        }
        return sha256_hex(encode_json(document))

    def root_metadata(self, created: str | None) -> dict[str, Any]:
        """``zarr.json`` of the root group."""
        own = {
            "format": FORMAT,
            "mode": self.mode,
            "created": created,
            "variables": [v.name for v in self.variables],
            "coordinates": [c.name for c in self.coordinates],
            "sources": list(self.sources),
            "priors": sorted({v.prior for v in self.variables if v.prior is not None}),
            "provenance": dict(self.provenance),
        }
        attributes = json_safe({**self.attrs, ATTRIBUTE: own})
        beside = sorted(c.name for c in self.coordinates if c.dims != (c.name,))
        if beside:
            attributes["coordinates"] = " ".join(beside)
        return {"zarr_format": 3, "node_type": "group", "attributes": attributes}

    def write(self, stage: Stage, put: Callable[[str, bytes], None], created: str | None) -> None:
        """Write all keys; ``put(key, bytes)`` for the documents, ``stage`` for the arrays."""
        for coordinate in self.coordinates:
            stage.fill(
                coordinate.name,
                coordinate.values,
                dims=coordinate.dims,
                attributes=plain_attributes(coordinate.attrs, coordinate.values.dtype),
            )
        stage.flush()
        for variable in self.variables:
            put(f"{variable.name}/{METADATA_KEY}", encode_json(variable.metadata(self.mode)))
        put(README_KEY, readme_text(self.mode, self.variables).encode())
        put(METADATA_KEY, encode_json(self.root_metadata(created)))


def build_skeleton(
    mode: str,
    variables: Sequence[VariableSpec],
    coordinates: Mapping[str, Sequence[CoordinateLike]],
    *,
    attrs: Mapping[str, Any],
    sources: Sequence[FileLike],
    provenance: Mapping[str, Any],
) -> Skeleton:
    """Settle names so that all variables and coordinates fit one flat group.

    Axes and coordinates with the same name but another size or other values get ``_2``, ``_3`` ...
    behind their name. Coordinates that are not numbers stay in ``source/`` only. Axis-aligned
    spatial variables without coordinates get z, y, x in millimetres.
    """
    names = [v.name for v in variables]
    if len(set(names)) != len(names):
        raise ParameterError(
            f"expected variables of different names, found {names!r}",
            kind="bad-variables",
        )
    given = {v.name: _plain(v, coordinates.get(v.name, ())) for v in variables}
    settled = settle_dims({v.name: _axes(v, given[v.name]) for v in variables})
    shared: dict[str, PlainCoordinate] = {}
    final = []
    for variable in variables:
        renamed = dict(zip(variable.dims, settled[variable.name], strict=True))
        held = []
        for coordinate in given[variable.name]:
            own = replace(coordinate, dims=tuple(renamed.get(d, d) for d in coordinate.dims))
            wanted = renamed.get(own.name, own.name) if len(own.dims) == 1 else own.name
            same = [
                c.name
                for c in shared.values()
                if c.name.startswith(wanted)
                and c.dims == own.dims
                and c.fingerprint == own.fingerprint
            ]
            name = same[0] if same else free_name(wanted, {*names, *shared})
            shared.setdefault(name, replace(own, name=name))
            held.append(name)
        final.append(
            replace(variable, dims=settled[variable.name], coordinates=tuple(sorted(held)))
        )
    digests = tuple({"size": f.size, "sha256": f.sha256} for f in sources)
    return Skeleton(mode, tuple(final), tuple(shared.values()), attrs, digests, provenance)


def _plain(variable: VariableSpec, coordinates: Sequence[CoordinateLike]) -> list[PlainCoordinate]:
    plain = []
    for coordinate in coordinates:
        values = np.asarray(coordinate.values)
        if values.dtype.kind in "biuf" and values.dtype.itemsize <= 8 and values.size:
            values = values.astype(values.dtype.newbyteorder("="))
            plain.append(
                PlainCoordinate(coordinate.name, tuple(coordinate.dims), values, coordinate.attrs)
            )
    held = {c.name for c in plain}
    return plain + [c for c in world_coordinates(variable) if c.name not in held]


def _axes(
    variable: VariableSpec, coordinates: Sequence[PlainCoordinate]
) -> list[tuple[str, Hashable]]:
    own = {c.name: c.fingerprint for c in coordinates if c.dims == (c.name,)}
    return [
        (dim, (size, own.get(dim))) for dim, size in zip(variable.dims, variable.shape, strict=True)
    ]


def world_coordinates(variable: VariableSpec) -> list[PlainCoordinate]:
    """Millimetres along the last three axes when each runs along one world axis; else none."""
    if variable.affine is None or variable.ndim < 3:
        return []
    linear, origin = np.asarray(variable.affine)[:3, :3], np.asarray(variable.affine)[:3, 3]
    size = np.abs(linear)
    world = size.argmax(axis=0)
    rest = size.sum(axis=0) - size.max(axis=0)
    if len(set(world.tolist())) != 3 or (rest > ALIGNED * size.max(axis=0)).any():
        return []
    found = []
    for axis in range(3):
        dim, count = variable.dims[axis - 3], variable.shape[axis - 3]
        row = int(world[axis])
        values = origin[row] + linear[row, axis] * np.arange(count)
        attrs = {"units": "mm", "long_name": f"world {'xyz'[row]} (RAS+)", "world_axis": "xyz"[row]}
        found.append(PlainCoordinate(dim, (dim,), values, attrs))
    return found
