"""Layout of a brick: prologue, header, index, sections. Part of the format (SPEC section 3).

    prologue  magic, format version, header size          12 bytes
    header    BrickHeader, method fields, index, CRC-32C
    sections  special values | base | level 1 | level 2 | ...

Inside a level section the tiles follow one another in C order, so "the whole brick at level k"
is one prefix and "one tile at level k" is ``k`` short ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping, StreamParameters
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter, crc32c
from psc_volumetric.errors import (
    ChecksumError,
    FormatError,
    LimitExceededError,
    UnsupportedVersionError,
)
from psc_volumetric.tiling import TileGrid

__all__ = ["BrickIndex", "PscFields", "ReadRange", "Section", "read_index", "write_brick"]

ReadRange = Callable[[int, int], bytes]
PROLOGUE = 12
WORD = 4
MAX_TILE_WORDS = 1 << 24


@dataclass(frozen=True)
class Section:
    """One run of bytes after the header; ``offset`` counts from the start of the brick."""

    name: str
    offset: int
    nbytes: int
    crc: int


@dataclass(frozen=True)
class PscFields:
    """Method fields of a ``psc`` brick.

    Attributes
    ----------
    prior_digest : bytes
        First 16 bytes of the prior's SHA-256.
    tile : (z, y, x)
        Tile shape.
    mapping : IntensityMapping
        Stored values to normalised units.
    parameters : StreamParameters
        Sampler and coder.
    words : (levels - 1, tiles) tuple of tuples of int
        32-bit words each tile adds at each level above the base.
    """

    prior_digest: bytes
    tile: tuple[int, int, int]
    mapping: IntensityMapping
    parameters: StreamParameters
    words: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class BrickIndex:
    """A parsed and checked header; knows where everything is, decodes nothing."""

    header: BrickHeader
    header_size: int
    sections: tuple[Section, ...]
    psc: PscFields | None = None
    constant: bytes = b""
    _starts: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def method(self) -> str:
        """``"constant"``, ``"lossless"`` or ``"psc"``."""
        return self.header.method

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Stored dtype, little-endian."""
        return self.header.dtype

    @property
    def position(self) -> tuple[int, ...]:
        """Chunk grid index this brick says it belongs to."""
        return self.header.position

    @property
    def shape(self) -> tuple[int, int, int]:
        """Nominal brick shape."""
        return self.header.shape

    @property
    def valid(self) -> tuple[int, int, int]:
        """Part of the brick inside the array."""
        return self.header.valid

    @property
    def prior_digest(self) -> str | None:
        """First 32 hex digits of the prior's digest; None when no network is needed."""
        return None if self.psc is None else self.psc.prior_digest.hex()

    @property
    def levels(self) -> int:
        """Number of quality levels, the base included; 1 for network-free methods."""
        return 1 if self.psc is None else 1 + len(self.psc.words)

    @property
    def grid(self) -> TileGrid:
        """Tiles of a ``psc`` brick; one tile for the other methods."""
        return TileGrid(self.valid, self.shape if self.psc is None else self.psc.tile)

    @property
    def nbytes(self) -> int:
        """Size of the whole brick."""
        return self.header_size + sum(s.nbytes for s in self.sections)

    def section(self, name: str) -> Section:
        """Section by name: ``special``, ``data``, ``base``, ``level1`` ..."""
        return next(s for s in self.sections if s.name == name)

    def level_nbytes(self, level: int) -> int:
        """Bytes of the brick needed for every tile up to ``level``."""
        if self.psc is None:
            return self.nbytes
        keep = {"special", "base", *(f"level{k}" for k in range(1, level + 1))}
        return self.header_size + sum(s.nbytes for s in self.sections if s.name in keep)

    def tile_nbytes(self, tile: int, level: int) -> int:
        """Bytes of tile ``tile`` above the base, up to ``level``."""
        if self.psc is None:
            return 0
        return WORD * sum(row[tile] for row in self.psc.words[:level])

    def tile_ranges(self, tile: int, level: int) -> list[tuple[int, int]]:
        """(offset, length) of the tile's words at levels 1..``level``, empty ones left out."""
        if self.psc is None:
            return []
        ranges = []
        for k in range(1, level + 1):
            count = self.psc.words[k - 1][tile]
            if count:
                start = self.section(f"level{k}").offset + WORD * self._starts[k - 1][tile]
                ranges.append((start, WORD * count))
        return ranges


def write_brick(
    header: BrickHeader,
    sections: list[tuple[str, bytes]],
    *,
    psc: PscFields | None = None,
    constant: bytes = b"",
) -> bytes:
    """Join header, index and sections into the bytes of a brick."""
    body = FieldWriter()
    header.write(body)
    if header.method == "constant":
        body.raw(constant)
    if psc is not None:
        body.raw(psc.prior_digest)
        for extent in psc.tile:
            body.varint(extent)
        body.pack("dd", psc.mapping.low, psc.mapping.high)
        psc.parameters.write(body)
        for row in psc.words:
            for count in row:
                body.varint(count)
    for name, data in sections:
        if not name.startswith("level"):
            body.varint(len(data))
        body.pack("I", crc32c(data))
    size = PROLOGUE + len(body) + 4
    prologue = FieldWriter()
    prologue.raw(c.MAGIC)
    prologue.pack("II", c.FORMAT_VERSION, size)
    head = prologue.getvalue() + body.getvalue()
    return b"".join([head, crc32c(head).to_bytes(4, "little"), *(d for _, d in sections)])


def read_index(read: ReadRange, size: int | None = None) -> BrickIndex:
    """Parse the header of a brick through ranged reads.

    Parameters
    ----------
    read : callable
        ``read(offset, length) -> bytes``; may return fewer bytes at the end of the object.
    size : int, optional
        Size of the object; when given, a brick that is longer or shorter is refused.

    Raises
    ------
    FormatError
        Wrong magic, unknown version, damage, truncation, or a number over its limit.
    """
    ahead = read(0, c.HEADER_READ_AHEAD if size is None else min(size, c.HEADER_READ_AHEAD))
    prologue = FieldReader(ahead, what="brick prologue")
    magic = prologue.raw(4)
    if magic != c.MAGIC:
        raise FormatError(
            f"brick: expected magic {c.MAGIC!r} at offset 0, found {magic!r}",
            kind="bad-magic",
            hint="this is not a PSC brick, or its first bytes are damaged",
        )
    version, header_size = prologue.unpack("II")
    if version != c.FORMAT_VERSION:
        raise UnsupportedVersionError(
            f"brick: this reader knows format {c.FORMAT_VERSION}, found {version}",
            kind="unsupported-version",
            hint="use the psc-archive release named in the archive's README.txt",
        )
    if not PROLOGUE + 4 <= header_size <= c.MAX_HEADER_SIZE:
        raise LimitExceededError(f"brick: header size {header_size}", kind="limit")
    if header_size > len(ahead):
        ahead += read(len(ahead), header_size - len(ahead))
    head = FieldReader(ahead, what="brick header").raw(header_size)
    stored, found = int.from_bytes(head[-4:], "little"), crc32c(head[:-4])
    if stored != found:
        raise ChecksumError(
            f"brick header: expected CRC-32C {stored:08x}, found {found:08x}",
            kind="header-checksum",
            hint="the header is damaged, run `psc-archive verify`",
        )
    index = _parse(head[PROLOGUE:-4], header_size)
    if size is not None and size != index.nbytes:
        raise FormatError(
            f"brick: expected {index.nbytes} bytes, found {size}",
            kind="wrong-size",
            hint="the chunk is cut or has foreign bytes, run `psc-archive verify`",
        )
    return index


def _parse(body: bytes, header_size: int) -> BrickIndex:
    data = FieldReader(body, what="brick header")
    header = BrickHeader.read(data)
    psc, constant, names = None, b"", ["data"]
    if header.method == "constant":
        constant, names = data.raw(header.dtype.itemsize), []
    elif header.method == "psc":
        psc = _parse_psc(data, header)
        names = ["special", "base", *(f"level{k + 1}" for k in range(len(psc.words)))]
    sections, offset = [], header_size
    for name in names:
        if name.startswith("level") and psc is not None:
            nbytes = WORD * sum(psc.words[int(name[5:]) - 1])
        else:
            nbytes = data.varint(limit=16 * c.MAX_BRICK_VOXELS, name=f"size of section {name}")
        sections.append(Section(name, offset, nbytes, data.unpack("I")[0]))
        offset += nbytes
    if data.offset != len(body):
        raise FormatError(
            f"brick header: {len(body) - data.offset} bytes after the last field",
            kind="trailing-bytes",
        )
    starts: tuple[tuple[int, ...], ...] = ()
    if psc is not None:
        starts = tuple(tuple(accumulate((0, *row[:-1]))) for row in psc.words)
    return BrickIndex(header, header_size, tuple(sections), psc, constant, starts)


def _check_gram(particles: int, elements: int) -> None:
    """Refuse a tile whose Gram matrix could leave the integers a double holds (SPEC 5.5)."""
    bound = (2 * (particles - 1) * 8191) ** 2 * elements
    if elements > 1 << 16 or bound >= 1 << 53:
        raise FormatError(
            f"brick header: {particles} particles on a tile of {elements} voxels give sums past "
            "2^53 in the pca family",
            kind="bad-parameter",
        )


def _parse_psc(data: FieldReader, header: BrickHeader) -> PscFields:
    digest = data.raw(16)
    z, y, x = (data.varint(limit=1024, name="tile extent") for _ in range(3))
    tile = (z, y, x)
    if min(tile) < 1 or any(s % t for s, t in zip(header.shape, tile, strict=True)):
        raise FormatError(
            f"brick header: tile {tile} does not divide brick {header.shape}", kind="bad-tile"
        )
    if header.dtype.kind not in "iuf" or header.dtype.str[1:] in ("u8", "i8"):
        raise FormatError(
            f"brick header: method psc does not code {header.dtype}", kind="bad-method"
        )
    mapping = IntensityMapping(data.float64(), data.float64())
    if not mapping.fits(header.dtype):
        raise FormatError(
            f"brick header: {mapping} is out of range for {header.dtype}", kind="bad-mapping"
        )
    parameters = StreamParameters.read(data)
    if parameters.rows == "pca":
        _check_gram(parameters.particles, z * y * x)
    tiles = len(TileGrid(header.valid, tile))
    words = tuple(
        tuple(data.varint(limit=MAX_TILE_WORDS, name="tile length") for _ in range(tiles))
        for _ in parameters.level_ends
    )
    return PscFields(digest, tile, mapping, parameters, words)
