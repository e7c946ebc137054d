"""Putting good objects in the place of damaged ones, taken from replicas of the archive.

What is put in has the digest that the archive's own manifest lists, so a replica need not be whole
or trusted. Only where the manifest itself is lost does a replica's take its place, and only when it
is known to be of this archive. Each object is replaced in one step, the manifest last; what stands
in the way, or does not belong to the archive, is moved aside and never removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psc_volumetric.archive.access import SealedStore, missing, read_manifest
from psc_volumetric.archive.documents import MAX_DOCUMENT, MAX_MANIFEST
from psc_volumetric.archive.layout import MANIFEST_KEY, METADATA_KEY, PARTIAL_KEY
from psc_volumetric.archive.manifest import Entry, Manifest, sha256_hex
from psc_volumetric.archive.places import MendingPlace, mending_place
from psc_volumetric.archive.sealing import is_journal
from psc_volumetric.archive.stores import ArchiveStore
from psc_volumetric.errors import (
    FormatError,
    LimitExceededError,
    PscError,
    StorageError,
    UnsupportedVersionError,
)

__all__ = ["Mending", "Trouble", "mend"]

OnObject = Callable[[int, int], None]
LARGEST = 1 << 30  # bytes of an object
BETWEEN = "bytes between the members of the zip file"
_DIGEST = re.compile(rb'"digest":\s*"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Trouble:
    """One object that was not as listed.

    Attributes
    ----------
    key : str
    kind, message : str
        What was wrong with it.
    replica : str or None
        Where the good bytes come from; None: no replica has them.
    """

    key: str
    kind: str
    message: str
    replica: str | None = None


@dataclass
class Mending:
    """What was found and done.

    Attributes
    ----------
    manifest : Manifest
        That the archive was held to.
    troubles : list of Trouble
    aside : list of str
        Objects that did not belong to the archive, or stood in the way of one that does.
    objects : int
        How many were read.
    failures : dict
        Replica -> why objects of it could not be read, where that was no damage.
    """

    manifest: Manifest
    troubles: list[Trouble] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    objects: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def mended(self) -> list[Trouble]:
        """What a replica had."""
        return [trouble for trouble in self.troubles if trouble.replica is not None]

    @property
    def left(self) -> list[Trouble]:
        """What no replica had."""
        return [trouble for trouble in self.troubles if trouble.replica is None]


def mend(
    target: str,
    replicas: Sequence[ArchiveStore],
    *,
    expect: str | None = None,
    dry: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: OnObject | None = None,
) -> Mending:
    """Mend an archive from replicas.

    Parameters
    ----------
    target : str
        Folder, zip file of this machine, or URL that can be written to.
    replicas : sequence of ArchiveStore
        Asked one after the other.
    expect : str, optional
        Digest of the manifest, from elsewhere: another one counts as damaged.
    dry : bool
        Find out what would be done, write nothing.
    options : mapping, optional
        Storage options of the target.
    progress : callable, optional
        ``progress(done, total)`` after each object.

    Raises
    ------
    FormatError
        Kind ``"foreign-replica"``: the manifest is lost, and no replica is known to be of this
        archive. ``"not-sealed"``: the archive was never finished.
    UnsupportedVersionError
        The archive is of another release: what is wrong with it cannot be told.
    StorageError
        The target cannot be written to, or fails.
    """
    with mending_place(target, options=options) as place:
        data, manifest, trouble = _manifest(place.store, replicas, expect)
        done = Mending(manifest, objects=len(manifest.entries))
        if trouble is not None:
            done.troubles.append(trouble)
        _set_aside(place, manifest, done, dry=dry)
        present = set(place.store.listing())
        for number, (key, entry) in enumerate(sorted(manifest.entries.items())):
            error = _wrong(place.store, manifest, key, present)
            if error is not None:
                _mend_object(place, replicas, key, entry, error, done, dry=dry)
            if progress is not None:
                progress(number + 1, done.objects)
        if not dry and (done.mended or done.aside):
            place.finish(data, manifest, replace_manifest=trouble is not None)
    return done


def _wrong(store: ArchiveStore, manifest: Manifest, key: str, present: set[str]) -> PscError | None:
    """What is wrong with an object, None when it is as listed."""
    try:
        if key not in present:
            raise missing(store.name, key)
        SealedStore(store, manifest).compare(key)
    except FormatError as error:
        return error
    return None


def _mend_object(
    place: MendingPlace,
    replicas: Sequence[ArchiveStore],
    key: str,
    entry: Entry,
    error: PscError,
    done: Mending,
    *,
    dry: bool,
) -> None:
    for replica in replicas:
        data = _good_bytes(replica, key, entry, done)
        if data is not None:
            if not dry:
                done.aside += place.put(key, data)
            done.troubles.append(Trouble(key, error.kind, str(error), replica.name))
            return
    done.troubles.append(Trouble(key, error.kind, str(error)))


def _good_bytes(replica: ArchiveStore, key: str, entry: Entry, done: Mending) -> bytes | None:
    """The listed bytes, where a replica has them."""
    if entry.size > LARGEST:
        raise LimitExceededError(f"{replica.name}: {key}: {entry.size} bytes", kind="limit")
    try:
        data = replica.get(key, 0, entry.size + 1)
    except FormatError:  # this replica is damaged here
        return None
    except StorageError as error:  # this one is gone; another may have it
        done.failures[replica.name] = str(error)
        return None
    good = data is not None and len(data) == entry.size and sha256_hex(data) == entry.sha256
    return data if good else None


def _set_aside(place: MendingPlace, manifest: Manifest, done: Mending, *, dry: bool) -> None:
    """Move away what the manifest does not list."""
    if place.store.foreign_bytes:
        done.aside.append(BETWEEN)
    for key in place.store.listing():
        if key in manifest.entries or key == MANIFEST_KEY or is_journal(key):
            continue
        done.aside += [key] if dry else place.aside(key)


def _manifest(
    store: ArchiveStore, replicas: Sequence[ArchiveStore], expect: str | None
) -> tuple[bytes, Manifest, Trouble | None]:
    """The manifest to hold the archive to: its own, or else that of a replica of it."""
    own = None
    try:
        own = store.get(MANIFEST_KEY, 0, MAX_MANIFEST + 1)
        if own is None and store.exists(PARTIAL_KEY):
            raise FormatError(
                f"{store.name}: this archive was never finished, which is no damage",
                kind="not-sealed",
                hint="run the command that made it again; it continues where it stopped",
            )
        data, manifest = read_manifest(store)
        if expect in (None, manifest.digest):
            return data, manifest, None
        kind, message = "other-manifest", f"expected manifest {expect}, found {manifest.digest}"
    except UnsupportedVersionError:
        raise  # which is no damage
    except FormatError as error:
        if own is None and store.exists(PARTIAL_KEY):
            raise
        kind, message = ("missing-key" if own is None else error.kind), str(error)
    for replica, data, manifest in _manifests(replicas):
        if _is_same(store, own, manifest, expect):
            return data, manifest, Trouble(MANIFEST_KEY, kind, message, replica.name)
    raise FormatError(
        f"{store.name}: the manifest cannot be used ({message}), and no replica is known to be of "
        "this archive",
        kind="foreign-replica",
        hint="give the digest of its manifest with --expect, as `psc-archive archive` printed it",
    )


def _manifests(
    replicas: Sequence[ArchiveStore],
) -> Iterator[tuple[ArchiveStore, bytes, Manifest]]:
    for replica in replicas:
        try:
            data, manifest = read_manifest(replica)
        except (FormatError, StorageError):
            continue
        yield replica, data, manifest


def _is_same(
    store: ArchiveStore, own: bytes | None, manifest: Manifest, expect: str | None
) -> bool:
    """Whether a replica's manifest is of this archive.

    Its digest is the expected one; or else the damaged manifest still names it, or the archive's
    own root metadata, which say when and of what it was made, are those that it lists.
    """
    if expect is not None:
        return manifest.digest == expect
    named = _DIGEST.search(own[:4096]) if own else None
    if named is not None and named[1].decode() == manifest.digest:
        return True
    root = manifest.entries.get(METADATA_KEY)
    try:
        data = store.get(METADATA_KEY, 0, MAX_DOCUMENT)
    except FormatError:
        return False
    return root is not None and data is not None and sha256_hex(data) == root.sha256
