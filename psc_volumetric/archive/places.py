"""Where an archive is mended: in its folder or bucket, or beside a zip file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from psc_volumetric.archive import folder, packing
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.stores import (
    ArchiveStore,
    is_url,
    is_web,
    is_zip_name,
    open_store,
    target_text,
)
from psc_volumetric.errors import FormatError, PscError, StorageError

__all__ = ["ASIDE", "MendingPlace", "mending_place", "refuse_unmendable"]

ASIDE = ".aside"
MENDING = ".mending"


class MendingPlace:
    """An archive that objects are put into, one by one, each in one step.

    Attributes
    ----------
    store : ArchiveStore
        The archive as it is.
    """

    def __init__(self, store: ArchiveStore, name: str, options: Mapping[str, Any] | None) -> None:
        self.store = store
        self._name = name
        self._options = options

    def put(self, key: str, data: bytes) -> list[str]:
        """Write an object over a damaged one; names what had to be moved out of its way."""
        moved = self._clear(key)
        self.store.set(key, data)
        self.store.flush([key])
        return moved

    def aside(self, key: str) -> list[str]:
        """Move an object out of the archive, to ``<archive>.aside``; names it."""
        if self.store.root is not None:
            self._move(self.store.root / key, key)
        else:
            data = self.store.get(key)
            place = open_store(self._name + ASIDE, write=True, options=self._options)
            for number in count():
                free = f"{key}.{number}" if number else key
                if data is None or place.set_exclusive(free, data):
                    break
            self.store.delete(key)
        return [key]

    def finish(self, data: bytes, manifest: Manifest, *, replace_manifest: bool) -> None:
        """Write the manifest, last, where it was damaged."""
        if replace_manifest:
            self._clear(MANIFEST_KEY)
            self.store.set(MANIFEST_KEY, data)
            self.store.flush([MANIFEST_KEY])

    def _clear(self, key: str) -> list[str]:
        """Move away what is no folder, or no plain file, where the key needs one."""
        if self.store.root is None:
            return []
        path, parts = self.store.root, key.split("/")
        for number, part in enumerate(parts):
            path = path / part
            if not os.path.lexists(path):
                return []
            last = number == len(parts) - 1
            fits = path.is_file() if last else path.is_dir()
            if path.is_symlink() or not fits:
                inside = "/".join(parts[: number + 1])
                self._move(path, inside)
                return [inside]
        return []

    def _move(self, path: Path, key: str) -> None:
        root = Path(self._name.removeprefix("file://").rstrip("/") + ASIDE)
        target = root / key
        for number in count(1):
            if not os.path.lexists(target):
                break
            target = root / f"{key}.{number}"
        try:
            folder.make_folder(target.parent)
            path.rename(target)
            folder.sync_folders([target.parent, path.parent])
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be moved aside ({error.strerror})",
                kind="storage-failed",
                hint="check the rights",
            ) from error


class _ZipPlace(MendingPlace):
    """A zip file: its good members are unpacked beside it, mended there, and packed again.

    The file is replaced in one step, and what it was stays beside it as ``<name>.aside``.
    """

    def __init__(self, packed: ArchiveStore, path: Path) -> None:
        super().__init__(packed, str(path), None)
        self._path = path
        self._remove_abandoned()
        self._tree = path.with_name(f"{path.name}.{uuid.uuid4().hex}{MENDING}")
        self._work = open_store(str(self._tree), write=True)

    def put(self, key: str, data: bytes) -> list[str]:
        self._work.put(key, data)
        return []

    def aside(self, key: str) -> list[str]:
        return [key]  # not packed again, and still in the file that stays

    def finish(self, data: bytes, manifest: Manifest, *, replace_manifest: bool) -> None:
        for key in set(manifest.entries) - set(self._work.listing()):
            with contextlib.suppress(PscError):  # what no replica has stays as it is
                found = self.store.get(key)
                if found is not None:
                    self._work.put(key, found)
        self._work.put(MANIFEST_KEY, data)
        packed = self._tree.with_name(self._tree.name + ".zip")
        packing.pack(self._work, packed)
        kept = self._path.with_name(self._path.name + ASIDE)
        for number in count(1):
            if not kept.exists():
                break
            kept = self._path.with_name(f"{self._path.name}{ASIDE}.{number}")
        os.link(self._path, kept)
        packed.replace(self._path)
        folder.sync_folders([self._path.parent])

    def close(self) -> None:
        """Remove the unpacked tree."""
        self._remove_abandoned()

    def _remove_abandoned(self) -> None:
        """Remove what this run unpacked, and what a killed one left."""
        pattern = re.compile(re.escape(self._path.name) + r"\.[0-9a-f]{32}\.mending(\.zip.*)?")
        for left in list(self._path.parent.iterdir()):
            if pattern.fullmatch(left.name):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def refuse_unmendable(target: str) -> None:
    """Refuse where objects cannot be replaced (StorageError, kind ``"unsupported-target"``)."""
    if is_web(target) or (is_url(target) and is_zip_name(target)):
        raise StorageError(
            f"{target_text(target)}: what is there cannot be written to object by object",
            kind="unsupported-target",
            hint="mend a copy on this machine or in a bucket, then put it there",
        )


@contextlib.contextmanager
def mending_place(
    target: str, *, options: Mapping[str, Any] | None = None
) -> Iterator[MendingPlace]:
    """Open an archive, however damaged, for mending.

    Raises
    ------
    StorageError : nothing is there, or it cannot be written to (kind ``"unsupported-target"``).
    """
    refuse_unmendable(target)
    if not is_url(target) and is_zip_name(target):
        path = Path(target.removeprefix("file://"))
        if not path.is_file():
            raise StorageError(f"{target}: there is nothing", kind="not-found", hint="copy it anew")
        zipped = _ZipPlace(_readable_zip(path), path)
        try:
            yield zipped
        finally:
            zipped.close()
            zipped.store.close()
        return
    open_store(target, options=options).close()  # refuses where nothing is
    store = open_store(target, write=True, options=options)
    try:
        yield MendingPlace(store, target.rstrip("/"), options)
    finally:
        store.close()


def _readable_zip(path: Path) -> ArchiveStore:
    """The zip file, or a store without objects where it is no zip file any more."""
    try:
        return open_store(str(path))
    except FormatError:
        from zarr.storage import MemoryStore

        from psc_volumetric.archive.zarr_stores import ZarrStore

        nothing = ZarrStore(MemoryStore(), str(path))
        nothing.is_remote = False
        return nothing
