"""An archive before it has bricks: how it begins, and what it will take besides them.

A rate is a target for every byte of the archive. So the rest is written once to memory, and what
only the bricks decide, their records and lines in the manifest, is taken from some of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from zarr.storage import MemoryStore

import psc_volumetric
from adapters import keep_originals
from adapters.base import EQUAL_DATA, SourceItem
from pipelines.archiving.created import created_now
from pipelines.archiving.kept_sources import keeps_originals
from pipelines.archiving.plan import ItemPlan, brick_prior, open_item
from pipelines.restoring.proof import PROMISES
from psc_volumetric.archive.journal import BrickRecord
from psc_volumetric.archive.layout import PARTIAL_KEY, VariableSpec, chunk_key
from psc_volumetric.archive.manifest import Entry, Manifest
from psc_volumetric.archive.preview import DOCUMENT, preview_room
from psc_volumetric.archive.sealing import consolidate
from psc_volumetric.archive.skeleton import Beside
from psc_volumetric.archive.stores import ArchiveStore, Target, open_store
from psc_volumetric.archive.tiles import write_tile_table
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.codec import EncodedBrick
from psc_volumetric.tiling import TileGrid

__all__ = ["begin_writing", "bytes_beside", "preview_bytes", "source_to_keep"]

Position = tuple[int, ...]
Bricks = Mapping[Position, EncodedBrick]

_DIGEST = "0" * 64


def begin_writing(item: ItemPlan, source: SourceItem, target: Target) -> ArchiveWriter:
    """Begin or continue the archive of an item somewhere.

    Raises
    ------
    StorageError : see `ArchiveWriter.create`.
    """
    volumes = {volume.name: volume for volume in source.volumes}
    return ArchiveWriter.create(
        target,
        mode=item.options.mode,
        variables=[variable.spec for variable in item.variables],
        beside=Beside(
            {v.spec.name: volumes[v.volume].coordinates for v in item.variables}
            | {k.spec.name: volumes[k.volume].coordinates for k in item.kept},
            source.arrays,
            source.groups,
            item.options.self_contained,
            item.kept,
            item.priors_outside,
        ),
        sources=source.files,
        created=created_now(),
        provenance=_recorded_provenance(item),
    )


def _recorded_provenance(item: ItemPlan) -> dict[str, Any]:
    """How the archive was made, the same in every run that makes the same bytes."""
    path = {} if item.source_path is None else {"source_path": item.source_path}
    software = {"software": f"psc-archive {psc_volumetric.__version__}"}
    old = {} if item.supersedes is None else {"supersedes": item.supersedes}
    return {**software, **item.provenance, **path, **old}


def source_to_keep(item: ItemPlan) -> SourceItem:
    """The source, with its files as blobs where they are asked for or cannot be made again."""
    source = open_item(item.candidate)
    bytes_too = keeps_originals(source, item.options)
    if item.options.keep_original or source.beyond_remaking or bytes_too:
        every = bool(source.beyond_remaking or bytes_too)
        source = keep_originals(source, item.candidate, every=every)
    return source


def bytes_beside(item: ItemPlan, bricks: Mapping[str, Bricks]) -> int:
    """Bytes of the archive of an item without its bricks and previews.

    Parameters
    ----------
    item : ItemPlan
    bricks : mapping
        Name of each variable -> some of its bricks, at least one.
    """
    memory = MemoryStore()
    source = source_to_keep(item)
    writer = begin_writing(item, source, memory)
    promises = [
        file.promise.to_dict() | ({"sha256": file.sha256[::-1]} if _is_read_again(file) else {})
        for file in source.files
    ]
    document = {**source.document, PROMISES: promises, "proof": "restored"}
    writer.write_source(source.kind, document, source.blobs, source.files)
    coded = [brick for some in bricks.values() for brick in some.values()]
    if not writer.outside and any(brick.index.prior_digest for brick in coded):
        writer.write_prior(brick_prior(item.prior or ""))
    store = open_store(memory, write=True)
    consolidate(store, [*(variable.spec.node for variable in item.variables), *writer.beside])
    listed: dict[str, Entry] = {}
    for variable in item.variables:
        spec, some = variable.spec, bricks[variable.spec.name]
        _write_tiles(spec, some, store)
        size = max(len(brick.data) for brick in some.values())
        keys = (chunk_key(spec.name, position) for position in spec.positions())
        listed |= dict.fromkeys(keys, Entry(size, _DIGEST, _DIGEST[:32]))
    sizes = {key: store.size(key) or 0 for key in store.listing() if key != PARTIAL_KEY}
    listed |= {key: Entry(size, _DIGEST) for key, size in sizes.items()}
    return sum(sizes.values()) + len(Manifest(listed).to_bytes())


def _is_read_again(file: Any) -> bool:
    """Whether the digest that is promised is made when the archive is proven."""
    return bool(file.promise.kind == EQUAL_DATA)


def _write_tiles(spec: VariableSpec, bricks: Bricks, store: ArchiveStore) -> None:
    """The table of a variable whose bricks have the records of those given, by turns."""
    turns = dict(zip(spec.positions(), itertools.cycle(bricks), strict=False))
    records = {position: _record(brick) for position, brick in bricks.items()}

    def record(position: Position) -> BrickRecord:
        found = records[turns[position]]
        grid = TileGrid(spec.valid(position), spec.tile_shape)
        inside = {grid.position(number) for number in range(len(grid))}
        tiles = tuple(tile for tile in found.tiles if tile.position in inside)
        return BrickRecord(**{**vars(found), "tiles": tiles})

    write_tile_table(
        spec,
        record,
        store.put,
        levels=max(len(one.level_nbytes) for one in records.values()),
        methods={one.method for one in records.values()},
        bases={base for one in records.values() for base in one.compared},
    )


def _record(brick: EncodedBrick) -> BrickRecord:
    return BrickRecord(
        position=brick.index.position,
        size=len(brick.data),
        sha256=_DIGEST,
        head=_DIGEST[:32],
        method=brick.method,
        prior=brick.index.prior_digest,
        level_nbytes=tuple(brick.index.level_nbytes(n) for n in range(brick.index.levels)),
        tiles=brick.records,
        coverage=brick.coverage,
        compared=brick.compared,
    )


def preview_bytes(item: ItemPlan, nbytes: float) -> float:
    """What the preview of a variable takes about, whose bricks have so many bytes.

    The smallest level may just fit, or nearly the next one: half of the room, if there is any.
    """
    given = item.options.preview_size
    room = preview_room(nbytes) if given is None else float(given)
    return room / 2 if room > 2 * DOCUMENT else 0.0
