"""Writing an archive: brick by brick, resumable until it is sealed, never touched afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from psc_volumetric.archive import packing
from psc_volumetric.archive.access import header_digest
from psc_volumetric.archive.beginning import check_place, read_head, sealed_already, target_exists
from psc_volumetric.archive.consolidated import without_copies
from psc_volumetric.archive.journal import (
    BrickRecord,
    journal_key,
    preview_key,
)
from psc_volumetric.archive.kept_preview import Pictured
from psc_volumetric.archive.layout import (
    FORMAT,
    MANIFEST_KEY,
    METADATA_KEY,
    PARTIAL_KEY,
    VariableSpec,
    chunk_key,
    encode_json,
)
from psc_volumetric.archive.manifest import Manifest, sha256_hex
from psc_volumetric.archive.prepared import PreparedArchive, check_readable
from psc_volumetric.archive.preview import preview_part
from psc_volumetric.archive.priors import prior_prefix
from psc_volumetric.archive.sealing import prepare, remove_tree
from psc_volumetric.archive.skeleton import NOTHING_BESIDE, Beside, build_skeleton
from psc_volumetric.archive.source import Blocks, FileLike, write_source
from psc_volumetric.archive.stage import Stage
from psc_volumetric.archive.stores import (
    ArchiveStore,
    Target,
    is_zip_name,
    open_store,
    target_text,
)
from psc_volumetric.archive.targets import target_state
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import FormatError, ParameterError, StorageError

if TYPE_CHECKING:
    from psc_volumetric.codec import EncodedBrick
    from psc_volumetric.prior import Prior

__all__ = ["ArchiveWriter"]


class ArchiveWriter:
    """An archive that is not sealed yet. Make one with :meth:`create` or :meth:`open_partial`.

    Several writers, also in several processes, may write different bricks of the same archive at
    once; one of them, after all bricks are there, writes the rest and calls :meth:`seal`.
    """

    def __init__(
        self,
        store: ArchiveStore,
        target: Target,
        head: Mapping[str, Any],
        variables: Sequence[VariableSpec],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._options = options
        self._target = target
        self.mode = str(head["mode"])
        self.created: str | None = head["created"]
        self.variables = {v.name: v for v in variables}
        self.beside: tuple[str, ...] = tuple(head["beside"])
        self.outside = frozenset[str](head["outside"])  # digests of priors that stay out of it

    # -- opening ----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        target: Target,
        *,
        mode: str,
        variables: Sequence[VariableSpec],
        beside: Beside = NOTHING_BESIDE,
        sources: Sequence[FileLike] = (),
        created: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ArchiveWriter:
        """Begin an archive, or continue one that an earlier run left behind.

        Parameters
        ----------
        target : str, path or zarr Store
            Folder ``*.psc.zarr``, zip file ``*.zip``, or URL. A zip file is built in the folder
            ``<target>.partial`` and packed when sealed.
        mode : str
            ``"lossless"``, ``"bounded"`` or ``"lossy"``.
        variables : sequence of VariableSpec
        beside : Beside
            Coordinates, other arrays and groups of the source.
        sources : sequence, optional
            Source files; only size and SHA-256 go into the metadata, not the name.
        created : str, optional
            Time of creation as text; a continued archive keeps the one it began with.
        provenance : mapping, optional
            JSON-able record of how it was made. No identifiers, and like the attributes the same
            when a run is repeated on the same input.
        options : mapping, optional
            Storage options for URLs.

        Raises
        ------
        StorageError
            Kind ``"target-exists"``: something is there already. ``"partial-differs"``: an
            unfinished archive of another input or other settings. ``"already-sealed"``: this very
            archive was finished by a run that was killed while tidying up; it is tidy now.
        """
        skeleton = build_skeleton(
            mode,
            variables,
            beside,
            sources=sources,
            provenance=provenance or {},
        )
        name = target_text(target)
        check_place(target)
        state = target_state(target, options=options)
        if state == "foreign":
            raise target_exists(name, "something that is not an unfinished archive")
        if state == "sealed":
            raise sealed_already(target, name, skeleton.identity, options)
        store = open_store(packing.work_place(target), write=True, options=options)
        if state == "absent":
            document = {
                "format": FORMAT,
                "identity": skeleton.identity,
                "created": created,
                "mode": mode,
                "variables": {v.name: v.metadata(mode) for v in skeleton.variables},
                "beside": skeleton.beside,
                "outside": sorted(skeleton.outside),
            }
            store.set_exclusive(PARTIAL_KEY, encode_json(document))
        head = read_head(store)
        if head is None or head["identity"] != skeleton.identity:
            raise StorageError(
                f"{name}: an unfinished archive of another input, or with other settings, is there",
                kind="partial-differs",
                hint="finish that one, or remove it first",
            )
        skeleton.write(Stage(store), partial(_put, store), head["created"])
        return cls(store, target, head, skeleton.variables, options)

    @classmethod
    def open_partial(
        cls, target: Target, *, options: Mapping[str, Any] | None = None
    ) -> ArchiveWriter:
        """Join an archive begun elsewhere, for example in a worker process.

        Raises
        ------
        StorageError : kind ``"not-partial"`` when no unfinished archive is there.
        """
        place = packing.work_place(target)
        store = open_store(place, write=False, options=options)
        head = read_head(store)
        if head is None or (store.exists(MANIFEST_KEY) and not is_zip_name(target)):
            raise StorageError(
                f"{target_text(target)}: no unfinished archive is there",
                kind="not-partial",
                hint="begin it with ArchiveWriter.create",
            )
        variables = [
            VariableSpec.from_metadata(name, document)
            for name, document in head["variables"].items()
        ]
        store = open_store(place, write=True, options=options)
        return cls(store, target, head, variables, options)

    # -- bricks -----------------------------------------------------------------------------

    def brick_state(self, variable: str, position: tuple[int, ...]) -> BrickRecord | None:
        """Record of a finished brick; None when it has to be coded (again).

        Reads the brick and compares its SHA-256, so a brick torn by a power cut is not finished.
        """
        spec = self._spec(variable)
        spec.check_position(position)
        key = journal_key(variable, position)
        data = self._store.get(key)
        if data is None:
            return None
        try:
            record = BrickRecord.from_bytes(data, where=key)
        except FormatError:
            return None
        brick = self._store.get(chunk_key(variable, position))
        if brick is None or len(brick) != record.size or sha256_hex(brick) != record.sha256:
            return None
        return record

    def pending(self, variable: str) -> Iterator[tuple[int, ...]]:
        """Chunk grid indices of bricks that are not finished, C order."""
        for position in self._spec(variable).positions():
            if self.brick_state(variable, position) is None:
                yield position

    def write_brick(
        self,
        variable: str,
        position: tuple[int, ...],
        brick: EncodedBrick,
        *,
        values: NDArray[Any] | None = None,
    ) -> BrickRecord:
        """Store one brick and remember that it is finished.

        Parameters
        ----------
        variable : str
        position : tuple of int
            Chunk grid index, all axes.
        brick : EncodedBrick
        values : (z, y, x) array, optional
            The source values of the brick, for the preview. The variable has a preview only when
            every brick that shows in it came with values.

        Raises
        ------
        ParameterError
            The brick is not the one that belongs there.
        """
        spec = self._spec(variable)
        spec.check_position(position)
        _check_index(brick.index, spec, position)
        if values is not None:
            self.write_preview_part(spec, position, values)
        record = BrickRecord(
            position=tuple(position),
            size=len(brick.data),
            sha256=sha256_hex(brick.data),
            head=header_digest(brick.data[: brick.index.header_size]),
            method=brick.method,
            prior=brick.index.prior_digest,
            level_nbytes=tuple(brick.index.level_nbytes(n) for n in range(brick.index.levels)),
            tiles=brick.records,
            coverage=brick.coverage,
            compared=brick.compared,
        )
        self._store.set(chunk_key(variable, position), brick.data)
        self._store.set(journal_key(variable, position), record.to_bytes())
        return record

    def write_preview_part(
        self, spec: VariableSpec, position: tuple[int, ...], values: NDArray[Any]
    ) -> None:
        """Keep what the preview shows of one brick, ``values`` (z, y, x) of its valid part."""
        part = preview_part(spec, position, values)
        if part:
            self._store.set(preview_key(spec.name, position), part)

    # -- the rest ---------------------------------------------------------------------------

    def write_source(
        self,
        kind: str,
        document: Mapping[str, Any],
        blobs: Mapping[str, bytes | Blocks],
        files: Sequence[FileLike],
    ) -> None:
        """Store what the adapter of ``kind`` needs to write the source format again.

        Called once more, it replaces what was stored before.
        """
        written = set(write_source(self._store.put, kind, document, blobs, files))
        for key in self._store.listing("source/"):
            if key not in written:
                self._store.delete(key)

    def write_prior(self, prior: Prior) -> None:
        """Store the files of a prior verbatim; the archive then decodes without the shipped one."""
        for name, data in sorted(prior.files().items()):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ParameterError(
                    f"prior {prior.name!r}: file name {name!r} leaves its folder", kind="bad-name"
                )
            self._store.put(prior_prefix(prior.digest) + name, data)

    def prepare(
        self, *, preview_bytes: int | None = None, pictured: Sequence[Pictured] = ()
    ) -> PreparedArchive:
        """Write all but the manifest: tile tables and previews; then read everything back.

        Parameters
        ----------
        preview_bytes : int, optional
            What the preview of each variable may take; None is a small share of its bricks.
        pictured : sequence of Pictured
            Variables without bricks whose parts `write_preview_part` was given.

        Returns
        -------
        PreparedArchive
            Gives a reader of the archive as it will be; `commit` seals it.

        Raises
        ------
        StorageError
            Kind ``"incomplete"`` when bricks or priors are missing, ``"brick-damaged"`` when the
            store gives other bytes back, ``"foreign-key"`` when something is in the tree that does
            not belong to the archive.
        FormatError
            A reader would refuse what was given; nothing is sealed.
        """
        variables = tuple(self.variables.values())
        manifest = prepare(
            self._store, variables, self.beside, preview_bytes, pictured, self.outside
        )
        prepared = PreparedArchive(self._store, self._target, manifest)
        check_readable(prepared.reader())
        return prepared

    def seal(self, *, preview_bytes: int | None = None) -> Manifest:
        """Prepare and commit at once; after this nothing is ever written. See `prepare`.

        Raises
        ------
        StorageError, FormatError
            As `prepare`; kind ``"target-exists"`` when another writer sealed other bytes.
        """
        return self.prepare(preview_bytes=preview_bytes).commit()

    def abort(self) -> None:
        """Remove the unfinished archive and nothing else; a sealed one is left alone.

        Raises
        ------
        StorageError : the archive is sealed.
        """
        if target_state(self._target, options=self._options) == "sealed":
            raise target_exists(target_text(self._target), "a sealed archive")
        remove_tree(self._store, tuple(self.variables.values()), self.beside)

    def _spec(self, variable: str) -> VariableSpec:
        if variable not in self.variables:
            raise ParameterError(
                f"there is no variable {variable!r}; there are {sorted(self.variables)!r}",
                kind="unknown-variable",
            )
        return self.variables[variable]


def _put(store: ArchiveStore, key: str, data: bytes) -> None:
    """Write what is not there; a root that was completed by another writer is left as it is."""
    if key == METADATA_KEY and without_copies(store.get(key)) == without_copies(data):
        return
    store.put(key, data)


def _check_index(index: BrickIndex, spec: VariableSpec, position: tuple[int, ...]) -> None:
    """Refuse a brick that does not belong at ``position`` of the variable (ParameterError)."""
    expected = (tuple(position), spec.brick_shape, spec.valid(position), spec.dtype.name)
    found = (index.position, index.shape, index.valid, index.dtype.name)
    if found != expected:
        raise ParameterError(
            f"{spec.name} {position!r}: expected a brick with (position, shape, valid, dtype) "
            f"{expected!r}, found {found!r}",
            kind="wrong-brick",
        )
    tile = None if index.fields is None else index.fields.tile
    if tile is not None and tile != spec.tile_shape:
        raise ParameterError(
            f"{spec.name} {position!r}: expected tiles {spec.tile_shape!r}, the brick has {tile!r}",
            kind="wrong-brick",
        )
    prior = index.prior_digest
    if prior is not None and not (spec.prior or "").startswith(prior):
        raise ParameterError(
            f"{spec.name} {position!r}: coded with prior {prior!r}, the variable names "
            f"{spec.prior!r}",
            kind="wrong-prior",
        )
