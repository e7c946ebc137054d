"""An archive that is open: what it says of itself, its tables, plain arrays and documents.

Opening reads two small objects. Each key is checked against the manifest (listed, size, digest).
Voxels are the business of :class:`~psc_volumetric.archive.reader.ArchiveReader`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

from psc_volumetric.archive.access import SealedStore
from psc_volumetric.archive.attributes import checked_attributes
from psc_volumetric.archive.documents import (
    MAX_DOCUMENT,
    ArrayNode,
    KeptEntry,
    Node,
    OwnArray,
    RootDocument,
    convert,
    decode,
)
from psc_volumetric.archive.kept import KeptArray, KeptVariable
from psc_volumetric.archive.layout import ATTRIBUTE, METADATA_KEY, VariableSpec
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.plain import PlainArray
from psc_volumetric.archive.priors import EmbeddedPriors
from psc_volumetric.archive.skeleton import PlainCoordinate
from psc_volumetric.archive.source import SourceRecord, read_source
from psc_volumetric.archive.tiles import (
    TileTable,
    read_codes,
    read_tile_table,
    tiles_prefix,
)
from psc_volumetric.bitstream.constants import MAX_BRICK_VOXELS
from psc_volumetric.bitstream.versions import check_version
from psc_volumetric.errors import FormatError, LimitExceededError, ParameterError

__all__ = ["OpenArchive"]


class OpenArchive:
    """A sealed archive without its voxels.

    Attributes
    ----------
    mode : str
        ``"lossless"``, ``"bounded"`` or ``"lossy"``.
    created : str or None
    attrs : dict
        Attributes of the root group that are not the archive's own.
    metadata : dict
        The archive's own attributes: variables, digest of the source, priors, provenance.
    document : RootDocument
        The same, with the types that they were checked to have.
    variables : dict of str to VariableSpec
    kept : dict of str to KeptVariable
        Variables whose values are read out of kept originals.
    arrays, groups : tuple of str
        Names of the plain arrays of the source, and of its groups without the root.
    """

    def __init__(self, sealed: SealedStore) -> None:
        self._sealed = sealed
        where = f"{sealed.name}: {METADATA_KEY}"
        attributes = sealed.read_document(METADATA_KEY, Node).attributes
        if ATTRIBUTE not in attributes:
            raise FormatError(f"{where} has no {ATTRIBUTE!r} attribute", kind="not-an-archive")
        self.metadata: dict[str, Any] = convert(
            attributes[ATTRIBUTE], dict[str, Any], where=f"{where}: {ATTRIBUTE}"
        )
        check_version(self.metadata.get("format"), where)
        own = convert(self.metadata, RootDocument, where=f"{where}: {ATTRIBUTE}")
        self.document = own
        self.attrs = checked_attributes(attributes, where)
        self.mode: str = own.mode
        self.created = own.created
        self.arrays = tuple(own.arrays)
        self.groups = tuple(own.groups)
        self.variables = {name: self._read_spec(name) for name in own.variables}
        self.kept = {entry.name: self._read_kept(entry) for entry in own.kept}
        self._kept_arrays: dict[str, KeptArray] = {}
        self._priors = EmbeddedPriors(sealed.manifest.entries, sealed.read)

    @property
    def manifest(self) -> Manifest:
        """Every key with size and SHA-256."""
        return self._sealed.manifest

    @property
    def name(self) -> str:
        """Where the archive is, as text."""
        return self._sealed.name

    @property
    def sealed(self) -> SealedStore:
        """Checked access to single keys and plain arrays."""
        return self._sealed

    def close(self) -> None:
        """Release file handles."""
        self._sealed.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def spec(self, variable: str) -> VariableSpec:
        """Geometry and coding of one variable (ParameterError, kind ``"unknown-variable"``)."""
        if variable not in self.variables:
            raise ParameterError(
                f"{self.name}: there is no variable {variable!r}; there are "
                f"{sorted(self.variables)!r}",
                kind="unknown-variable",
            )
        return self.variables[variable]

    def described(self, variable: str) -> VariableSpec:
        """As `spec`, also for variables whose values are in kept originals, without bricks."""
        return self.kept[variable].spec if variable in self.kept else self.spec(variable)

    def tile_table(self, variable: str) -> TileTable:
        """Bytes, errors and digests per tile, checked."""
        spec = self.spec(variable)
        count = max(1, len(self.manifest.under(tiles_prefix(spec))))
        return read_tile_table(map(partial(self._tiles, spec), range(count)), spec)

    def codings(self, variable: str) -> tuple[str, ...]:
        """How bricks of a variable are coded, in words: ``wavelet+lossless:context``."""
        where, first = self._tiles(self.spec(variable), 0)
        return tuple(read_codes(first, where))

    def _tiles(self, spec: VariableSpec, number: int) -> tuple[str, bytes]:
        """Where a piece of the table of a variable lies, and the piece."""
        key = f"{tiles_prefix(spec)}{number}"
        return f"{self.name}: {key}", self._sealed.read(key)

    def coordinates(self, variable: str) -> dict[str, PlainCoordinate]:
        """Coordinate arrays that belong to a variable, in memory."""
        return {name: self.coordinate(name) for name in self.spec(variable).coordinates}

    def coordinate(self, name: str) -> PlainCoordinate:
        """One coordinate array in memory, checked."""
        found = self.plain(name)
        return PlainCoordinate(name, found.dims, found.values, found.attrs)

    def plain(self, name: str) -> PlainArray:
        """One array that is no volume; its values are read, and checked, when asked for."""
        return PlainArray.of(name, self._sealed.open_array(node_path(name)))

    def kept_array(self, name: str) -> KeptArray:
        """Values of a variable of `kept`, decoded when they are asked for."""
        if name not in self._kept_arrays:
            self._kept_arrays[name] = KeptArray(self.kept[name], self.source().blobs, self.name)
        return self._kept_arrays[name]

    def group_attributes(self, group: str) -> dict[str, Any]:
        """Attributes of a group of the source; ``""`` is the root.

        Raises
        ------
        ParameterError : there is no such group (kind ``"unknown-group"``).
        """
        if not group:
            return dict(self.attrs)
        if group not in self.groups:
            raise ParameterError(
                f"{self.name}: there is no group {group!r}; there are {list(self.groups)!r}",
                kind="unknown-group",
            )
        key = f"{node_path(group)}/{METADATA_KEY}"
        node = self._sealed.read_document(key, Node)
        return checked_attributes(node.attributes, f"{self.name}: {key}")

    def source(self) -> SourceRecord:
        """What the adapter needs to write the source format again; may hold identifiers."""
        return read_source(self._sealed)

    def prior_source(self) -> EmbeddedPriors:
        """Digest -> prior: those in the archive first, then the shipped ones."""
        return self._priors

    def _read_kept(self, entry: KeptEntry) -> KeptVariable:
        where = f"{self.name}: {METADATA_KEY}"
        node = convert(entry.node, ArrayNode, where=where)
        convert(node.attributes.get(ATTRIBUTE), OwnArray, where=f"{where}: {ATTRIBUTE}")
        return KeptVariable.of(entry, where)

    def _read_spec(self, name: str) -> VariableSpec:
        key = f"{node_path(name)}/{METADATA_KEY}"
        where, data = f"{self.name}: {key}", self._sealed.read(key, limit=MAX_DOCUMENT)
        node = decode(data, ArrayNode, where=where)
        convert(node.attributes.get(ATTRIBUTE), OwnArray, where=f"{where}: {ATTRIBUTE}")
        spec = VariableSpec.from_metadata(name, decode(data, dict[str, Any], where=where))
        if math.prod(spec.brick_shape) > MAX_BRICK_VOXELS:
            raise LimitExceededError(f"{self.name}: {key}: brick {spec.brick_shape}", kind="limit")
        listed = len(self.manifest.under(f"{node_path(name)}/c/"))
        if math.prod(spec.grid_shape) != listed:
            raise FormatError(
                f"{self.name}: {key}: {math.prod(spec.grid_shape)} bricks, the manifest lists "
                f"{listed}",
                kind="unlisted-key",
                hint="the archive does not contain what its metadata promises",
            )
        return spec
