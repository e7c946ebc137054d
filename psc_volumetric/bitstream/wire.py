"""Read and write little-endian fields; bounds are checked first. Part of the format (SPEC 2)."""

from __future__ import annotations

import struct

from psc_volumetric.errors import FormatError, LimitExceededError

__all__ = ["FieldReader", "FieldWriter", "crc32c"]


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, reflected, RFC 3720 appendix B.4) of ``data``."""
    from numcodecs.checksum32 import CRC32C

    if len(data) >= 64:
        return int.from_bytes(bytes(CRC32C().encode(data))[-4:], "little")
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


class FieldWriter:
    """Appends fields to a growing byte string."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def __len__(self) -> int:
        return len(self._parts)

    def raw(self, data: bytes) -> None:
        """Append bytes as they are."""
        self._parts += data

    def pack(self, fmt: str, *values: float) -> None:
        """Append ``struct`` fields, little-endian without padding."""
        self._parts += struct.pack("<" + fmt, *values)

    def varint(self, value: int) -> None:
        """Append an unsigned LEB128 integer."""
        while value >= 0x80:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)

    def getvalue(self) -> bytes:
        """Everything written so far."""
        return bytes(self._parts)


class FieldReader:
    """Takes fields off a byte string; every overrun is a :class:`FormatError` with its offset."""

    def __init__(self, data: bytes, *, what: str) -> None:
        self._data, self._what, self.offset = data, what, 0

    def raw(self, length: int) -> bytes:
        """Take ``length`` bytes."""
        end = self.offset + length
        if length < 0 or end > len(self._data):
            raise FormatError(
                f"{self._what}: expected {length} more bytes at offset {self.offset}, "
                f"found {len(self._data) - self.offset}",
                kind="truncated",
                hint="the stream is cut or damaged, run `psc-archive verify`",
            )
        piece = self._data[self.offset : end]
        self.offset = end
        return piece

    def unpack(self, fmt: str) -> tuple[int, ...]:
        """Take integer ``struct`` fields."""
        return struct.unpack("<" + fmt, self.raw(struct.calcsize("<" + fmt)))

    def float64(self) -> float:
        """Take one IEEE double."""
        return float(struct.unpack("<d", self.raw(8))[0])

    def varint(self, *, limit: int, name: str) -> int:
        """Take an unsigned LEB128 integer that must not exceed ``limit``."""
        value, shift = 0, 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            if value > limit or shift > 56:
                raise LimitExceededError(
                    f"{self._what}: {name} exceeds its limit {limit} at offset {self.offset}",
                    kind="limit",
                    hint="the stream is damaged, run `psc-archive verify`",
                )
            if not byte & 0x80:
                return value
            shift += 7
