"""Hostile archives: anything in a good one changed, the manifest made to agree.

Everything is drawn from one ``random.Random``, so that a find is its archive and its seed.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from numcodecs import Zstd

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.mutations import JSON, MUTATORS
from fuzz.mutations import _change_json as change_one

from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.source_frames import unpack_document
from psc_volumetric.bitstream.constants import MAGIC
from psc_volumetric.bitstream.frames import ZSTD_MAGIC
from psc_volumetric.errors import PscError
from tests.faults.trees import Fifo, Folder, Link, Tree, entry_of, pack_zip, remanifest

__all__ = ["hostile_tree", "hostile_zip"]

Mutator = Callable[[Tree, random.Random], None]

SIZES = (0, 1, 2, 3, 7, 255, 4096, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 62,
         (1 << 63) - 1, 1 << 63, 1 << 64, -1, -(1 << 40))  # fmt: skip
TEXTS = (
    "",
    "..",
    "../../outside",
    "/etc/hostname",
    "a" * 5000,
    "\ud800",
    "\0",
    "c/0",
    "zarr.json",
    "days since 0000-00-00",
    "é\u202e",
    "nan",
    "-1e999",
    "int128",
    "float16",
    "complex64",
    "|O",
    "<U9999999",
    "gzip",
    "psc_archive.psc",
)
RAW = (
    b"",
    b"{",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 6000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"\xff\xfe{}",
    b"null",
    b'"text"',
    b'{"a": 1e400, "b": NaN, "c": -Infinity}',
    b'{"a": 1, "a": 2}',
    b"\xef\xbb\xbf{}",
)


def _keys(tree: Tree, wanted: Callable[[str, bytes], bool]) -> list[str]:
    return [
        key for key, data in sorted(tree.items()) if isinstance(data, bytes) and wanted(key, data)
    ]


def _pick(tree: Tree, rng: random.Random, wanted: Callable[[str, bytes], bool]) -> str:
    return rng.choice(_keys(tree, wanted))


def _is_json(key: str, _: bytes) -> bool:
    return key.endswith("zarr.json")


def _is_top_json(key: str, _: bytes) -> bool:
    return key == "zarr.json" or (key.count("/") == 1 and key.endswith("/zarr.json"))


def _is_brick(_: str, data: bytes) -> bool:
    return data[:4] == MAGIC


def _is_chunk(key: str, data: bytes) -> bool:
    return "/c/" in key and data[:4] != MAGIC


SOURCE_KEY = "source/document"


def _scalar(rng: random.Random) -> Any:
    """A value of its own: a document that held one of ``JSON`` itself would change it later."""
    return copy.deepcopy(rng.choice((*SIZES, *TEXTS, *JSON)))


def _set_somewhere(node: Any, rng: random.Random) -> None:
    """Put a hostile value at a random place, deep places as likely as shallow ones."""
    for _ in range(rng.randrange(1, 9)):
        inner = node.values() if isinstance(node, dict) else node
        below = [item for item in inner if isinstance(item, dict | list) and item]
        if not below or rng.random() < 0.15:
            break
        node = rng.choice(below)
    if isinstance(node, dict) and node:
        node[rng.choice(sorted(node, key=str))] = _scalar(rng)
        if rng.random() < 0.1:
            node[str(_scalar(rng))] = _scalar(rng)
    elif isinstance(node, list) and node:
        node[rng.randrange(len(node))] = _scalar(rng)


def _change_document(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.04:
        return rng.choice(RAW)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.6 and isinstance(document, dict):
            _set_somewhere(document, rng)
        else:
            document = change_one(document, rng)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _metadata(tree: Tree, rng: random.Random) -> None:
    key = _pick(tree, rng, _is_top_json if rng.random() < 0.7 else _is_json)
    data = tree[key]
    assert isinstance(data, bytes)
    tree[key] = _change_document(data, rng)


def _brick(tree: Tree, rng: random.Random) -> None:
    key = _pick(tree, rng, _is_brick)
    data = tree[key]
    assert isinstance(data, bytes)
    tree[key] = rng.choice(MUTATORS["brick_decode"])(data, rng)


def _swap_bricks(tree: Tree, rng: random.Random) -> None:
    keys = _keys(tree, _is_brick)
    one, two = rng.choice(keys), rng.choice(keys)
    tree[one], tree[two] = tree[two], tree[one]


def _compress(data: bytes) -> bytes:
    return bytes(Zstd(level=1, checksum=True).encode(data))


def _bomb(claimed: int, data: bytes) -> bytes:
    """A zstd frame whose header claims another size: single segment, 8 bytes of content size."""
    return struct.pack("<IBQ", 0xFD2FB528, 0xE0, claimed % (1 << 64)) + data[9:]


def _chunk(tree: Tree, rng: random.Random) -> None:
    """A chunk of a plain array: other bytes, other lengths, bombs."""
    key = _pick(tree, rng, _is_chunk)
    data = tree[key]
    assert isinstance(data, bytes)
    kind = rng.randrange(6)
    if kind == 0:
        tree[key] = rng.randbytes(rng.choice((0, 1, 9, len(data))))
    elif kind == 1:
        tree[key] = _bomb(rng.choice(SIZES), data)
    elif kind == 2:
        tree[key] = _compress(bytes(rng.choice((0, 1, 8, 1 << 16, 64 << 20))))
    elif kind == 3:
        tree[key] = _compress(rng.randbytes(rng.choice((1, 64, 4096))))
    elif kind == 4:
        raw = bytearray(Zstd().decode(data))
        if raw:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        tree[key] = _compress(bytes(raw))
    else:
        tree[key] = data * rng.choice((2, 1000))


def _source(tree: Tree, rng: random.Random) -> None:
    """The source document: another JSON, another length of it, another frame."""
    data = tree.get(SOURCE_KEY)
    if not isinstance(data, bytes):
        return
    text, blobs = _parted(data)
    kind = rng.randrange(10)
    if kind == 0:
        tree[SOURCE_KEY] = _bomb(rng.choice(SIZES), data)
    elif kind == 1:
        tree[SOURCE_KEY] = _joined(text, blobs, length=rng.choice(SIZES) % (1 << 32))
    elif kind == 2:
        tree[SOURCE_KEY] = _joined(rng.choice(RAW), blobs)
    else:
        tree[SOURCE_KEY] = _joined(_change_document(text, rng), blobs)


def _blobs(tree: Tree, rng: random.Random) -> None:
    """Other bytes in the blobs."""
    data = tree.get(SOURCE_KEY)
    if not isinstance(data, bytes):
        return
    text, within = _parted(data)
    blobs = bytearray(within)
    table = json.loads(text).get("blobs") or []
    if not table or not blobs:
        return
    _, offset, size = rng.choice(table)
    piece = bytes(blobs[offset : offset + size])
    changed = MUTATORS["brick_decode"][0](piece, rng)[:size].ljust(size, b"\0")
    blobs[offset : offset + size] = changed
    tree[SOURCE_KEY] = _joined(text, bytes(blobs))


def _parted(data: bytes) -> tuple[bytes, bytes]:
    """JSON of a source document or a table of tiles, and what is behind it."""
    content = unpack_document(data, 1 << 30, SOURCE_KEY)
    end = 4 + int.from_bytes(content[:4], "little")
    return content[4:end], content[end:]


def _joined(text: bytes, blobs: bytes, length: int | None = None) -> bytes:
    head = (len(text) if length is None else length).to_bytes(4, "little")
    return _compress(head + text + blobs)


def _beside(tree: Tree, rng: random.Random) -> None:
    """Tables of tiles and previews: their JSON, what is behind it, or any bytes."""
    key = _pick(tree, rng, lambda key, _: key.startswith(("tiles/", "preview/")))
    data = tree[key]
    assert isinstance(data, bytes)
    if key.startswith("tiles/") and data[:4] == ZSTD_MAGIC and rng.random() < 0.9:
        text, planes = _parted(data)
        if rng.random() < 0.5:
            tree[key] = _joined(_change_document(text, rng), planes)
        else:
            tree[key] = _joined(text, MUTATORS["brick_decode"][0](planes, rng))
    else:
        tree[key] = _change_document(data, rng) if _is_json(key, data) else rng.randbytes(len(data))


def _lose(tree: Tree, rng: random.Random) -> None:
    del tree[_pick(tree, rng, lambda key, _: key != MANIFEST_KEY)]


def _add(tree: Tree, rng: random.Random) -> None:
    at = rng.choice(
        (
            *(text for text in TEXTS if text != "\ud800"),
            "volume/c/9/9/9",
            "source/x",
            "a//b",
            "a/./b",
            "priors/x/y",
        )
    )
    tree[at] = rng.choice((b"", b"x", b"{}"))


def _odd_file(tree: Tree, rng: random.Random) -> None:
    """What a file system can have in place of a file; the manifest keeps the old entry."""
    key = _pick(tree, rng, lambda *_: True)
    outside = ("/dev/zero", "/dev/full", "/proc/self/mem", "/etc/hostname", ".", key, "nowhere")
    tree[key] = rng.choice((Folder(), Fifo(), *(Link(to) for to in outside)))


# What an earlier change made unreadable cannot be changed again.
UNCHANGEABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    OverflowError,
    struct.error,
    PscError,
)
MUTATIONS: tuple[Mutator, ...] = (
    *(_metadata,) * 6,
    *(_brick,) * 4,
    *(_chunk,) * 3,
    *(_source,) * 4,
    *(_blobs,) * 2,
    *(_beside,) * 3,
    _swap_bricks,
    _lose,
    _add,
)


def _manifest(tree: Tree, rng: random.Random) -> None:
    """A manifest whose own digest is right and whose entries are not."""
    entries = {
        key: entry_of(data)
        for key, data in tree.items()
        if isinstance(data, bytes) and key != MANIFEST_KEY
    }
    for _ in range(rng.choice((1, 1, 3))):
        if not entries:
            break
        key = rng.choice(sorted(entries))
        kind = rng.randrange(5)
        if kind == 0:
            entries[key] = replace(entries[key], size=rng.choice(SIZES))
        elif kind == 1:
            entries[rng.choice(TEXTS).replace("\ud800", "?")] = entries[key]
        elif kind == 2:
            digest = rng.choice(("", "zz", "0" * 64, "é" * 64))
            entries[key] = replace(entries[key], sha256=digest)
        elif kind == 3:
            entries[key] = replace(entries[key], head=rng.choice((None, "", "0" * 32, "zz" * 16)))
        else:
            del entries[key]
    tree[MANIFEST_KEY] = Manifest(entries).to_bytes()


def hostile_tree(good: Tree, rng: random.Random) -> Tree:
    """A changed copy of a good tree."""
    tree = dict(good)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        with contextlib.suppress(*UNCHANGEABLE):
            rng.choice(MUTATIONS)(tree, rng)
    remanifest(tree)
    if rng.random() < 0.1:
        _manifest(tree, rng)
    if rng.random() < 0.08:
        _odd_file(tree, rng)
    return tree


# --- zip files ------------------------------------------------------------------------------------


def _deflated(tree: Tree) -> bytes:
    """Members compressed, one of them a bomb: 256 MiB in 256 kB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for key, what in sorted(tree.items()):
            if isinstance(what, bytes):
                packed.writestr(key, bytes(256 << 20) if key == "README.txt" else what)
    return out.getvalue()


def _doubled(tree: Tree, rng: random.Random) -> bytes:
    """Two members of one name, with other bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for key, what in sorted(tree.items()):
            if isinstance(what, bytes):
                packed.writestr(zipfile.ZipInfo(key), what)
        key = _pick(tree, rng, lambda *_: True)
        packed.writestr(zipfile.ZipInfo(key), b"again")
    return out.getvalue()


def _change_record(data: bytes, rng: random.Random) -> bytes:
    """Another number in a directory entry or a local header."""
    mark = rng.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    places = [n for n in range(len(data) - 46) if data[n : n + 4] == mark][:400]
    if not places:
        return data
    at = rng.choice(places) + rng.randrange(4, 46 if mark == b"PK\x01\x02" else 22)
    value = struct.pack("<I", rng.choice(SIZES) % (1 << 32))[: rng.choice((1, 2, 4))]
    return data[:at] + value + data[at + len(value) :]


def hostile_zip(good: Tree, rng: random.Random) -> bytes:
    """A zip file of a changed tree, or a changed zip file."""
    tree = hostile_tree(good, rng)
    kind = rng.randrange(8)
    if kind == 0:
        return _deflated(tree)
    if kind == 1:
        return _doubled(tree, rng)
    data = pack_zip(tree)
    if kind in (2, 3, 4):
        for _ in range(rng.choice((1, 1, 3))):
            data = _change_record(data, rng)
    elif kind == 5:
        data = MUTATORS["brick_decode"][0](data, rng)
    return data
