"""Archives as dictionaries: key -> bytes, to be changed and laid down again as folder or zip."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psc_volumetric.archive.access import header_digest
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Entry, Manifest, sha256_hex
from psc_volumetric.bitstream.constants import MAGIC

__all__ = [
    "Fifo",
    "Folder",
    "Link",
    "Tree",
    "edit_json",
    "entry_of",
    "lay_folder",
    "pack_zip",
    "read_tree",
    "remanifest",
]


@dataclass(frozen=True)
class Link:
    """A symbolic link in place of a file."""

    to: str


@dataclass(frozen=True)
class Folder:
    """A folder in place of a file."""


@dataclass(frozen=True)
class Fifo:
    """A named pipe in place of a file: reading it waits for ever."""


Tree = dict[str, bytes | Link | Folder | Fifo]


def read_tree(path: Path) -> Tree:
    """Everything in an archive, folder or zip file."""
    if path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    with zipfile.ZipFile(path) as packed:
        return {info.filename: packed.read(info) for info in packed.infolist()}


def lay_folder(tree: Tree, path: Path) -> Path:
    """Write a tree as a folder; keys that no file system takes are left out."""
    path.mkdir(parents=True)
    for key, what in tree.items():
        place = path / key
        if not key or "\0" in key or ".." in Path(key).parts or Path(key).is_absolute():
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(what, Link):
                place.symlink_to(what.to)
            elif isinstance(what, Folder):
                place.mkdir()
            elif isinstance(what, Fifo):
                os.mkfifo(place)
            else:
                place.write_bytes(what)
        except (OSError, UnicodeError):
            continue  # a name too long, or a file where a folder has to be
    return path


def pack_zip(tree: Tree) -> bytes:
    """The bytes of a zip file with what a zip file can hold of a tree."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for key, what in sorted(tree.items()):
            if isinstance(what, bytes):
                packed.writestr(zipfile.ZipInfo(key, (1980, 1, 1, 0, 0, 0)), what)
    return out.getvalue()


def remanifest(tree: Tree) -> None:
    """Make the manifest agree with everything in the tree."""
    entries = {
        key: entry_of(what)
        for key, what in tree.items()
        if isinstance(what, bytes) and key != MANIFEST_KEY
    }
    tree[MANIFEST_KEY] = Manifest(entries).to_bytes()


def entry_of(data: bytes) -> Entry:
    """What a manifest says about an object; of a brick, its header too."""
    header = data[: int.from_bytes(data[8:12], "little")] if data[:4] == MAGIC else None
    return Entry(len(data), sha256_hex(data), None if header is None else header_digest(header))


def edit_json(tree: Tree, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document in place."""
    data = tree[key]
    assert isinstance(data, bytes)
    document = json.loads(data)
    change(document)
    tree[key] = json.dumps(document).encode()
