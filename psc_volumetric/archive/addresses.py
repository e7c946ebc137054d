"""Where archives are, as people write it: folders, zip files, URLs, and what may be shown of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from psc_volumetric.errors import ParameterError

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "Target",
    "is_leftover",
    "is_url",
    "is_web",
    "is_zip_name",
    "place_beside",
    "root_of",
    "target_text",
    "without_secrets",
]

_WEB = ("http://", "https://")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")  # a path may have colons, too
_LEFTOVER = re.compile(r"(^|[./])[0-9a-f]{32}\.partial$")

Target: TypeAlias = "str | os.PathLike[str] | Store"


def root_of(store: Store) -> Path | None:
    """The folder that a Zarr store is on this machine."""
    from zarr.storage import LocalStore  # who has a store has loaded it

    return store.root if isinstance(store, LocalStore) else None


def is_zip_name(target: Target) -> bool:
    """Whether the name asks for one zip file."""
    if not isinstance(target, (str, os.PathLike)):
        return False
    text = os.fspath(target)
    return (urlsplit(text).path if is_web(text) else text).lower().endswith(".zip")


def is_url(target: Target) -> bool:
    """Whether the target is not on this machine's file system."""
    if not isinstance(target, (str, os.PathLike)):
        return root_of(target) is None
    text = os.fspath(target)
    return _PROTOCOL.match(text) is not None and not text.startswith("file://")


def is_web(target: Target) -> bool:
    """Whether the target is behind a web server, which is read from and lists nothing."""
    return isinstance(target, (str, os.PathLike)) and os.fspath(target).startswith(_WEB)


def place_beside(target: str, suffix: str) -> Path:
    """Path of what stands beside a folder or file of this machine, under its name and a suffix.

    ``.`` and what has ``..`` in it have the names of the folders that they are.

    Raises
    ------
    ParameterError : kind ``"no-place"``: nothing stands beside the root of the file system.
    """
    path = Path(target.removeprefix("file://"))
    path = path.resolve() if not path.name or ".." in path.parts else path.absolute()
    if not path.name:
        raise ParameterError(
            f"expected a folder or file with a name, found {target!r}, the root of the file system",
            kind="no-place",
            hint="name a folder in it: locks and logs stand beside that",
        )
    return path.with_name(path.name + suffix)


def is_leftover(key: str) -> bool:
    """Whether this is a temporary file of a write that was killed."""
    return _LEFTOVER.search(key) is not None


def target_text(target: Target) -> str:
    """The target as people write it, for messages; of a web address without its secrets."""
    if not isinstance(target, (str, os.PathLike)):
        return str(target)
    text = os.fspath(target)
    return without_secrets(text) if is_web(text) else text


def without_secrets(url: str) -> str:
    """An address as it may be shown: no password, no query, which often is a signature."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
