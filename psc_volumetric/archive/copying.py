"""Copying a sealed archive to another store: object by object, each compared with the manifest.

A copy is begun, continued and sealed as an archive is: what stands at its place before the manifest
is written does not read as an archive, and a sealed one is never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from psc_volumetric.archive.access import SealedStore, load_manifest, read_manifest
from psc_volumetric.archive.beginning import check_place, target_exists
from psc_volumetric.archive.layout import FORMAT, MANIFEST_KEY, PARTIAL_KEY, encode_json
from psc_volumetric.archive.manifest import Manifest, sha256_hex
from psc_volumetric.archive.packing import work_place
from psc_volumetric.archive.prepared import PreparedArchive
from psc_volumetric.archive.sealing import is_journal
from psc_volumetric.archive.stores import (
    ArchiveStore,
    Target,
    is_leftover,
    open_store,
    target_text,
)
from psc_volumetric.archive.targets import target_state, tidy_up
from psc_volumetric.errors import FormatError, StorageError

__all__ = ["Copied", "begin_copy", "copy_archive", "copy_head"]

WORKERS = 4
LARGE = 64 << 20  # bytes of an object that is moved while no other one is in memory
OnObject = Callable[[int, int], None]


@dataclass(frozen=True)
class Copied:
    """What copying an archive came to.

    Attributes
    ----------
    manifest : Manifest
        Of the archive, and of its copy.
    moved, nbytes : int
        Objects that were written now, and their bytes.
    found : int
        Objects that an earlier run, or an earlier copy, had written.
    was_there : bool
        The copy was sealed already.
    absent : tuple of str
        Keys that a copy which was sealed already does not have any more.
    """

    manifest: Manifest
    moved: int = 0
    nbytes: int = 0
    found: int = 0
    was_there: bool = False
    absent: tuple[str, ...] = ()


def copy_archive(
    source: Target,
    target: Target,
    *,
    check: bool = False,
    source_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: OnObject | None = None,
) -> Copied:
    """Copy a sealed archive, or go on with a copy that was begun.

    Parameters
    ----------
    source, target : str, path or zarr Store
        Folder, zip file or URL; the kinds may differ. The target's name decides what it becomes;
        zip files are made on this machine only.
    check : bool
        Read the copy back, and compare it, before it is sealed; also one that is there already.
    source_options, options : mapping, optional
        Storage options for URLs, of the source and of the target.
    progress : callable, optional
        ``progress(done, total)`` after each object.

    Raises
    ------
    FormatError
        The source, or what the target gives back, is damaged; nothing is sealed.
    StorageError
        Kind ``"target-exists"``: another archive, or something else, is there.
        ``"partial-differs"``: an unfinished archive that is no copy of this one.

    Notes
    -----
    Four objects at most are in memory, on this machine and of large ones one. Nothing is ever
    replaced or removed but what a killed run of the same copy left half written.
    """
    store = open_store(source, options=source_options)
    try:
        data, manifest = read_manifest(store)
        sealed = SealedStore(store, manifest)
        if target_state(target, options=options) == "sealed":
            return _there(target, manifest, check=check, options=options)
        place = begin_copy(target, copy_head(data), options=options)
        outcome = _move(sealed, place, progress)
        if check:
            _compare(SealedStore(place, manifest), manifest.entries)
        PreparedArchive(place, target, manifest, data).commit()
        return outcome
    finally:
        store.close()


def copy_head(manifest: bytes) -> bytes:
    """``partial.json`` of a copy that is not sealed: nothing else is mixed with it."""
    return encode_json(
        {
            "format": FORMAT,
            "identity": sha256_hex(b"copy " + manifest),
            "created": None,
            "mode": "lossless",
            "variables": {},
        }
    )


def begin_copy(
    target: Target, head: bytes, *, options: Mapping[str, Any] | None = None
) -> ArchiveStore:
    """Open a target that is free, or has what an earlier run for the same copy left.

    Parameters
    ----------
    target : str, path or zarr Store
    head : bytes
        ``partial.json``: tells copies of different archives apart.
    options : mapping, optional

    Raises
    ------
    StorageError : kind ``"target-exists"``, ``"partial-differs"``, ``"within-archive"``.
    """
    name = target_text(target)
    check_place(target)
    state = target_state(target, options=options)
    if state in ("sealed", "foreign"):
        raise target_exists(name, "something" if state == "foreign" else "a sealed archive")
    store = open_store(work_place(target), write=True, options=options)
    if not store.set_exclusive(PARTIAL_KEY, head):
        raise StorageError(
            f"{name}: an unfinished archive of something else is there",
            kind="partial-differs",
            hint="finish that one, or choose another name",
        )
    if target_state(target, options=options) == "sealed":  # meanwhile, by another writer
        store.delete(PARTIAL_KEY)
        raise target_exists(name, "a sealed archive")
    for key in filter(is_leftover, store.listing()):
        store.delete(key)
    return store


def _there(
    target: Target, manifest: Manifest, *, check: bool, options: Mapping[str, Any] | None
) -> Copied:
    """A target that is sealed: it is the copy, or refused."""
    tidy_up(target, options=options)
    store = open_store(target, options=options)
    try:
        if load_manifest(store) != manifest:
            raise target_exists(target_text(target), "another sealed archive")
        present = set(store.listing())
        absent = tuple(sorted(set(manifest.entries) - present))
        if check and not absent:
            _compare(SealedStore(store, manifest), manifest.entries)
        return Copied(manifest, found=len(manifest.entries), was_there=True, absent=absent)
    finally:
        store.close()


def _move(source: SealedStore, place: ArchiveStore, progress: OnObject | None) -> Copied:
    """Write every object that is not there yet."""
    manifest, present = source.manifest, set(place.listing())
    copy = SealedStore(place, manifest)
    done = moved = nbytes = 0
    listed = {*manifest.entries, MANIFEST_KEY}  # sealed, but not packed into its zip file yet
    if foreign := sorted(key for key in present - listed if not is_journal(key)):
        raise StorageError(
            f"{place.name}: {foreign[0]!r} does not belong to the archive",
            kind="foreign-key",
            hint="remove it, then run the same command again",
        )

    def move(key: str) -> int:
        if key in present and _is_whole(copy, key):
            return 0
        data = source.read(key)
        place.set(key, data)
        return len(data) + 1

    small = [key for key, entry in manifest.entries.items() if entry.size < LARGE]
    large = [key for key, entry in manifest.entries.items() if entry.size >= LARGE]
    many = WORKERS if source.store.is_remote or place.is_remote else 1  # a disk has one arm
    for keys, workers in ((small, many), (large, 1)):
        with ThreadPoolExecutor(workers, "psc_copy") as pool:
            futures = [pool.submit(move, key) for key in sorted(keys)]
            try:
                for future in as_completed(futures):
                    written = future.result()
                    done, moved = done + 1, moved + bool(written)
                    nbytes += max(0, written - 1)
                    if progress is not None:
                        progress(done, len(manifest.entries))
            finally:
                for future in futures:
                    future.cancel()
    return Copied(manifest, moved, nbytes, done - moved)


def _is_whole(copy: SealedStore, key: str) -> bool:
    try:
        copy.compare(key)
    except FormatError:
        return False
    return True


def _compare(copy: SealedStore, keys: Iterable[str]) -> None:
    for key in keys:
        copy.compare(key)
