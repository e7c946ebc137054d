"""Reading a sealed archive: any region of any variable, at any quality level.

Opening reads two small objects. Each read of a brick is checked against the manifest (listed,
size, digest of the header), against the brick's own header (position, shape, dtype, prior) and by
the checksums inside the brick, so a lost, cut, swapped, changed or foreign brick is an error and
never plausible values.
"""

# long: one class, all that can be read of an archive; what it does is in the modules beside it

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.access import SealedStore, load_manifest
from psc_volumetric.archive.attributes import checked_attributes
from psc_volumetric.archive.brick_checks import check_index, placed
from psc_volumetric.archive.documents import ArrayNode, Node, OwnArray, RootDocument, convert
from psc_volumetric.archive.layout import ATTRIBUTE, METADATA_KEY, VariableSpec, chunk_key
from psc_volumetric.archive.levels import Level, check_level, level_number
from psc_volumetric.archive.manifest import Manifest, check_format
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.plain import PlainArray
from psc_volumetric.archive.priors import EmbeddedPriors
from psc_volumetric.archive.skeleton import PlainCoordinate
from psc_volumetric.archive.source import (
    DOCUMENT_KEY,
    SourceRecord,
    joined_blobs,
    parse_source,
)
from psc_volumetric.archive.stores import Target, open_store
from psc_volumetric.archive.tiles import (
    TILE_ARRAYS,
    TileTable,
    check_shapes,
    read_bases,
    read_codes,
)
from psc_volumetric.bitstream.constants import MAX_BRICK_VOXELS
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import (
    FormatError,
    LimitExceededError,
    ParameterError,
    PriorMismatchError,
)

if TYPE_CHECKING:
    from psc_volumetric.archive.verify import Finding

__all__ = ["ArchiveReader", "DecodedRegion"]

INDICES_KEPT = 256

Selection = tuple[slice, ...]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class DecodedRegion:
    """Stored values of a region; ``spread`` is one sigma per voxel (float32) or None."""

    values: NDArray[Any]
    spread: NDArray[np.float32] | None


class ArchiveReader:
    """A sealed archive, open for reading. Make one with :meth:`open`.

    Attributes
    ----------
    mode : str
        ``"lossless"``, ``"bounded"`` or ``"lossy"``.
    created : str or None
    attrs : dict
        Attributes of the root group that are not the archive's own.
    metadata : dict
        The archive's own attributes: variables, source digests, priors, provenance.
    variables : dict of str to VariableSpec
    arrays, groups : tuple of str
        Names of the plain arrays of the source, and of its groups without the root.
    manifest : Manifest
    device : str
        Where the network runs: ``"auto"``, ``"cpu"`` or ``"cuda"``; never changes a bit.
    """

    def __init__(self, sealed: SealedStore, *, device: str = "auto") -> None:
        self._sealed = sealed
        self.device = device
        where = f"{sealed.name}: {METADATA_KEY}"
        attributes = sealed.read_document(METADATA_KEY, Node).attributes
        if ATTRIBUTE not in attributes:
            raise FormatError(f"{where} has no {ATTRIBUTE!r} attribute", kind="not-an-archive")
        self.metadata: dict[str, Any] = convert(
            attributes[ATTRIBUTE], dict[str, Any], where=f"{where}: {ATTRIBUTE}"
        )
        check_format(self.metadata.get("format"), where)
        own = convert(self.metadata, RootDocument, where=f"{where}: {ATTRIBUTE}")
        self.attrs = checked_attributes(attributes, where)
        self.mode: str = own.mode
        self.created = own.created
        self.arrays = tuple(own.arrays)
        self.groups = tuple(own.groups)
        self.variables = {name: self._read_spec(name) for name in own.variables}
        self._priors = EmbeddedPriors(sealed.manifest.entries, sealed.read)
        self._indices: OrderedDict[str, BrickIndex] = OrderedDict()
        self._lock = threading.Lock()

    def _read_spec(self, name: str) -> VariableSpec:
        key = f"{node_path(name)}/{METADATA_KEY}"
        node = self._sealed.read_document(key, ArrayNode)
        convert(node.attributes.get(ATTRIBUTE), OwnArray, where=f"{self.name}: {key}: {ATTRIBUTE}")
        spec = VariableSpec.from_metadata(name, self._sealed.read_json(key))
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

    @classmethod
    def open(
        cls,
        target: Target,
        *,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> ArchiveReader:
        """Open an archive at a folder, zip file, URL or Zarr store.

        Raises
        ------
        StorageError
            Nothing there, or not readable.
        FormatError
            Kind ``"not-sealed"``, ``"not-an-archive"``, ``"unsupported-version"`` or damage.
        """
        store = open_store(target, options=options)
        return cls(SealedStore(store, load_manifest(store)), device=device)

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

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- voxels -----------------------------------------------------------------------------

    def read(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> NDArray[Any]:
        """Stored values of a region, or their uncertainty.

        Parameters
        ----------
        variable : str
        selection : tuple of slice, optional
            One half-open slice (step 1) per axis; None is everything.
        level : int or str, optional
            0 is the coarsest; None, or one past the last, is everything; names: `level_number`.
        spread : bool
            Return one sigma per voxel (float32, stored units) instead of the values.

        Returns
        -------
        array of the selection's shape, C order, owned by the caller.

        Raises
        ------
        ParameterError
            Unknown variable; selection outside the array (kind ``"roi-outside"``).
        FormatError
            A brick is missing, cut, swapped or damaged; the message names key and region.
        PriorMismatchError
            The prior is neither in the archive nor shipped.
        """
        region = self.read_region(variable, selection, level=level, spread=spread)
        if spread and region.spread is not None:
            return region.spread
        return region.values

    def read_region(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> DecodedRegion:
        """Like :meth:`read`, values and spread from one decoding."""
        spec = self._spec(variable)
        box = self._normalise(spec, selection)
        check_level(level)
        shape = tuple(s.stop - s.start for s in box)
        values = np.empty(shape, spec.dtype)
        sigma = np.zeros(shape, np.float32) if spread else None
        for position, inside, target in self._bricks(spec, box):
            found = self.read_brick(variable, position, inside, level=level, spread=spread)
            values[target] = found.values.reshape(values[target].shape)
            if sigma is not None and found.spread is not None:
                sigma[target] = found.spread.reshape(sigma[target].shape)
        return DecodedRegion(values, sigma)

    def read_brick(
        self,
        variable: str,
        position: tuple[int, ...],
        selection: Box | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> DecodedRegion:
        """Part of one brick; ``selection`` is a (z, y, x) box within its valid part."""
        from psc_volumetric.codec import decode_brick

        spec = self._spec(variable)
        key = chunk_key(variable, position)
        valid = spec.valid(position)
        box = (slice(0, valid[0]), slice(0, valid[1]), slice(0, valid[2]))
        box = box if selection is None else selection
        try:
            index = self.brick_index(variable, position)
            decoded = decode_brick(
                lambda start, length: self._sealed.read_range(key, start, length),
                selection=box,
                level=level_number(index, level),
                prior=self._priors,
                spread=spread,
                device=self.device,
                index=index,
            )
        except (FormatError, PriorMismatchError) as error:
            raise placed(error, self.name, key, spec, position, box) from error
        return DecodedRegion(decoded.values, decoded.spread)

    def brick_index(self, variable: str, position: tuple[int, ...]) -> BrickIndex:
        """Checked header of one brick; the latest 256 are kept."""
        spec = self._spec(variable)
        spec.check_position(position)
        key = chunk_key(variable, position)
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
                return self._indices[key]
        index = self._sealed.read_index(key, lambda i: check_index(i, spec, position, key))
        with self._lock:
            self._indices[key] = index
            while len(self._indices) > INDICES_KEPT:
                self._indices.popitem(last=False)
        return index

    # -- everything else --------------------------------------------------------------------

    def tile_table(self, variable: str) -> TileTable:
        """Bytes, errors and digests per tile, checked."""
        path = f"tiles/{self._spec(variable).node}"
        arrays = {name: self._sealed.array(f"{path}/{name}") for name in TILE_ARRAYS}
        told = {
            name: self._sealed.read_json(f"{path}/{name}/{METADATA_KEY}").get("attributes", {})
            for name in ("method", "compared")
        }
        bases = read_bases(told["compared"], path)
        check_shapes(arrays, self._spec(variable), bases, f"{self.name}: {path}")
        return TileTable(**arrays, codes=read_codes(told["method"], path), bases=bases)

    def coordinates(self, variable: str) -> dict[str, PlainCoordinate]:
        """Coordinate arrays that belong to a variable, in memory."""
        return {name: self.coordinate(name) for name in self._spec(variable).coordinates}

    def coordinate(self, name: str) -> PlainCoordinate:
        """One coordinate array in memory, checked."""
        found = self.plain(name)
        return PlainCoordinate(name, found.dims, found.values, found.attrs)

    def plain(self, name: str) -> PlainArray:
        """One array that is no volume; its values are read, and checked, when asked for."""
        return PlainArray.of(name, self._sealed.open_array(node_path(name)))

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
        document = self._sealed.array(DOCUMENT_KEY).tobytes()
        return parse_source(document, joined_blobs(self._sealed), where=self.name)

    def prior_source(self) -> EmbeddedPriors:
        """Digest -> prior: those in the archive first, then the shipped ones."""
        return self._priors

    def info(self) -> dict[str, Any]:
        """Summary in JSON types; reads metadata and ``tiles/`` only, loads no network."""
        from psc_volumetric.archive.summary import summarise

        return summarise(self)

    def verify(
        self, *, sample: float = 1.0, deep: bool = False, seed: int = 0
    ) -> Iterator[Finding]:
        """See :func:`psc_volumetric.archive.verify.verify_archive`."""
        from psc_volumetric.archive.verify import verify_reader

        return verify_reader(self, sample=sample, deep=deep, seed=seed)

    # -- inside -----------------------------------------------------------------------------

    def _spec(self, variable: str) -> VariableSpec:
        if variable not in self.variables:
            raise ParameterError(
                f"{self.name}: there is no variable {variable!r}; there are "
                f"{sorted(self.variables)!r}",
                kind="unknown-variable",
            )
        return self.variables[variable]

    def _normalise(self, spec: VariableSpec, selection: Selection | None) -> Selection:
        if selection is None:
            return tuple(slice(0, n) for n in spec.shape)
        if len(selection) != spec.ndim:
            raise ParameterError(
                f"{spec.name}: expected {spec.ndim} slices (axes {spec.dims!r}), found "
                f"{len(selection)}",
                kind="bad-roi",
            )
        box = []
        for dim, size, part in zip(spec.dims, spec.shape, selection, strict=True):
            start = 0 if part.start is None else int(part.start)
            stop = size if part.stop is None else int(part.stop)
            if part.step not in (None, 1) or not 0 <= start <= stop <= size:
                raise ParameterError(
                    f"{spec.name}: region {dim}={part.start}:{part.stop} (step {part.step}) is "
                    f"not inside {dim}=0:{size}",
                    kind="roi-outside",
                    hint="give half-open index ranges inside the volume, step 1",
                )
            box.append(slice(start, stop))
        return tuple(box)

    def _bricks(
        self, spec: VariableSpec, box: Selection
    ) -> Iterator[tuple[tuple[int, ...], Box, Selection]]:
        """Bricks a box touches: position, (z, y, x) box inside, place in the result."""
        if any(s.start == s.stop for s in box):
            return
        ranges = [
            range(s.start // c, (s.stop - 1) // c + 1)
            for s, c in zip(box, spec.chunk_shape, strict=True)
        ]
        for position in product(*ranges):
            inside, target = [], []
            for s, c, p in zip(box, spec.chunk_shape, position, strict=True):
                start, stop = max(s.start, p * c), min(s.stop, (p + 1) * c)
                inside.append(slice(start - p * c, stop - p * c))
                target.append(slice(start - s.start, stop - s.start))
            z, y, x = [slice(0, 1)] * (3 - spec.spatial) + inside[spec.lead :]
            yield position, (z, y, x), tuple(target)
