"""Runs of bytes after the header of a brick, each with its own check.

Part of the format (SPEC section 3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.errors import ChecksumError, FormatError

__all__ = ["ByteRange", "ReadRange", "Section", "check_section", "joined", "read_section"]

ReadRange = Callable[[int, int], bytes]  # offset, length -> bytes
ByteRange = tuple[int, int]  # offset, length

GAP = 10  # bytes that are asked for, for each one between them that may be read with them


@dataclass(frozen=True)
class Section:
    """One run of bytes after the header; ``offset`` counts from the start of the brick."""

    name: str
    offset: int
    nbytes: int
    crc: int


def joined(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Fewer ranges that hold all of these, sorted.

    Neighbours become one where what lies between them is at most a tenth of what is asked for, so
    that a request more is not paid for with many bytes more.
    """
    runs: list[ByteRange] = []
    asked = 0  # bytes of the last run that were asked for
    for offset, length in sorted(r for r in ranges if r[1] > 0):
        start, stop = (runs[-1][0], sum(runs[-1])) if runs else (offset, offset)
        added = max(0, offset + length - max(stop, offset))
        end = max(stop, offset + length)
        if runs and (end - start - asked - added) * GAP <= asked + added:
            runs[-1], asked = (start, end - start), asked + added
        else:
            runs.append((offset, length))
            asked = length
    return runs


def read_section(read: ReadRange, section: Section, *, what: str) -> bytes:
    """Read one whole section and check its length and CRC-32C."""
    data = read(section.offset, section.nbytes) if section.nbytes else b""
    check_section(data, section, what=what)
    return data


def check_section(data: bytes, section: Section, *, what: str) -> None:
    """Refuse bytes that are cut or have another CRC-32C than the header says (FormatError)."""
    if len(data) != section.nbytes:
        raise FormatError(
            f"{what}: section {section.name!r} at offset {section.offset}: expected "
            f"{section.nbytes} bytes, found {len(data)}",
            kind="truncated",
            hint="the chunk is cut, run `psc-archive verify`",
        )
    found = crc32c(data)
    if found != section.crc:
        raise ChecksumError(
            f"{what}: section {section.name!r} at offset {section.offset}: expected CRC-32C "
            f"{section.crc:08x}, found {found:08x}",
            kind="section-checksum",
            hint="the chunk is damaged, run `psc-archive verify`",
        )
