"""One small door to bytes: a folder of this machine, and all else through `zarr_stores`."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psc_volumetric.archive import folder
from psc_volumetric.archive.addresses import (
    Target,
    is_leftover,
    is_url,
    is_web,
    is_zip_name,
    target_text,
)
from psc_volumetric.archive.folder_store import ArchiveStore, FolderStore
from psc_volumetric.archive.storage_errors import translated
from psc_volumetric.errors import StorageError
from psc_volumetric.extras import require

__all__ = [
    "ArchiveStore",
    "Target",
    "is_leftover",
    "is_url",
    "is_web",
    "is_zip_name",
    "open_store",
    "target_text",
    "upload_file",
]


def open_store(
    target: Target, *, write: bool = False, options: Mapping[str, Any] | None = None
) -> ArchiveStore:
    """Open where an archive is or will be.

    Parameters
    ----------
    target : str, path or zarr Store
        Folder, zip file, or URL such as ``s3://bucket/scan.psc.zarr``.
    write : bool
        Open for writing; a folder is made. Zip files are never written in place.
    options : mapping, optional
        Storage options for fsspec, for URLs.

    Raises
    ------
    StorageError : nothing there, not readable, or the URL needs a package that is missing.
    FormatError : a file that is not a zip file.
    """
    if isinstance(target, (str, os.PathLike)) and not is_url(target):
        text = os.fspath(target).removeprefix("file://")
        path = Path(text)
        with translated(text):
            if write:
                folder.make_folder(path)
            if write or path.is_dir():
                return FolderStore(path, text, write=write)
            if not path.exists():
                raise StorageError(
                    f"{text}: there is nothing", kind="not-found", hint="check the path"
                )
    from psc_volumetric.archive.zarr_stores import open_zarr_store

    return open_zarr_store(target, write=write, options=options)


def upload_file(path: Path, url: str, options: Mapping[str, Any] | None = None) -> bool:
    """Write a file of this machine to a URL unless something is there; whether it was written.

    Raises
    ------
    StorageError : the server refuses, or fails.
    """
    from fsspec.core import url_to_fs

    if re.match(r"s3a?://", url):
        require("s3", url)
    with translated(url, remote=True):
        files, place = url_to_fs(url, **dict(options or {}))
        try:
            files.put_file(str(path), place, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno != errno.ENOSYS or files.exists(place):
                raise
            files.put_file(str(path), place)  # a server that knows no conditions
    return True
