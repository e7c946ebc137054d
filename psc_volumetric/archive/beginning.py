"""Whether a target is free for an archive, and what its unfinished archive says about itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from psc_volumetric.archive import packing
from psc_volumetric.archive.documents import Head, decode
from psc_volumetric.archive.layout import PARTIAL_KEY
from psc_volumetric.archive.stores import ArchiveStore, Target, is_url, is_zip_name, open_store
from psc_volumetric.archive.targets import refuse_within_archive, target_state, tidy_up
from psc_volumetric.bitstream.versions import check_version
from psc_volumetric.errors import FormatError, StorageError, UnsupportedVersionError

__all__ = ["check_place", "read_head", "sealed_already", "target_exists"]


def check_place(target: Target) -> None:
    """Refuse a target below another archive.

    Raises
    ------
    StorageError : kind ``"within-archive"``.
    """
    if not isinstance(target, Store) and not is_url(target):
        refuse_within_archive(Path(os.fspath(target).removeprefix("file://")).parent)


def read_head(store: ArchiveStore) -> dict[str, Any] | None:
    """Fields of ``partial.json``; None when there is none.

    Raises
    ------
    FormatError : it is damaged (kind ``"journal-damaged"``).
    UnsupportedVersionError : another release began the archive.
    """
    data = store.get(PARTIAL_KEY)
    if data is None:
        return None
    where = f"{store.name}: {PARTIAL_KEY}"
    try:
        number = decode(data, dict[str, Any], where=where).get("format")
        check_version(number, where)
        found = decode(data, Head, where=where)
    except UnsupportedVersionError as error:
        hint = "finish it with the release that began it, or remove the unfinished archive"
        raise UnsupportedVersionError(error.message, kind=error.kind, hint=hint) from error
    except FormatError as error:
        raise FormatError(
            f"{error}",
            kind="journal-damaged",
            hint="remove the unfinished archive and start again",
        ) from error
    return {
        "identity": found.identity,
        "created": found.created,
        "mode": found.mode,
        "variables": found.variables,
        "beside": found.beside,
        "outside": found.outside,
    }


def sealed_already(
    target: Target, name: str, identity: str, options: Mapping[str, Any] | None
) -> StorageError:
    """The error for a sealed target, after tidying what a killed run left there."""
    place = packing.work_place(target)
    same = False
    if not is_zip_name(target) or target_state(place) == "sealed":
        head = read_head(open_store(place, options=options))
        same = head is not None and head["identity"] == identity
    tidied = tidy_up(target, options=options)
    return (
        packing.already_sealed(name) if same and tidied else target_exists(name, "a sealed archive")
    )


def target_exists(name: str, what: str) -> StorageError:
    """The error for a target that is taken."""
    return StorageError(
        f"{name}: {what} is there already",
        kind="target-exists",
        hint="archives are written once; choose another name",
    )
