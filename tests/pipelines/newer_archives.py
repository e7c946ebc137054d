"""Archives as a later release, or another package, may write them: whole, and not for us."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psc_volumetric.archive.access import SealedStore, header_digest, load_manifest
from psc_volumetric.archive.manifest import Entry, Manifest, sha256_hex
from psc_volumetric.archive.source import DOCUMENT_KEY, read_source, write_source
from psc_volumetric.archive.stores import open_store
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.methods.registry import read_index

HEADER_SIZE = slice(8, 12)
METHOD = 12  # of a brick: the byte that says which method codes it
LATER = 7  # a format number


def sealed_again(archive: Path) -> None:
    """Make a manifest of what a folder holds now."""
    entries = {}
    for path in sorted(archive.rglob("*")):
        key = path.relative_to(archive).as_posix()
        if path.is_file() and key != "manifest.json":
            data = path.read_bytes()
            head = None
            if data[:4] == b"PSCb":
                head = header_digest(data[: int.from_bytes(data[HEADER_SIZE], "little")])
            entries[key] = Entry(len(data), sha256_hex(data), head)
    (archive / "manifest.json").write_bytes(Manifest(entries).to_bytes())


def first_brick(archive: Path) -> Path:
    """A brick of the archive."""
    found = (path for path in sorted(archive.rglob("*")) if path.is_file())
    return next(path for path in found if path.read_bytes()[:4] == b"PSCb")


def _edit_header(archive: Path, place: int, value: int) -> None:
    path = first_brick(archive)
    data = bytearray(path.read_bytes())
    end = int.from_bytes(data[HEADER_SIZE], "little") - 4
    data[place] = value
    data[end : end + 4] = crc32c(bytes(data[:end])).to_bytes(4, "little")
    path.write_bytes(data)
    sealed_again(archive)


def later_format(archive: Path) -> None:
    """A later format number in the manifest and in the root's metadata."""
    later_metadata(archive)
    path = archive / "manifest.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "format": LATER}))


def later_metadata(archive: Path) -> None:
    """A later format number in the root's metadata alone."""
    _edit_json(archive / "zarr.json", lambda d: d["attributes"]["psc_archive"].update(format=LATER))
    sealed_again(archive)


def later_method(archive: Path) -> None:
    """A brick of a method that nobody here knows."""
    _edit_header(archive, METHOD, 99)


def foreign_method(archive: Path) -> None:
    """A brick of the method of another package."""
    _edit_header(archive, METHOD, 200)


def later_coder(archive: Path) -> None:
    """A brick with a layer of a coder that nobody here knows."""
    path = first_brick(archive)
    data = path.read_bytes()
    index = read_index(lambda start, size: data[start : start + size], len(data))
    layer = index.layers[0]
    code = bytes([{"bounded": 1, "lossless": 2}[layer.kind], int(layer.on_base)])
    _edit_header(archive, data.index(code, METHOD + 3, index.header_size) + 2, 99)


def later_source(archive: Path) -> None:
    """A kind of source files that nobody here knows."""
    _edit_source(archive, "later-kind", {})


def later_document(archive: Path) -> None:
    """A later version of the record of the source."""
    _edit_source(archive, "nifti", {"document_version": LATER})


def _edit_source(archive: Path, kind: str, fields: dict[str, Any]) -> None:
    store = open_store(archive)
    record = read_source(SealedStore(store, load_manifest(store)))
    blobs = dict(record.blobs)
    (archive / DOCUMENT_KEY).unlink()

    def put(key: str, data: bytes) -> None:
        (archive / key).write_bytes(data)

    write_source(put, kind, {**record.document, **fields}, blobs, record.files)
    sealed_again(archive)


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_text(json.dumps(document))
