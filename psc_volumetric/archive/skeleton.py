"""Everything of an archive that is known before the first brick: metadata and coordinates."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.attributes import json_safe, typed_attributes
from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.layout import (
    ATTRIBUTE,
    FORMAT,
    METADATA_KEY,
    README_KEY,
    VariableSpec,
    encode_json,
    told,
)
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.naming import (
    check_name,
    free_name,
    group_of,
    node_path,
    settle_dims,
)
from psc_volumetric.archive.plain import ArrayLike, stage_array
from psc_volumetric.archive.readme import readme_text, specification_files
from psc_volumetric.archive.source import FileLike, source_digest
from psc_volumetric.errors import ParameterError

if TYPE_CHECKING:
    from psc_volumetric.archive.stage import Stage

__all__ = [
    "Beside",
    "CoordinateLike",
    "PlainCoordinate",
    "Skeleton",
    "build_skeleton",
    "world_coordinates",
]

ALIGNED = 1e-6
WHERE = "psc_values"  # attribute of the root, for who has opened it with plain Zarr


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
    def array(self) -> NDArray[Any]:
        """The values, as for any other plain array."""
        return self.values

    @property
    def fingerprint(self) -> str:
        """Digest of dtype, shape and values."""
        head = f"{self.values.dtype.str} {self.values.shape} ".encode()
        if self.values.dtype.kind == "O":
            return sha256_hex(head + json.dumps(self.values.tolist()).encode())
        return sha256_hex(head + np.ascontiguousarray(self.values).tobytes())


@dataclass(frozen=True)
class Beside:
    """What an archive holds beside its variables.

    Attributes
    ----------
    coordinates : mapping
        Variable name -> its coordinates.
    arrays : sequence
        Other arrays of the source; written when the archive is begun, block by block.
    groups : mapping
        Path of each group of the source (``""`` is the root) -> its attributes.
    specification : bool
        The specification of the format and its tables.
    kept : sequence
        Variables whose values are read out of kept originals.
    outside : mapping
        Digest -> name of the priors that bricks may need and that are left out of the archive,
        since they ship with this package.
    """

    coordinates: Mapping[str, Sequence[CoordinateLike]] = field(default_factory=dict)
    arrays: Sequence[ArrayLike] = ()
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    specification: bool = False
    kept: Sequence[KeptVariable] = ()
    outside: Mapping[str, str] = field(default_factory=dict)


NOTHING_BESIDE = Beside()


@dataclass(frozen=True)
class Skeleton:
    """Variables with their final axis names, the plain arrays beside them, and groups.

    ``coordinates`` were made or merged for these variables; ``arrays`` are arrays of the source
    under their own names; ``groups`` maps the path of each group (``""`` is the root) to its
    attributes. With ``self_contained`` the specification and its tables are in the tree; priors of
    ``outside``, digest -> name, are not.
    """

    mode: str
    variables: tuple[VariableSpec, ...]
    coordinates: tuple[PlainCoordinate, ...]
    arrays: tuple[ArrayLike, ...]
    groups: Mapping[str, Mapping[str, Any]]
    source: Mapping[str, Any]
    provenance: Mapping[str, Any]
    self_contained: bool = False
    kept: tuple[KeptVariable, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Digest of what is being archived and how; a resumed run has to have the same.

        Values of ``arrays`` are not in it: they are the source's, whose digest is.
        """
        document: dict[str, Any] = {
            "mode": self.mode,
            "root": self.root_metadata(None),
            "variables": {v.name: v.metadata(self.mode) for v in self.variables},
            "coordinates": {c.name: [list(c.dims), c.fingerprint] for c in self.coordinates},
            "arrays": [
                [a.name, list(a.dims), list(a.array.shape), typed_attributes(a.attrs)]
                for a in self.arrays
            ],
            "groups": {path: typed_attributes(attrs) for path, attrs in self.groups.items()},
        }
        if self.self_contained:
            document["self_contained"] = True
        if self.outside:
            document["outside"] = sorted(self.outside)
        return sha256_hex(encode_json(document))

    @property
    def beside(self) -> list[str]:
        """Nodes that are not bricks' arrays: plain arrays and groups."""
        names = [c.name for c in self.coordinates] + [a.name for a in self.arrays]
        return [node_path(name) for name in (*names, *filter(None, self.groups))]

    def root_metadata(self, created: str | None) -> dict[str, Any]:
        """``zarr.json`` of the root group."""
        attributes = typed_attributes(self.groups.get("", {}))
        own = {
            **attributes.pop(ATTRIBUTE),
            "format": FORMAT,
            "mode": self.mode,
            "created": created,
            "variables": [v.name for v in self.variables],
            "coordinates": [c.name for c in self.coordinates],
            "arrays": [a.name for a in self.arrays],
            "groups": [path for path in self.groups if path],
            "kept": [kept.to_dict(self.mode) for kept in self.kept],
            "source": dict(self.source),
            "priors": sorted({v.prior for v in self.variables if v.prior is not None}),
            "provenance": dict(self.provenance),
        }
        beside = sorted(c.name for c in self.coordinates if c.dims != (c.name,))
        if beside:
            attributes.setdefault("coordinates", " ".join(beside))
        if self.kept:
            names = ", ".join(kept.spec.name for kept in self.kept)
            attributes.setdefault(WHERE, f"{names}: in the source file; open with engine='psc'")
        return _group_document({**attributes, ATTRIBUTE: json_safe(told(own))})

    def write(self, stage: Stage, put: Callable[[str, bytes], None], created: str | None) -> None:
        """Write all keys; ``put(key, bytes)`` for the documents, ``stage`` for the arrays."""
        for plain in (*self.coordinates, *self.arrays):
            stage_array(stage, plain)
        for variable in self.variables:
            put(f"{variable.node}/{METADATA_KEY}", encode_json(variable.metadata(self.mode)))
        for path, attrs in self.groups.items():
            if path:
                document = _group_document(typed_attributes(attrs))
                put(f"{node_path(path)}/{METADATA_KEY}", encode_json(document))
        inside = specification_files() if self.self_contained else {}
        for key, content in inside.items():
            put(key, content)
        kept = [one.spec for one in self.kept]
        text = readme_text(
            self.mode,
            self.variables,
            kept,
            self_contained=self.self_contained,
            outside=self.outside.values(),
        )
        put(README_KEY, text.encode())
        put(METADATA_KEY, encode_json(self.root_metadata(created)))


def _group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def build_skeleton(
    mode: str,
    variables: Sequence[VariableSpec],
    beside: Beside,
    *,
    sources: Sequence[FileLike],
    provenance: Mapping[str, Any],
) -> Skeleton:
    """Settle names so that variables and coordinates of a group fit one dataset.

    Axes and coordinates with the same name but another size, other values or other attributes get
    ``_2``, ``_3`` ... behind their name. Axis-aligned spatial variables without coordinates get
    z, y, x in millimetres.

    Raises
    ------
    ParameterError : two arrays of one name (kind ``"bad-name"``).
    """
    every = [*variables, *(kept.spec for kept in beside.kept)]
    names = [*(v.name for v in every), *(a.name for a in beside.arrays)]
    if len(set(names)) != len(names):
        raise ParameterError(f"expected different names, found {names!r}", kind="bad-name")
    for array in beside.arrays:
        check_name(array.name, what="array")
    given = {v.name: _plain(v, beside.coordinates.get(v.name, ())) for v in every}
    settled = settle_dims({v.name: _axes(v, given[v.name]) for v in every})
    shared: dict[Hashable, PlainCoordinate] = {}
    taken = set(names)
    final = []
    for variable in every:
        renamed = dict(zip(variable.dims, settled[variable.name], strict=True))
        held = set()
        for coordinate in given[variable.name]:
            own = replace(coordinate, dims=tuple(renamed.get(d, d) for d in coordinate.dims))
            wanted = renamed.get(own.name, own.name) if len(own.dims) == 1 else own.name
            about = encode_json(typed_attributes(own.attrs))
            same = (group_of(variable.name), wanted, own.dims, own.fingerprint, about)
            if same not in shared:
                shared[same] = replace(own, name=free_name(wanted, taken))
                taken.add(shared[same].name)
            held.add(shared[same].name)
        held |= {a.name for a in beside.arrays if _runs_along(a, variable, settled[variable.name])}
        final.append(
            replace(variable, dims=settled[variable.name], coordinates=tuple(sorted(held)))
        )
    kept = zip(beside.kept, final[len(variables) :], strict=True)
    return Skeleton(
        mode,
        tuple(final[: len(variables)]),
        tuple(shared.values()),
        tuple(beside.arrays),
        _with_parents(beside.groups, names),
        source_digest(sources),
        provenance,
        beside.specification,
        tuple(replace(one, spec=spec) for one, spec in kept),
        beside.outside,
    )


def _with_parents(
    groups: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Groups with those above every group and array, parents first."""
    wanted = {""}
    for path in [*groups, *map(group_of, names)]:
        while path:
            wanted.add(path)
            path = group_of(path)
    return {path: groups.get(path, {}) for path in sorted(wanted)}


def _runs_along(array: ArrayLike, variable: VariableSpec, dims: Sequence[str]) -> bool:
    """Whether an array is a coordinate of a variable: of its group or one above, and named so."""
    group, own = group_of(array.name), group_of(variable.name)
    in_scope = not group or own == group or own.startswith(f"{group}/")
    sizes = dict(zip(dims, variable.shape, strict=True))
    fits = tuple(sizes.get(dim) for dim in array.dims) == tuple(array.array.shape)
    name = array.name.rpartition("/")[2]
    named = name in str(variable.attrs.get("coordinates", "")).split()
    return in_scope and fits and (array.dims == (name,) or (named and bool(array.dims)))


def _plain(variable: VariableSpec, coordinates: Sequence[CoordinateLike]) -> list[PlainCoordinate]:
    plain = []
    for coordinate in coordinates:
        values = np.asarray(coordinate.values)
        if values.dtype.kind in "UT":
            values = values.astype(object)
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
