"""Zip archives: built as a folder beside the target, packed reproducibly when sealed."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
import zipfile
from pathlib import Path

from zarr.abc.store import Store

from psc_volumetric.archive.layout import PARTIAL_KEY, PARTIAL_PREFIX
from psc_volumetric.archive.stores import ArchiveStore, Target, is_leftover, is_zip_name
from psc_volumetric.errors import StorageError

__all__ = [
    "already_sealed",
    "check_free",
    "pack",
    "remove_tree",
    "remove_work_place",
    "work_place",
]

EPOCH = (1980, 1, 1, 0, 0, 0)


def work_place(target: Target) -> Target:
    """Where the tree is built: the target itself, or a folder beside a zip file."""
    if isinstance(target, Store) or not is_zip_name(target):
        return target
    return f"{os.fspath(target)}.partial"


def already_sealed(name: str) -> StorageError:
    """The error for an archive that an earlier, killed run had in fact finished."""
    return StorageError(
        f"{name}: this archive is already finished and sealed",
        kind="already-sealed",
        hint="nothing is left to do",
    )


def check_free(target: Target, identity: str) -> None:
    """Refuse a target that is a file; tidy up when it is the zip file of this very archive."""
    if isinstance(target, Store) or "://" in os.fspath(target):
        return
    if not is_zip_name(target):
        if Path(os.fspath(target)).is_file():
            raise _exists(Path(os.fspath(target)))
        return
    path, work = Path(os.fspath(target)), Path(f"{os.fspath(target)}.partial")
    if not path.exists():
        return
    head = work / PARTIAL_KEY
    if head.is_file() and f'"identity": "{identity}"' in head.read_text():
        _remove_journal_last(work)
        raise already_sealed(str(path))
    raise _exists(path)


def _exists(path: Path) -> StorageError:
    return StorageError(
        f"{path}: something is there already",
        kind="target-exists",
        hint="archives are written once; choose another name",
    )


def _remove_journal_last(work: Path) -> None:
    for path in work.rglob("*"):
        if path.is_file() and path != work / PARTIAL_KEY:
            path.unlink()
    shutil.rmtree(work)


def pack(store: ArchiveStore, target: Target) -> None:
    """Pack the sealed tree into the zip file ``target``; the same tree gives the same bytes.

    Entries are stored, not compressed, sorted by key, with a fixed date. The file appears under
    its name only when it is complete, and never replaces another.
    """
    if isinstance(target, Store):
        raise StorageError("a Zarr store cannot be packed", kind="unsupported-target")
    path = Path(os.fspath(target))
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        if is_leftover(left.name):
            left.unlink()
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(beside, "x", zipfile.ZIP_STORED) as archive:
            for key in store.listing():
                if key != PARTIAL_KEY and not key.startswith(PARTIAL_PREFIX):
                    _add(archive, store, key)
        with beside.open("rb") as handle:
            os.fsync(handle.fileno())
        os.link(beside, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise StorageError(
            f"{path}: the zip file cannot be written ({error})", kind="storage-failed"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, store: ArchiveStore, key: str) -> None:
    info = zipfile.ZipInfo(key, date_time=EPOCH)
    info.external_attr = 0o644 << 16
    info.create_system = 3
    archive.writestr(info, store.get(key) or b"")


def remove_work_place(target: Target) -> None:
    """Remove the folder a zip archive was built in; ``partial.json`` goes last."""
    place = work_place(target)
    if not isinstance(place, Store):
        _remove_journal_last(Path(os.fspath(place)))


def remove_tree(store: ArchiveStore) -> None:
    """Remove every key of an unfinished archive, and its folder."""
    for key in store.listing():
        store.delete(key)
    if store.root is not None:
        shutil.rmtree(store.root)
