"""Checking an archive: shallow (every object is there and unchanged) and deep (it decodes).

Findings name the key, and for bricks the tile and the region, so that one knows what is lost and
what is still good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psc_volumetric.archive.access import SealedStore, load_manifest, missing
from psc_volumetric.archive.layout import MANIFEST_KEY, VariableSpec, chunk_key
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.sealing import is_journal
from psc_volumetric.archive.stores import Target, open_store
from psc_volumetric.archive.tiles import TileTable, brick_tiles, short_digest
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import ParameterError, PscError
from psc_volumetric.tiling import TileGrid

__all__ = ["Finding", "OnProgress", "sampled", "verify", "verify_archive"]

OnProgress = Callable[[str, int, int], None]
Region = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes
    ----------
    key : str
        The object; ``""`` for the archive as a whole.
    kind : str
        Stable word, as in the errors: ``"missing-key"``, ``"sha256"``, ``"foreign-key"`` ...
    message : str
    variable : str or None
    tile : tuple of int or None
        Index in the tile grid of the whole variable.
    roi : tuple of (start, stop) or None
        Voxels of the variable that cannot be trusted.
    """

    key: str
    kind: str
    message: str
    variable: str | None = None
    tile: tuple[int, ...] | None = None
    roi: Region | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def sampled(key: str, share: float, seed: int) -> bool:
    """Whether a key belongs to the sample; another seed takes another sample."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def verify_archive(
    target: Target,
    *,
    sample: float = 1.0,
    deep: bool = False,
    seed: int = 0,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> Iterator[Finding]:
    """Check an archive, also one too damaged to open.

    Parameters
    ----------
    target : str, path or zarr Store
    sample : float
        Share of the objects (and, deep, of the bricks) to read, 0 < sample <= 1. That every
        object is there, and nothing else, is always checked completely.
    deep : bool
        Also decode bricks, compare the SHA-256 of every tile with ``tiles/``, and hold bounded
        levels to the exact ones above them.
    seed : int
        Which sample.
    progress : callable, optional
        ``progress(stage, done, total)``, stage ``"objects"`` or ``"bricks"``.

    Yields
    ------
    Finding

    Raises
    ------
    FormatError, StorageError
        Not an archive, not sealed, or its manifest cannot be used.
    """
    _check_share(sample)
    store = open_store(target, options=options)
    sealed = SealedStore(store, load_manifest(store))
    yield from _shallow(sealed, sample, seed, progress)
    if deep:
        try:
            reader = ArchiveReader(sealed, device=device)
        except PscError as error:
            yield Finding("", error.kind, f"bricks cannot be decoded: {error}")
            return
        yield from _deep(reader, sample, seed, progress)


def verify(
    reader: ArchiveReader,
    *,
    sample: float = 1.0,
    deep: bool = False,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> Iterator[Finding]:
    """Check an archive that is open; parameters as in :func:`verify_archive`."""
    _check_share(sample)
    yield from _shallow(reader.sealed, sample, seed, progress)
    if deep:
        yield from _deep(reader, sample, seed, progress)


def _check_share(sample: float) -> None:
    if not 0 < sample <= 1:
        raise ParameterError(
            f"sample must be above 0 and at most 1, found {sample!r}", kind="bad-sample"
        )


def _shallow(
    sealed: SealedStore, sample: float, seed: int, progress: OnProgress | None
) -> Iterator[Finding]:
    listed = sealed.manifest.entries
    present = set(sealed.store.listing())
    for key in sorted(present - set(listed) - {MANIFEST_KEY}):
        if not is_journal(key):
            yield Finding(key, "foreign-key", f"{key} is in the store but not in the manifest")
    if sealed.store.foreign_bytes:
        yield Finding(
            "",
            "foreign-bytes",
            f"{sealed.name}: {sealed.store.foreign_bytes} bytes of the file belong to no member",
        )
    for number, key in enumerate(sorted(listed)):
        try:
            if key not in present:
                raise missing(sealed.name, key)
            if sampled(key, sample, seed):
                sealed.compare(key)
        except PscError as error:
            yield _located(key, error)
        if progress is not None:
            progress("objects", number + 1, len(listed))


def _located(key: str, error: PscError) -> Finding:
    variable, middle, _ = key.partition("/c/")
    known = middle and "/" not in variable
    return Finding(key, error.kind, str(error), variable if known else None)


def _deep(
    reader: ArchiveReader, sample: float, seed: int, progress: OnProgress | None
) -> Iterator[Finding]:
    chosen = [
        (name, position)
        for name, spec in reader.variables.items()
        for position in spec.positions()
        if sampled(chunk_key(name, position), sample, seed)
    ]
    tables: dict[str, TileTable | None] = {}
    for number, (name, position) in enumerate(chosen):
        if name not in tables:
            try:
                tables[name] = reader.tile_table(name)
            except PscError as error:
                tables[name] = None
                yield Finding(f"tiles/{name}", error.kind, str(error), name)
        damaged = False
        for finding in _check_brick(reader, reader.variables[name], position, tables[name]):
            damaged = True
            yield finding
        if not damaged:
            yield from _check_bounds(reader, reader.variables[name], position)
        if progress is not None:
            progress("bricks", number + 1, len(chosen))


def _check_brick(
    reader: ArchiveReader,
    spec: VariableSpec,
    position: tuple[int, ...],
    table: TileTable | None,
) -> Iterator[Finding]:
    key = chunk_key(spec.name, position)
    try:
        grid = _record_grid(reader.brick_index(spec.name, position), spec, position, table)
    except PscError as error:
        lost = tuple((s.start, s.stop) for s in spec.box(position))
        yield Finding(key, error.kind, str(error), spec.name, None, lost)
        return
    expected = {} if table is None else dict(brick_tiles(table, spec, position))
    try:
        whole = reader.read_brick(spec.name, position).values
    except PscError:
        whole = None  # find out which tiles it is
    for number in range(len(grid)):
        tile, roi = _place(spec, position, grid, number)
        try:
            box = grid.box(number)
            values = (
                reader.read_brick(spec.name, position, box).values if whole is None else whole[box]
            )
        except PscError as error:
            yield Finding(key, error.kind, str(error), spec.name, tile, roi)
            continue
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        found = short_digest(hashlib.sha256(little.tobytes()).hexdigest())
        wanted = expected.get(grid.position(number))
        if table is not None and found != wanted:
            yield Finding(
                key,
                "decoded-sha256",
                f"{reader.name}: {key}: tile {tile} decodes to SHA-256 {found}, recorded is "
                f"{wanted}; the decoder of this machine differs, or the tile was changed",
                spec.name,
                tile,
                roi,
            )


def _check_bounds(
    reader: ArchiveReader, spec: VariableSpec, position: tuple[int, ...]
) -> Iterator[Finding]:
    """Compare a bounded level with the exact one above it; alone it has nothing to be held to."""
    key = chunk_key(spec.name, position)
    try:
        index = reader.brick_index(spec.name, position)
        if not index.is_exact:
            return
        exact = reader.read_brick(spec.name, position).values.astype(np.longdouble)
        for number, layer in enumerate(index.layers):
            if layer.grid is None:
                continue
            near = reader.read_brick(spec.name, position, level=index.base_levels + number).values
            measured = np.isfinite(exact)
            error = np.abs(near.astype(np.longdouble) - exact)[measured].max(initial=0.0)
            if not error <= layer.grid.bound:
                yield Finding(
                    key,
                    "bound",
                    f"{reader.name}: {key}: level {layer.kind!r} is off by {error:g}, promised is "
                    f"{layer.grid.bound:g}",
                    spec.name,
                    None,
                    tuple((s.start, s.stop) for s in spec.box(position)),
                )
    except PscError as error:
        lost = tuple((s.start, s.stop) for s in spec.box(position))
        yield Finding(key, error.kind, str(error), spec.name, None, lost)


def _record_grid(
    index: BrickIndex, spec: VariableSpec, position: tuple[int, ...], table: TileTable | None
) -> TileGrid:
    """Tiles by which the brick was recorded; its own tiles where the record is lost."""
    if table is None:
        return index.grid
    single = sum(1 for _ in brick_tiles(table, spec, position)) == 1
    return TileGrid(index.valid, index.valid if single else spec.tile_shape)


def _place(
    spec: VariableSpec, position: tuple[int, ...], grid: TileGrid, number: int
) -> tuple[tuple[int, ...], Region]:
    """Index in the variable's tile grid, and voxels, of one tile of a brick."""
    at, box = grid.position(number), grid.box(number)
    tile, roi = [], []
    for axis, part in enumerate(spec.box(position)):
        inner = axis - spec.lead + 3 - spec.spatial
        if axis < spec.lead:
            tile.append(part.start)
            roi.append((part.start, part.stop))
        else:
            tile.append(part.start // spec.tile_chunk[axis] + at[inner])
            roi.append((part.start + box[inner].start, part.start + box[inner].stop))
    return tuple(tile), tuple(roi)
