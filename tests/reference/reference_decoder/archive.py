"""Section 11 of SPEC-v1.md: the tree of an archive, its arrays and its source document.

An archive here is a mapping from keys to bytes: a folder or a zip file read whole.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd

from reference_decoder import differences
from reference_decoder.brick import Frames, decode
from reference_decoder.fields import Refused, require

RESERVED = {
    "tiles",
    "preview",
    "source",
    "priors",
    "specification",
    "partial",
    "partial.json",
    "manifest.json",
    "README.txt",
}
WITHIN, PIECE = 1 << 20, 16 << 20
SPECIFICATION = Path(__file__).parents[3] / "psc_volumetric/bitstream/SPEC-v1.md"


def keys_of(path: Path) -> dict[str, bytes]:
    """Everything in a folder or a zip file."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def node(name: str) -> str:
    """Section 11.2: the place in the tree of a name."""
    return "/".join(_part(part, number == 0) for number, part in enumerate(name.split("/")))


def _part(part: str, first: bool) -> str:
    written = "".join(_escaped(c) if _is_odd(c) else c for c in part)
    taken = part in ("c", "zarr.json") or (first and part in RESERVED)
    if taken or written.startswith((".", "__")):
        written = _escaped(written[0]) + written[1:]
    data = written.encode()
    if len(data) <= 200:
        return written
    return data[:180].decode(errors="ignore") + "%~" + hashlib.sha256(data).hexdigest()[:16]


def _is_odd(character: str) -> bool:
    kind = unicodedata.category(character)[0]
    return character in "%\\" or (kind in "CZ" and character != " ")


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


@dataclass(frozen=True)
class Source:
    """Section 11.4."""

    kind: str
    document: dict[str, Any]
    files: list[dict[str, Any]]
    blobs: dict[str, bytes]


class Archive:
    """A sealed archive.

    Parameters
    ----------
    keys : mapping of str to bytes
    frames : callable, optional
        An AV1 decoder, as for `reference_decoder.decode`.
    """

    def __init__(self, keys: Mapping[str, bytes], frames: Frames | None = None) -> None:
        self.frames = frames
        manifest = json.loads(keys["manifest.json"])
        self._keys, self._listed = keys, manifest["keys"]
        lines = []
        for key, entry in sorted(self._listed.items()):
            head = f"{entry['head']} " if "head" in entry else ""
            lines.append(f"{entry['sha256']} {entry['size']} {head}{key}\n")
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        require(digest == manifest["digest"], "digest of the manifest")
        self.root = json.loads(self.read("zarr.json"))["attributes"]["psc_archive"]

    def read(self, key: str) -> bytes:
        """An object, compared with the manifest."""
        data, entry = self._keys[key], self._listed[key]
        require(len(data) == entry["size"], f"size of {key}")
        require(hashlib.sha256(data).hexdigest() == entry["sha256"], f"SHA-256 of {key}")
        if "head" in entry:
            header = data[: int.from_bytes(data[8:12], "little")]
            require(hashlib.sha256(header).hexdigest()[:32] == entry["head"], f"head of {key}")
        return data

    def _node(self, name: str) -> dict[str, Any]:
        return json.loads(self.read(f"{node(name)}/zarr.json"))

    def prior(self, digest: str) -> dict[str, bytes] | None:
        """Files of the prior whose digest begins so."""
        found = [key for key in self._listed if key.startswith(f"priors/{digest}")]
        return {key.split("/", 2)[2]: self.read(key) for key in found} or None

    def values(self, name: str, level: int | None = None) -> np.ndarray:
        """Stored values of a variable at a level of its bricks."""
        about = self._node(name)
        out = np.empty(about["shape"], np.dtype(about["data_type"]).newbyteorder("<"))
        for place, box in _chunks(about):
            brick = self.read(f"{node(name)}/c/{'/'.join(map(str, place))}")
            prior = about["attributes"]["psc_archive"].get("prior")
            files = self.prior(prior) if prior else None
            decoded = decode(brick, files, level, self.frames).values
            out[box] = decoded.reshape(out[box].shape)
        return out

    def array(self, name: str) -> np.ndarray:
        """A plain array; text as objects."""
        about = self._node(name)
        (outer,) = about["codecs"]
        require(outer["name"] == "psc_archive.checked", "codec of a plain array")
        inner = [codec["name"] for codec in outer["configuration"]["codecs"]]
        text = about["data_type"] == "string"
        dtype = np.dtype(object) if text else np.dtype(about["data_type"]).newbyteorder("<")
        out = np.empty(about["shape"], dtype)
        chunk = tuple(about["chunk_grid"]["configuration"]["chunk_shape"])
        for place, box in _chunks(about):
            data = self.read("/".join([node(name), "c", *map(str, place)]))
            if inner == ["psc_archive.differences"]:
                whole = differences.decode(data, chunk, dtype)
            else:
                require(inner == ["vlen-utf8" if text else "bytes", "zstd"], "inner codecs")
                plain = bytes(Zstd().decode(data))
                flat = np.array(_texts(plain), object) if text else np.frombuffer(plain, dtype)
                whole = flat.reshape(chunk)
            part = out[box]
            out[box] = whole[tuple(slice(0, size) for size in part.shape)]
        if about["attributes"]["psc_archive"].get("raw_dtype") == "S1":
            return out.view("S1")
        return out

    def tiles(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Section 11.3: the columns of a variable on its grid of tiles, and codes of methods."""
        about, rows = self._node(name), []
        tile = about["attributes"]["psc_archive"]["tile_shape"]
        shape = about["shape"]
        lead = max(len(shape) - 3, 0)
        tiles = [1] * lead + tile[-(len(shape) - lead) :]
        grid = [math.ceil(n / t) for n, t in zip(shape, tiles, strict=True)]
        pieces = [key for key in self._listed if key.startswith(f"tiles/{node(name)}/c/")]
        for number in range(len(pieces)):
            content = bytes(Zstd().decode(self.read(f"tiles/{node(name)}/c/{number}")))
            end = 4 + int.from_bytes(content[:4], "little")
            said = json.loads(content[4:end])
            each = ("bytes", "mse", "max_error", "brick", "within 1", "within 2", "within 3")
            columns = [f"{what} {level}" for what in each for level in range(said["levels"])]
            columns += ["method", "digest", *(f"compared {base}" for base in said["bases"])]
            planes = np.frombuffer(content[end:], np.uint8).reshape(8, -1)
            numbers = np.ascontiguousarray(planes.T).view("<f8")
            rows.append(numbers.reshape(len(columns), -1, *grid[1:]))
        table = np.concatenate(rows, axis=1)
        require(list(table.shape[1:]) == grid, "grid of tiles")
        return dict(zip(columns, table, strict=True)), said["codes"]

    def volume(self, name: str) -> np.ndarray:
        """Section 11.6: the volume of this name in the source document, at the last level."""
        for variable in self.root.get("variables", []):
            own = self._node(variable)["attributes"]["psc_archive"]
            if own["parameters"].get("volume", variable) == name:
                return self.values(variable)
        raise Refused(f"no volume {name}")

    @functools.cached_property
    def source(self) -> Source:
        """Section 11.4."""
        content = _document(self.read("source/document"))
        end = 4 + int.from_bytes(content[:4], "little")
        said = json.loads(content[4:end])
        total = sum(size for _, _, size in said["blobs"])
        joined = content[end:]
        if total > WITHIN:
            pieces = [self.read(f"source/blobs/{n}") for n in range(-(-total // PIECE))]
            joined = b"".join(bytes(Zstd().decode(piece)) for piece in pieces)
        blobs = {name: joined[at : at + size] for name, at, size in said["blobs"]}
        return Source(said["kind"], said["document"], said["files"], blobs)


def _document(data: bytes) -> bytes:
    """Section 11.4: a zlib stream with the words of section 11.11, or a Zstandard frame."""
    if data[0] != 0x78:
        return bytes(Zstd().decode(data))
    stream = zlib.decompressobj(zdict=words())
    content = stream.decompress(data, (1 << 15) + 1)
    require(len(content) <= 1 << 15 and stream.eof and not stream.unused_data, "zlib stream")
    return content


def words() -> bytes:
    """The dictionary, from the text of section 11.11."""
    text = SPECIFICATION.read_text(encoding="utf-8")
    section = text.split("### 11.11", 1)[1].split("\n##", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    return bytes.fromhex("".join(lines))


def _chunks(about: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Index of every chunk, and its part inside the array."""
    shape = about["shape"]
    chunk = about["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [math.ceil(n / c) for n, c in zip(shape, chunk, strict=True)]
    for place in itertools.product(*map(range, counts)):
        sides = zip(place, chunk, shape, strict=True)
        yield place, tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in sides)


def _texts(data: bytes) -> list[str]:
    """Zarr's codec ``vlen-utf8``: how many (u32), then length (u32) and bytes of each."""
    count, at, found = int.from_bytes(data[:4], "little"), 4, []
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found
