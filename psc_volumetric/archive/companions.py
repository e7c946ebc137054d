"""Small objects beside an archive, under its name and a suffix: never in the sealed tree.

A signature (``scan.psc.zarr.sig``) and what is left of an archive that was retired
(``scan.psc.zarr.retired.json``). Like a manifest they are written once, only where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from zarr.abc.store import Store

from psc_volumetric.archive.addresses import place_beside
from psc_volumetric.archive.stores import ArchiveStore, Target, is_url, is_web, open_store
from psc_volumetric.errors import LimitExceededError, ParameterError, StorageError

__all__ = [
    "RETIRED_SUFFIX",
    "SIGNATURE_SUFFIX",
    "companion_name",
    "read_companion",
    "write_companion",
]

SIGNATURE_SUFFIX = ".sig"
RETIRED_SUFFIX = ".retired.json"
LARGEST = 1 << 20  # bytes

Options = Mapping[str, Any] | None


def companion_name(target: Target, suffix: str) -> str:
    """Path or URL of a companion.

    Raises
    ------
    ParameterError : a Zarr store has no place beside it (kind ``"no-place"``).
    """
    if isinstance(target, Store):
        raise ParameterError(
            f"{target}: an archive in a Zarr store has nothing beside it",
            kind="no-place",
            hint="name the archive by its path or URL",
        )
    text = os.fspath(target)
    if not is_web(text):
        plain = is_url(text) or Path(text).name not in ("", "..")
        return text.rstrip("/") + suffix if plain else str(place_beside(text, suffix))
    parts = urlsplit(text)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))


def read_companion(target: Target, suffix: str, *, options: Options = None) -> bytes | None:
    """Bytes of a companion; None when there is none.

    Raises
    ------
    StorageError : the storage fails.
    LimitExceededError : more than a mebibyte.
    """
    name = companion_name(target, suffix)
    try:
        store, key = _place(name, write=False, options=options)
    except StorageError as error:
        if error.kind == "not-found":
            return None
        raise
    try:
        data = store.get(key, 0, LARGEST + 1)
    finally:
        store.close()
    if data is not None and len(data) > LARGEST:
        raise LimitExceededError(f"{name}: more than {LARGEST} bytes", kind="limit")
    return data


def write_companion(target: Target, suffix: str, data: bytes, *, options: Options = None) -> bool:
    """Write a companion unless there is one; True when the store now holds these bytes for good.

    Raises
    ------
    StorageError : the storage fails.
    """
    store, key = _place(companion_name(target, suffix), write=True, options=options)
    try:
        return store.set_exclusive(key, data)
    finally:
        store.close()


def _place(name: str, *, write: bool, options: Options) -> tuple[ArchiveStore, str]:
    """The folder of a companion, and its key there."""
    if is_web(name):
        parts = urlsplit(name)
        place, _, key = parts.path.rpartition("/")
        folder = urlunsplit(parts._replace(path=place))
        return open_store(folder, write=write, options=options), unquote(key)
    if is_url(name):
        folder, _, key = name.rpartition("/")
        return open_store(folder, write=write, options=options), key
    path = Path(name.removeprefix("file://")).absolute()
    return open_store(path.parent, write=write, options=options), path.name
