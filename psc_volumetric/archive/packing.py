"""Zip archives: built as a folder beside the target, packed reproducibly when sealed."""

from __future__ import annotations

import glob
import os
import uuid
import zipfile
from pathlib import Path

from psc_volumetric.archive.folder import list_files, remove_empty_folders, sync_folders
from psc_volumetric.archive.layout import MANIFEST_KEY, PARTIAL_KEY, PARTIAL_PREFIX
from psc_volumetric.archive.stores import ArchiveStore, Target, is_leftover, is_zip_name
from psc_volumetric.errors import StorageError

__all__ = [
    "already_sealed",
    "pack",
    "remove_leftovers",
    "remove_work_place",
    "work_place",
]

EPOCH = (1980, 1, 1, 0, 0, 0)


def work_place(target: Target) -> Target:
    """Where the tree is built: the target itself, or a folder beside a zip file."""
    if not isinstance(target, (str, os.PathLike)) or not is_zip_name(target):
        return target
    return f"{os.fspath(target)}.partial"


def already_sealed(name: str) -> StorageError:
    """The error for an archive that an earlier, killed run had in fact finished."""
    return StorageError(
        f"{name}: this archive is already finished and sealed",
        kind="already-sealed",
        hint="nothing is left to do",
    )


def _exists(path: Path) -> StorageError:
    return StorageError(
        f"{path}: something is there already",
        kind="target-exists",
        hint="archives are written once; choose another name",
    )


def remove_leftovers(path: Path) -> None:
    """Remove half-written zip files that a killed run left beside the target."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        if is_leftover(left.name):
            left.unlink(missing_ok=True)


def pack(store: ArchiveStore, target: Target) -> None:
    """Pack the sealed tree into the zip file ``target``; the same tree gives the same bytes.

    Entries are stored, not compressed, sorted by key, with a fixed date. The file appears under
    its name only when it is complete, and never replaces another.
    """
    if not isinstance(target, (str, os.PathLike)):
        raise StorageError("a Zarr store cannot be packed", kind="unsupported-target")
    path = Path(os.fspath(target))
    remove_leftovers(path)
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(beside, "x", zipfile.ZIP_STORED) as archive:
            for key in store.listing():
                if key != PARTIAL_KEY and not key.startswith(PARTIAL_PREFIX):
                    _add(archive, store, key)
        with beside.open("rb") as handle:
            os.fsync(handle.fileno())
        os.link(beside, path)
        sync_folders([path.parent])
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise StorageError(
            f"{path}: the zip file cannot be written ({error})",
            kind="storage-failed",
            hint="check rights and free space, then run the same command again",
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, store: ArchiveStore, key: str) -> None:
    info = zipfile.ZipInfo(key, date_time=EPOCH)
    info.external_attr = 0o644 << 16
    info.create_system = 3
    archive.writestr(info, store.get(key) or b"")


def remove_work_place(target: Target) -> None:
    """Remove the folder a zip archive was built in; its manifest goes last.

    As long as that is there, a later run knows whose remains these are.
    """
    place = work_place(target)
    if not isinstance(place, (str, os.PathLike)):
        return
    work = Path(os.fspath(place))
    last = (PARTIAL_KEY, MANIFEST_KEY)
    for key in [*(k for k in list_files(work) if k not in last), *last]:
        (work / key).unlink(missing_ok=True)
    remove_empty_folders(work)
