"""Layout of a brick: prologue, header, index, sections. Part of the format (SPEC section 3).

    prologue  magic, format version, header size          12 bytes
    header    BrickHeader, method fields, index, CRC-32C
    sections  special values | base | level 1 | level 2 | ... | segments of the layers

Inside a level section the tiles follow one another in C order, so "the whole brick at level k"
is one prefix and "one tile at level k" is ``k`` short ranges. Layers (exact levels) are cut into
segments that are read and decoded one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.av1_fields import Av1Fields
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.layers import LayerFields, check_layers
from psc_volumetric.bitstream.psc_fields import WORD, PscFields
from psc_volumetric.bitstream.stored_samples import StoredSamples
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.wavelet_fields import WaveletFields
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


CLASSICAL: dict[str, type[StoredSamples]] = {"av1": Av1Fields, "wavelet": WaveletFields}


@dataclass(frozen=True)
class Section:
    """One run of bytes after the header; ``offset`` counts from the start of the brick."""

    name: str
    offset: int
    nbytes: int
    crc: int


@dataclass(frozen=True)
class BrickIndex:
    """A parsed and checked header; knows where everything is, decodes nothing."""

    header: BrickHeader
    header_size: int
    sections: tuple[Section, ...]
    psc: PscFields | None = None
    constant: bytes = b""
    layers: tuple[LayerFields, ...] = ()
    classical: StoredSamples | None = None
    limits: ValueLimits | None = None
    _starts: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    _segments: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def method(self) -> str:
        """Base method: ``"constant"``, ``"none"``, ``"psc"``, ``"av1"`` or ``"wavelet"``."""
        return self.header.method

    @property
    def coding(self) -> str:
        """Base method, layers and their coders: ``"psc+bounded:jpegls+lossless:context"``."""
        return "+".join([self.method, *(layer.name for layer in self.layers)])

    @property
    def is_exact(self) -> bool:
        """Whether the last level has the bits of the source everywhere."""
        if not self.layers:
            return self.method == "constant"
        return self.layers[-1].kind == "lossless" and self.layers[-1].is_whole

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
        """Number of quality levels: those of the base, and one for each layer."""
        return self.base_levels + len(self.layers)

    @property
    def base_levels(self) -> int:
        """Quality levels of the base method; none for ``none``."""
        return _base_levels(self.method, self.psc)

    @property
    def grid(self) -> TileGrid:
        """Tiles of a ``psc`` brick; one tile for the other methods."""
        return TileGrid(self.valid, self.shape if self.psc is None else self.psc.tile)

    @property
    def nbytes(self) -> int:
        """Size of the whole brick."""
        layers = sum(layer.nbytes for layer in self.layers)
        return self.header_size + sum(s.nbytes for s in self.sections) + layers

    def section(self, name: str) -> Section:
        """Section by name: ``special``, ``base``, ``level1`` ..."""
        return next(s for s in self.sections if s.name == name)

    def segment(self, layer: int, number: int) -> Section:
        """Segment ``number`` (C order) of a layer, as a section."""
        fields = self.layers[layer]
        name = f"{fields.kind}[{number}]"
        return Section(
            name, self._segments[layer][number], fields.sizes[number], fields.crcs[number]
        )

    def level_nbytes(self, level: int) -> int:
        """Bytes of the brick up to and including ``level``, for every voxel.

        An exact level whose layer refers to nothing is read with fewer: header and layer.
        """
        base = {"special", "base", *(f"level{k}" for k in range(1, level + 1))}
        keep = self.sections if level >= self.base_levels else _named(self.sections, base)
        layers = self.layers[: max(0, level - self.base_levels + 1)]
        total = sum(s.nbytes for s in keep) + sum(layer.nbytes for layer in layers)
        return self.header_size + total

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
        for k in range(1, min(level, len(self.psc.words)) + 1):
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
    classical: StoredSamples | None = None,
    constant: bytes = b"",
    layers: Sequence[tuple[LayerFields, Sequence[bytes]]] = (),
    limits: ValueLimits | None = None,
) -> bytes:
    """Join header, index and sections into the bytes of a brick.

    ``layers`` are the fields of each layer with its segments; lengths and checks are filled in.
    ``limits`` are those of a brick with section ``special``, which is one that may approximate.
    """
    body = FieldWriter()
    header.write(body)
    if header.method == "constant":
        body.raw(constant)
    if psc is not None:
        psc.write(body)
    if classical is not None:
        classical.write(body)
    if header.method != "constant":
        body.pack("B", len(layers))
    for fields, segments in layers:
        sizes = tuple(len(data) for data in segments)
        crcs = tuple(crc32c(data) for data in segments)
        replace(fields, sizes=sizes, crcs=crcs).write(body, header.dtype)
    if sections:
        body.pack("B", limits is not None)
        if limits is not None:
            limits.write(body, header.dtype)
    for name, data in sections:
        if not name.startswith("level"):
            body.varint(len(data))
        body.pack("I", crc32c(data))
    size = PROLOGUE + len(body) + 4
    prologue = FieldWriter()
    prologue.raw(c.MAGIC)
    prologue.pack("II", c.FORMAT_VERSION, size)
    head = prologue.getvalue() + body.getvalue()
    payload = [d for _, d in sections] + [d for _, segments in layers for d in segments]
    return b"".join([head, crc32c(head).to_bytes(4, "little"), *payload])


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
    psc, constant = None, b""
    classical: StoredSamples | None = None
    layers: tuple[LayerFields, ...] = ()
    names: list[str] = []
    if header.method == "constant":
        constant = data.raw(header.dtype.itemsize)
    elif header.method == "psc":
        psc = PscFields.read(data, header)
        names = ["base", *(f"level{k + 1}" for k in range(len(psc.words)))]
    elif header.method in CLASSICAL:
        classical, names = CLASSICAL[header.method].read(data, header.dtype), ["base"]
    if header.method != "constant":
        layers = _parse_layers(data, header, _base_levels(header.method, psc))
    if names or any(layer.kind == "bounded" for layer in layers):
        names = ["special", *names]
    limits = ValueLimits.read(data, header.dtype) if names else None
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
    words = () if psc is None else psc.words
    starts = tuple(tuple(accumulate((0, *row[:-1]))) for row in words)
    segments = []
    for layer in layers:
        ends = tuple(accumulate((offset, *layer.sizes)))
        segments.append(ends[:-1])
        offset = ends[-1]
    return BrickIndex(
        header,
        header_size,
        tuple(sections),
        psc,
        constant,
        layers,
        classical,
        limits,
        starts,
        tuple(segments),
    )


def _base_levels(method: str, psc: PscFields | None) -> int:
    if psc is not None:
        return 1 + len(psc.words)
    return 0 if method == "none" else 1


def _named(sections: tuple[Section, ...], names: set[str]) -> tuple[Section, ...]:
    return tuple(section for section in sections if section.name in names)


def _parse_layers(
    data: FieldReader, header: BrickHeader, base_levels: int
) -> tuple[LayerFields, ...]:
    count = data.unpack("B")[0]
    if count > len(c.LAYERS):
        raise LimitExceededError(f"brick header: {count} layers", kind="limit")
    layers = tuple(
        LayerFields.read(data, header.dtype, header.shape, header.valid) for _ in range(count)
    )
    check_layers(layers, base_levels=base_levels)
    return layers
