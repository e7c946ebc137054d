"""The chain of directories of a TIFF file, walked before any library sees it.

A library shows the pages up to the first one that it cannot find, decodes what is left of a strip,
and may follow a chain that leads back for ever. Here a file that is cut off, or whose chain makes
no sense, is told apart from one that is whole.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.base import Array
from adapters.errors import SourceError
from adapters.images.pictures import damaged
from adapters.source_files import open_plain

__all__ = ["check_tiff"]

_MOST_DIRECTORIES = 1 << 18
_MOST_TAGS = 4096
_COLUMNS, _ROWS, _BITS, _COMPRESSION, _SAMPLES, _SUB_IFDS = 256, 257, 258, 259, 277, 330
_SEGMENTS = ((273, 279), (324, 325))  # offsets and bytes of strips, of tiles
_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True)
class _Form:
    """How numbers of a file are written: byte order, and the sizes of TIFF or BigTIFF."""

    order: str
    big: bool

    @property
    def count(self) -> struct.Struct:
        """Number of tags."""
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def offset(self) -> struct.Struct:
        """An offset."""
        return struct.Struct(self.order + ("Q" if self.big else "I"))

    @property
    def tag(self) -> struct.Struct:
        """Code, type and count of a tag, before its value or the offset of that."""
        return struct.Struct(self.order + ("HHQ" if self.big else "HHI"))


def check_tiff(path: Path) -> None:
    """Walk all directories; see that they, and the strips and tiles they name, are in the file.

    Raises
    ------
    SourceError : kind ``"not-image"``, ``"truncated"``, ``"damaged"``, ``"too-large"`` or
        ``"unreadable"``.
    """
    try:
        with open_plain(path) as stream:
            start = stream.read(16)
            form, first = _form(start, path)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _walk(data, form, first, path)
    except OSError as error:
        raise SourceError(f"cannot read: {error.strerror}", kind="unreadable", path=path) from error


def _form(start: bytes, path: Path) -> tuple[_Form, int]:
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = struct.unpack(f"{order}H", start[2:4])[0] if order and len(start) > 3 else 0
    if order is None or version not in (42, 43):
        raise SourceError(
            f"expected a TIFF file, it begins with {start[:4]!r}", kind="not-image", path=path
        )
    form = _Form(order, version == 43)
    if len(start) < (16 if form.big else 8):
        raise _cut(path, f"one that ends after {len(start)} bytes")
    return form, form.offset.unpack_from(start, 8 if form.big else 4)[0]


def _walk(data: mmap.mmap, form: _Form, first: int, path: Path) -> None:
    seen: set[int] = set()
    chains, number = [first], 0
    while chains:
        offset, own, is_main = chains.pop(0), set[int](), not seen
        while offset and (offset not in seen or offset in own):
            if offset in own:
                raise damaged(path, f"directories that lead back to offset {offset}")
            if len(seen) >= _MOST_DIRECTORIES:
                raise SourceError(
                    f"expected at most {_MOST_DIRECTORIES} directories, found more",
                    kind="too-large",
                    path=path,
                    hint="the header is damaged or hostile",
                )
            seen.add(offset)
            own.add(offset)
            what = f"page {number}" if is_main else "a smaller image"
            offset, below = _directory(data, form, offset, path, what)
            chains += below
            number += 1


def _directory(
    data: mmap.mmap, form: _Form, at: int, path: Path, what: str
) -> tuple[int, list[int]]:
    """Check one directory; gives the offsets of the next one, and of those below it."""
    size = len(data)
    if at + form.count.size > size:
        raise _cut(path, f"{size} bytes, and the directory of {what} at offset {at}")
    count = form.count.unpack_from(data, at)[0]
    entry = form.tag.size + form.offset.size
    begin, end = at + form.count.size, at + form.count.size + count * entry
    if not 0 < count <= _MOST_TAGS:
        raise damaged(path, f"{count} tags in the directory of {what}")
    if end + form.offset.size > size:
        raise _cut(path, f"one in which the directory of {what} breaks off at offset {at}")
    tags = dict(_tags(data, form, begin, count, path, what))
    for offsets, lengths in _SEGMENTS:
        if offsets in tags and lengths in tags:
            most = _plain_bytes(tags)
            _check_segments(tags[offsets], tags[lengths], most, size, path, what)
    below = [int(offset) for offset in tags.get(_SUB_IFDS, ())]
    return form.offset.unpack_from(data, end)[0], below


def _tags(
    data: mmap.mmap, form: _Form, begin: int, count: int, path: Path, what: str
) -> Iterator[tuple[int, Array]]:
    """Numbers of the tags that say where something lies."""
    wanted = {_COLUMNS, _ROWS, _BITS, _COMPRESSION, _SAMPLES, _SUB_IFDS}
    wanted.update(code for pair in _SEGMENTS for code in pair)
    room = form.offset.size
    for number in range(count):
        at = begin + number * (form.tag.size + room)
        code, kind, length = form.tag.unpack_from(data, at)
        if code not in wanted or kind not in _NUMBERS or not length:
            continue
        dtype = np.dtype(form.order + _NUMBERS[kind])
        place = at + form.tag.size
        if length * dtype.itemsize > room:
            place = form.offset.unpack_from(data, place)[0]
        end = place + length * dtype.itemsize
        if end > len(data):
            raise _cut(
                path, f"{length} numbers of tag {code} of {what} would pass the end of the file"
            )
        yield code, np.frombuffer(data[place:end], dtype).astype(np.uint64)


def _plain_bytes(tags: Mapping[int, Array]) -> int:
    """Bytes that all pixels of an image without compression have; 0 where they cannot be told."""
    columns, rows, kind, samples = (
        int(tags.get(code, [1])[0]) for code in (_COLUMNS, _ROWS, _COMPRESSION, _SAMPLES)
    )
    bits = [int(value) for value in tags.get(_BITS, [1])]
    whole = sum(bits) if len(bits) == samples else samples * bits[0]
    return rows * -(-columns * whole // 8) if kind == 1 else 0


def _check_segments(
    offsets: Array, lengths: Array, most: int, size: int, path: Path, what: str
) -> None:
    """See that strips and tiles end before the file does; those of no bytes are left out of it.

    The length of a single strip without compression is often wrong, and not needed.
    """
    count = min(len(offsets), len(lengths))
    offsets, lengths = offsets[:count], lengths[:count]
    if count == 1 and most:
        lengths = np.minimum(lengths, np.uint64(most))
    left = np.uint64(size) - np.minimum(offsets, np.uint64(size))
    over = (offsets > 0) & (lengths > left)
    if over.any():
        first = int(np.argmax(over))
        raise _cut(
            path,
            f"{size} bytes, and strip or tile {first} of {what} with {int(lengths[first])} bytes "
            f"at offset {int(offsets[first])}",
        )


def _cut(path: Path, found: str) -> SourceError:
    return SourceError(
        f"expected a whole TIFF file, found {found}",
        kind="truncated",
        path=path,
        hint="fetch the file again from its source",
    )
