"""Layout of a brick: prologue, header, index, sections. Part of the format (SPEC 3 and 3.5).

    prologue  magic, format version, header size          12 bytes
    header    BrickHeader, method fields, index, CRC-32C
    sections  special values | base | level 1 | level 2 | ... | segments of the layers

Inside a level section the tiles follow one another in C order, so "the whole brick at level k"
is one prefix and "one tile at level k" is ``k`` short ranges. Layers (exact levels) are cut into
segments that are read and decoded one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.layer_fields import LayerFields, check_layers
from psc_volumetric.bitstream.methods import MethodFields, Methods
from psc_volumetric.bitstream.sections import ReadRange, Section
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.versions import check_version
from psc_volumetric.bitstream.wire import FieldReader, FieldWriter, crc32c
from psc_volumetric.errors import ChecksumError, FormatError, LimitExceededError
from psc_volumetric.tiling import TileGrid

__all__ = ["BrickIndex", "read_index", "write_brick"]

PROLOGUE = 12


@dataclass(frozen=True)
class BrickIndex:
    """A parsed and checked header; knows where everything is, decodes nothing."""

    header: BrickHeader
    header_size: int
    sections: tuple[Section, ...]
    fields: MethodFields | None = None
    constant: bytes = b""
    layers: tuple[LayerFields, ...] = ()
    limits: ValueLimits | None = None
    _segments: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def method(self) -> str:
        """Base method: ``"constant"``, ``"none"``, or the name of one that is registered."""
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
        digest = None if self.fields is None else self.fields.prior_digest
        return None if digest is None else digest.hex()

    @property
    def levels(self) -> int:
        """Number of quality levels: those of the base, and one for each layer."""
        return self.base_levels + len(self.layers)

    @property
    def base_levels(self) -> int:
        """Quality levels of the base method; none for ``none``."""
        return _base_levels(self.method, self.fields)

    @property
    def grid(self) -> TileGrid:
        """Tiles of a method that codes in tiles; one tile for the others."""
        tile = None if self.fields is None else self.fields.tile
        return TileGrid(self.valid, tile or self.shape)

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
        keep = self.sections
        if level < self.base_levels:
            later = self.sections[len(self.sections) - self.base_levels + level + 1 :]
            keep = self.sections[: len(self.sections) - len(later)]
        layers = self.layers[: max(0, level - self.base_levels + 1)]
        total = sum(s.nbytes for s in keep) + sum(layer.nbytes for layer in layers)
        return self.header_size + total


def write_brick(
    header: BrickHeader,
    sections: list[tuple[str, bytes]],
    *,
    methods: Methods,
    fields: MethodFields | None = None,
    constant: bytes = b"",
    layers: Sequence[tuple[LayerFields, Sequence[bytes]]] = (),
    limits: ValueLimits | None = None,
) -> tuple[bytes, BrickIndex]:
    """Join header, index and sections into the bytes of a brick.

    Parameters
    ----------
    header : BrickHeader
    sections : list of (name, bytes)
        ``special`` first, then those of the method.
    methods : Methods
        The base methods known here.
    fields : MethodFields, optional
        Of the header's method.
    constant : bytes
        The one value of a ``constant`` brick.
    layers : sequence of (LayerFields, segments)
        Lengths and checks are filled in.
    limits : ValueLimits, optional
        Of a brick with sections, which is one that may approximate.

    Returns
    -------
    data : bytes
    index : BrickIndex
        As :func:`read_index` would find it.
    """
    body = FieldWriter()
    header.write(body, methods.code_of(header.method))
    if header.method == "constant":
        body.raw(constant)
    if fields is not None:
        fields.write(body)
    if header.method != "constant":
        body.pack("B", len(layers))
    complete = [
        replace(layer, sizes=tuple(map(len, parts)), crcs=tuple(map(crc32c, parts)))
        for layer, parts in layers
    ]
    for layer in complete:
        layer.write(body, header.dtype)
    if sections:
        body.pack("B", limits is not None)
        if limits is not None:
            limits.write(body, header.dtype)
    known = {} if fields is None else dict(fields.sections())
    found = [(name, len(data), crc32c(data)) for name, data in sections]
    for name, nbytes, check in found:
        if known.get(name) is None:
            body.varint(nbytes)
        body.pack("I", check)
    size = PROLOGUE + len(body) + 4
    prologue = FieldWriter()
    prologue.raw(c.MAGIC)
    prologue.pack("II", c.FORMAT_VERSION, size)
    head = prologue.getvalue() + body.getvalue()
    payload = [d for _, d in sections] + [d for _, segments in layers for d in segments]
    data = b"".join([head, crc32c(head).to_bytes(4, "little"), *payload])
    return data, _placed(header, size, found, fields, constant, complete, limits)


def read_index(read: ReadRange, size: int | None = None, *, methods: Methods) -> BrickIndex:
    """Parse the header of a brick through ranged reads.

    Parameters
    ----------
    read : callable
        ``read(offset, length) -> bytes``; may return fewer bytes at the end of the object.
    size : int, optional
        Size of the object; when given, a brick that is longer or shorter is refused.
    methods : Methods
        The base methods known here.

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
    check_version(version, "brick")
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
    index = _parse(head[PROLOGUE:-4], header_size, methods)
    if size is not None and size != index.nbytes:
        raise FormatError(
            f"brick: expected {index.nbytes} bytes, found {size}",
            kind="wrong-size",
            hint="the chunk is cut or has foreign bytes, run `psc-archive verify`",
        )
    return index


def _parse(body: bytes, header_size: int, methods: Methods) -> BrickIndex:
    data = FieldReader(body, what="brick header")
    header = BrickHeader.read(data, methods.name_of)
    fields, constant = None, b""
    layers: tuple[LayerFields, ...] = ()
    if header.method == "constant":
        constant = data.raw(header.dtype.itemsize)
    else:
        fields = methods.read_fields(header.method, data, header)
        layers = _parse_layers(data, header, _base_levels(header.method, fields))
    listed = () if fields is None else fields.sections()
    if listed or any(layer.kind == "bounded" for layer in layers):
        listed = (("special", None), *listed)
    limits = ValueLimits.read(data, header.dtype) if listed else None
    found = []
    for name, known in listed:
        nbytes = known
        if nbytes is None:
            nbytes = data.varint(limit=16 * c.MAX_BRICK_VOXELS, name=f"size of section {name}")
        found.append((name, nbytes, data.unpack("I")[0]))
    if data.offset != len(body):
        raise FormatError(
            f"brick header: {len(body) - data.offset} bytes after the last field",
            kind="trailing-bytes",
        )
    return _placed(header, header_size, found, fields, constant, layers, limits)


def _placed(
    header: BrickHeader,
    header_size: int,
    found: Sequence[tuple[str, int, int]],
    fields: MethodFields | None,
    constant: bytes,
    layers: Sequence[LayerFields],
    limits: ValueLimits | None,
) -> BrickIndex:
    """The index of sections (name, size, check) and layers that follow one another."""
    sections, segments, offset = [], [], header_size
    for name, nbytes, check in found:
        sections.append(Section(name, offset, nbytes, check))
        offset += nbytes
    for layer in layers:
        ends = tuple(accumulate((offset, *layer.sizes)))
        segments.append(ends[:-1])
        offset = ends[-1]
    return BrickIndex(
        header,
        header_size,
        tuple(sections),
        fields,
        constant,
        tuple(layers),
        limits,
        tuple(segments),
    )


def _base_levels(method: str, fields: MethodFields | None) -> int:
    if fields is not None:
        return len(fields.sections())
    return int(method == "constant")


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
