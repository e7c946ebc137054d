"""From finished bricks to a sealed archive: tile tables, previews, manifest, tidying up."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from typing import Any

from psc_volumetric.archive.consolidated import with_copies
from psc_volumetric.archive.documents import decode
from psc_volumetric.archive.folder import remove_empty_folders
from psc_volumetric.archive.journal import BrickRecord, journal_key, preview_key
from psc_volumetric.archive.kept_preview import Pictured
from psc_volumetric.archive.layout import (
    MANIFEST_KEY,
    METADATA_KEY,
    PARTIAL_KEY,
    PARTIAL_PREFIX,
    README_KEY,
    SIDECARS,
    VariableSpec,
    chunk_key,
    encode_json,
)
from psc_volumetric.archive.manifest import Entry, Manifest, sha256_hex
from psc_volumetric.archive.preview import preview_room, read_parts, write_preview
from psc_volumetric.archive.priors import prior_prefix
from psc_volumetric.archive.series import write_series
from psc_volumetric.archive.stage import Stage
from psc_volumetric.archive.stores import ArchiveStore, is_leftover
from psc_volumetric.archive.tiles import write_tile_table
from psc_volumetric.errors import StorageError

__all__ = ["clean_up", "commit", "consolidate", "is_journal", "prepare", "remove_tree"]


def prepare(
    store: ArchiveStore,
    variables: Sequence[VariableSpec],
    beside: Sequence[str],
    preview_bytes: int | None = None,
    pictured: Sequence[Pictured] = (),
    outside: Container[str] = (),
) -> Manifest:
    """Complete the tree but for ``manifest.json``, and say what that will hold.

    ``beside`` are the nodes of plain arrays and groups, ``preview_bytes`` what the preview of each
    variable may take (None: a small share of its bricks), ``pictured`` variables without bricks
    that have one, ``outside`` digests of priors that stay out of the archive. Every object is read
    back: what is listed is what the store holds now.

    Raises
    ------
    StorageError
        Kind ``"incomplete"`` (a brick or prior is missing), ``"brick-damaged"`` (a brick is not
        what was written), ``"foreign-key"``.
    """
    bricks: dict[str, Entry] = {}
    coded = sorted(variables, key=lambda spec: -spec.nbytes)
    sizes = [(spec, _complete_variable(store, spec, bricks, outside)) for spec in coded]
    files = [(one.spec, one.nbytes) for one in sorted(pictured, key=lambda one: -one.spec.nbytes)]
    others = _bytes_beside(store, bricks) - sum(nbytes for _, nbytes in files)
    images = _write_previews(store, sizes + files, preview_bytes, max(0, others))
    write_series(images, store, Stage(store))
    consolidate(store, [*(spec.node for spec in variables), *beside])
    _remove_leftovers(store)
    for key, entry in bricks.items():
        _check_back(store, key, entry)
    return Manifest({**bricks, **_other_entries(store, variables, beside, bricks)})


def consolidate(store: ArchiveStore, nodes: Sequence[str]) -> None:
    """Let the root say what its nodes say."""
    found: dict[str, dict[str, Any]] = {}
    for path in ("", *nodes):
        key = f"{path}/{METADATA_KEY}" if path else METADATA_KEY
        found[path] = decode(store.get(key) or b"", dict, where=f"{store.name}: {key}")
    root = found.pop("")
    store.put(METADATA_KEY, encode_json(with_copies(root, found)))


def commit(store: ArchiveStore, manifest: Manifest, data: bytes | None = None) -> None:
    """Write ``manifest.json`` last, exclusively, after everything it lists is on disk.

    ``data`` are its bytes where they are given: a copy has those of the archive it is a copy of.

    The journal is left in place; :func:`clean_up` removes it afterwards, so that a process killed
    at any moment leaves either an archive that can be continued or a sealed one.
    """
    store.flush(manifest.entries)
    if not store.set_exclusive(MANIFEST_KEY, manifest.to_bytes() if data is None else data):
        raise StorageError(
            f"{store.name}: another writer sealed this archive with other bytes",
            kind="target-exists",
            hint="archives are written once; compare the two runs",
        )
    store.flush([MANIFEST_KEY])


def _check_back(store: ArchiveStore, key: str, entry: Entry) -> None:
    """Refuse a brick that the store does not hold as it was written."""
    data = store.get(key) or b""
    if len(data) != entry.size or sha256_hex(data) != entry.sha256:
        raise StorageError(
            f"{store.name}: brick {key} is not what was written a moment ago",
            kind="brick-damaged",
            hint="check the storage, then run the same command again; it codes this brick again",
        )


def clean_up(store: ArchiveStore) -> None:
    """Remove the journal of a sealed archive; ``partial.json`` goes last."""
    for key in store.listing(PARTIAL_PREFIX):
        store.delete(key)
    _remove_leftovers(store)
    if store.root is not None:
        remove_empty_folders(store.root / PARTIAL_PREFIX)
    store.delete(PARTIAL_KEY)


def remove_tree(
    store: ArchiveStore, variables: Sequence[VariableSpec], beside: Sequence[str]
) -> None:
    """Remove an unfinished archive; ``partial.json`` goes last, what is not its own stays."""
    belongs = _belonging(variables, beside)
    for key in store.listing():
        if key != PARTIAL_KEY and (belongs(key) or is_journal(key)):
            store.delete(key)
    store.delete(PARTIAL_KEY)
    if store.root is not None:
        remove_empty_folders(store.root)


def is_journal(key: str) -> bool:
    """Whether a key is the writer's own note or a half-written file, and no part of the archive."""
    return key == PARTIAL_KEY or key.startswith(PARTIAL_PREFIX) or is_leftover(key)


def _belonging(variables: Sequence[VariableSpec], beside: Sequence[str]) -> Callable[[str], bool]:
    """Tell of keys whether an archive of these variables and other nodes has them."""
    nodes = {*beside, *(v.node for v in variables)}

    def belongs(key: str) -> bool:
        if key in (METADATA_KEY, README_KEY) or key.startswith(SIDECARS):
            return True
        node, _, last = key.rpartition("/")
        return (last in (METADATA_KEY, "c") and node in nodes) or _is_chunk(key, nodes)

    return belongs


def _is_chunk(key: str, nodes: Container[str]) -> bool:
    return any(key[: found.start()] in nodes for found in re.finditer("/(?=c/)", key))


def _remove_leftovers(store: ArchiveStore) -> None:
    for key in store.listing():
        if is_leftover(key):
            store.delete(key)


def _reader(store: ArchiveStore, spec: VariableSpec) -> Callable[[tuple[int, ...]], BrickRecord]:
    def record(position: tuple[int, ...]) -> BrickRecord:
        key = journal_key(spec.name, position)
        data = store.get(key)
        if data is None:
            raise StorageError(
                f"{store.name}: brick {chunk_key(spec.name, position)} is not finished",
                kind="incomplete",
                hint="run the same command again; it continues where it stopped",
            )
        return BrickRecord.from_bytes(data, where=key)

    return record


def _complete_variable(
    store: ArchiveStore,
    spec: VariableSpec,
    bricks: dict[str, Entry],
    outside: Container[str],
) -> int:
    """Check that all bricks are there, then write ``tiles/`` of a variable; bytes of its bricks."""
    record = _reader(store, spec)
    levels, priors, methods = 1, set(), set()
    bases: set[str] = set()
    nbytes = 0
    present = set(store.listing(f"{spec.node}/c/"))
    for position in spec.positions():
        found, key = record(position), chunk_key(spec.name, position)
        if key not in present:
            raise StorageError(
                f"{store.name}: brick {key} is in the journal but not in the store",
                kind="incomplete",
                hint="run the same command again; it continues where it stopped",
            )
        bricks[key] = Entry(found.size, found.sha256, found.head)
        levels = max(levels, len(found.level_nbytes))
        methods.add(found.method)
        bases.update(found.compared)
        nbytes += found.size
        if found.prior is not None:
            priors.add(found.prior)
    named = spec.prior or ""
    if priors and named not in outside and not store.listing(prior_prefix(named)):
        raise StorageError(
            f"{store.name}: bricks of {spec.name} need prior {spec.prior}, which is not in the "
            "archive",
            kind="incomplete",
            hint="call write_prior before seal",
        )
    write_tile_table(spec, record, store.put, levels=levels, methods=methods, bases=bases)
    return nbytes


def _bytes_beside(store: ArchiveStore, bricks: Container[str]) -> int:
    """Bytes of all objects but bricks, previews, and what follows from them.

    The same in a run that goes on after a kill, so that it writes the same previews.
    """
    return sum(
        store.size(key) or 0
        for key in store.listing()
        if not (
            key in bricks or key.startswith("preview/") or is_journal(key) or key == METADATA_KEY
        )
    )


def _write_previews(
    store: ArchiveStore,
    sizes: Sequence[tuple[VariableSpec, int]],
    preview_bytes: int | None,
    beside: int,
) -> list[str]:
    """Write ``preview/`` of variables with so many stored bytes each; gives the groups."""
    total = sum(nbytes for _, nbytes in sizes) or 1
    images: list[str] = []
    for spec, nbytes in sizes:
        limit = preview_bytes
        if limit is None:
            limit = int(preview_room(nbytes, beside * nbytes / total))
        images += _previewed(store, spec, limit)
    return images


def _previewed(store: ArchiveStore, spec: VariableSpec, limit: int) -> list[str]:
    """Write ``preview/`` of a variable, in so many bytes; gives its groups."""
    stage = Stage(store)
    parts = read_parts(spec, lambda position: store.get(preview_key(spec.name, position)))
    images = write_preview(spec, parts, stage, limit=limit)
    stage.flush()
    return images


def _other_entries(
    store: ArchiveStore,
    variables: Sequence[VariableSpec],
    beside: Sequence[str],
    bricks: dict[str, Entry],
) -> dict[str, Entry]:
    """Entries of every key that is not a brick; refuse keys that do not belong."""
    entries, belongs = {}, _belonging(variables, beside)
    cut = {v.node for v in variables}
    for key in store.listing():
        if key in bricks or key == MANIFEST_KEY or is_journal(key):
            continue
        if not belongs(key) or _is_chunk(key, cut):
            raise StorageError(
                f"{store.name}: {key!r} does not belong to the archive",
                kind="foreign-key",
                hint="remove it, then run the same command again",
            )
        data = store.get(key)
        if data is not None:
            entries[key] = Entry(len(data), sha256_hex(data))
    return entries
