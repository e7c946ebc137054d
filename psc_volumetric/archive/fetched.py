"""Bytes that are fetched before they are asked for, many requests at once.

A decoder asks for one range after another; from far away each costs a journey. What it will ask
for is known from the headers of the bricks, so that a region takes two rounds of requests: headers,
then everything else. What does not come is no error here: it is asked for again, by the reader
that needs it, and that one says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from psc_volumetric.archive.stores import ArchiveStore
from psc_volumetric.bitstream.constants import HEADER_READ_AHEAD, MAX_HEADER_SIZE
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ByteRange, joined
from psc_volumetric.errors import PscError

__all__ = ["NOTHING_FETCHED", "Fetched", "fetch", "header_rest"]

SIZE_AT = slice(8, 12)  # of the header's size in a brick (SPEC 3)

Box = tuple[slice, slice, slice]
Ranges = Callable[[BrickIndex], Iterable[ByteRange]]


@dataclass
class Fetched:
    """What is known of one object without another request.

    Attributes
    ----------
    size : int or None
        Bytes of the object as the store has it; None where it was not asked.
    """

    size: int | None = None
    _pieces: list[tuple[int, bytes]] = field(default_factory=list, repr=False)

    def add(self, start: int, data: bytes | None) -> None:
        """Remember bytes from ``start`` on; None is nothing."""
        if not data:
            return
        for number, (first, known) in enumerate(self._pieces):
            if first + len(known) == start:
                self._pieces[number] = (first, known + data)
                return
        self._pieces.append((start, data))

    def find(self, start: int, length: int) -> bytes | None:
        """The bytes of a range; None unless all of them are here."""
        for first, data in self._pieces:
            if first <= start and start + length <= first + len(data):
                return data[start - first : start - first + length]
        return None

    def lacking(self, ranges: Iterable[ByteRange]) -> list[ByteRange]:
        """What has still to be read for these ranges, neighbours joined."""
        rest = []
        for start, length in joined(ranges):
            stop = start + length
            for first, data in self._pieces:
                if first <= start < first + len(data):
                    start = first + len(data)
            if start < stop:
                rest.append((start, stop - start))
        return rest


NOTHING_FETCHED = Fetched()  # never added to


def header_rest(head: bytes | None) -> ByteRange | None:
    """What is left of a brick's header behind the bytes that are read first."""
    if head is None or len(head) < HEADER_READ_AHEAD:
        return None
    size = min(int.from_bytes(head[SIZE_AT], "little"), MAX_HEADER_SIZE)
    return (len(head), size - len(head)) if size > len(head) else None


def fetch(
    store: ArchiveStore,
    bricks: Mapping[str, Ranges],
    known: Callable[[str], BrickIndex | None],
    parse: Callable[[str, Fetched], BrickIndex],
) -> dict[str, Fetched]:
    """Fetch what decoding parts of bricks takes.

    Parameters
    ----------
    store : ArchiveStore
    bricks : mapping
        Key -> which ranges are wanted once its header is known.
    known : callable
        The header of a key, where it was read before.
    parse : callable
        Reads and checks it from the bytes that have come.

    Returns
    -------
    dict
        Key -> what came of it.
    """
    found = {key: Fetched() for key in bricks}
    new = [key for key in bricks if known(key) is None]
    rests = []
    for key, (head, size) in zip(new, store.heads(new, HEADER_READ_AHEAD), strict=True):
        found[key].size = size
        found[key].add(0, head)
        rest = header_rest(head)
        if rest is not None:
            rests.append((key, *rest))
    for (key, start, _), data in zip(rests, store.get_many(rests), strict=True):
        found[key].add(start, data)
    requests = []
    for key, ranges in bricks.items():
        try:
            index = parse(key, found[key])
        except PscError:
            continue
        requests += [(key, *part) for part in found[key].lacking(ranges(index))]
    for (key, start, _), data in zip(requests, store.get_many(requests), strict=True):
        found[key].add(start, data)
    return found
