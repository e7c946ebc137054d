"""The smallest AVIF image sequence around AV1 data, and the AV1 data out of an AVIF file.

Not part of the format: the AV1 library at hand reads and writes files (ISO/IEC 14496-12,
AV1 Image File Format 1.1), bricks keep the AV1 data alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from psc_volumetric.errors import NumericalError

__all__ = ["unwrap", "wrap"]

# av1C: marker and version, profile 2 level 0, 12-bit monochrome, no presentation delay
CONFIGURATION = bytes([0x81, 0x40, 0x7C, 0x00])
UNIT_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def wrap(units: list[bytes], height: int, width: int) -> bytes:
    """AVIF image sequence of the temporal units ``units``, one image each.

    Extents must be below 2^16 and come from checked numbers.
    """
    brands = _box(b"ftyp", b"avis", _u32(0), b"avis", b"msf1", b"miaf")
    media = _box(b"mdat", *units)
    start = len(brands) + len(_movie(units, height, width, 0)) + 8
    return brands + _movie(units, height, width, start) + media


def _movie(units: list[bytes], height: int, width: int, start: int) -> bytes:
    """Box ``moov``: one track of ``units``, joined at byte ``start`` of the file."""
    count = len(units)
    entry = _box(
        b"av01",
        bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, height),
        bytes(12) + struct.pack(">H", 1) + bytes(32) + struct.pack(">Hh", 24, -1),
        _box(b"av1C", CONFIGURATION),
    )
    table = _box(
        b"stbl",
        _full(b"stsd", _u32(1), entry),
        _full(b"stts", _u32(1, count, 1)),
        _full(b"stsc", _u32(1, 1, count, 1)),
        _full(b"stsz", _u32(0, count), _u32(*map(len, units))),
        _full(b"stco", _u32(1, start)),
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", _u32(0, 0, 1, count), struct.pack(">HH", 0x55C4, 0)),
        _full(b"hdlr", bytes(4), b"pict", bytes(13)),
        _box(b"minf", table),
    )
    extent = struct.pack(">HHHH", width, 0, height, 0)
    header = _full(b"tkhd", _u32(0, 0, 1, 0, count), bytes(16), UNIT_MATRIX, extent, flags=1)
    return _box(b"moov", _box(b"trak", header, media))


def unwrap(file: bytes) -> bytes:
    """AV1 data of an AVIF file that this process wrote: the whole of box ``mdat``.

    Raises
    ------
    NumericalError
        The library wrote something else than one ``mdat``.
    """
    found = [bytes(body) for kind, body in _boxes(file) if kind == b"mdat"]
    if len(found) != 1:
        raise NumericalError(
            f"AVIF encoder: expected one box 'mdat', found {len(found)}", kind="av1-encoder"
        )
    return found[0]


def _boxes(file: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Top-level boxes with 32-bit sizes."""
    offset = 0
    while offset + 8 <= len(file):
        size, kind = struct.unpack_from(">I4s", file, offset)
        yield kind, memoryview(file)[offset + 8 : offset + max(8, size)]
        offset += max(8, size)


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, _u32(flags), *parts)


def _u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)
