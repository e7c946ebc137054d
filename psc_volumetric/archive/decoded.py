"""Decoded regions that are kept in memory, so that a cursor in one tile decodes it once.

Bricks are decoded in tiles and segments. Whoever asks for part of one gets it cut from the whole,
which is kept for the next question. What was decoded in full for its own sake is not kept: a
reader of whole bricks does not come back. One limit holds for all archives that a process has
open, through whichever way of reading.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.of_process import of_this_process

__all__ = ["LIMIT", "DecodedRegion", "DecodedRegions", "decoded_regions", "new_owner"]

LIMIT = 128 << 20  # bytes

Box = tuple[slice, slice, slice]

_numbers = count()
_of_process: dict[int, DecodedRegions] = {}


@dataclass(frozen=True)
class DecodedRegion:
    """Stored values of a region; ``spread`` is one sigma per voxel (float32) or None."""

    values: NDArray[Any]
    spread: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes + (0 if self.spread is None else self.spread.nbytes)

    def cut(self, frame: Box, box: Box) -> DecodedRegion:
        """The part ``box`` of this region, which is ``frame``; a view."""
        z, y, x = (
            slice(b.start - f.start, b.stop - f.start) for b, f in zip(box, frame, strict=True)
        )
        spread = None if self.spread is None else self.spread[z, y, x]
        return DecodedRegion(self.values[z, y, x], spread)


def new_owner() -> int:
    """A number that no other open archive of this process has."""
    return next(_numbers)


def decoded_regions() -> DecodedRegions:
    """Those of this process."""
    return of_this_process(_of_process, DecodedRegions)


class DecodedRegions:
    """Regions of bricks by brick, level and box; the ones that were not used longest go first.

    Attributes
    ----------
    limit : int
        Bytes that are kept at most; 0 keeps nothing.
    nbytes : int
        Bytes that are kept now.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[tuple[Hashable, tuple[int, ...]], DecodedRegion] = OrderedDict()
        self._boxes: dict[Hashable, list[Box]] = {}
        self._lock = threading.Lock()
        self._busy: dict[Hashable, tuple[threading.Lock, int]] = {}

    def get(
        self,
        brick: Hashable,
        box: Box,
        *,
        units: Callable[[Box], Box],
        decode: Callable[[Box], DecodedRegion],
    ) -> DecodedRegion:
        """Part of a brick, decoded only if it is not kept; read-only where it is.

        Parameters
        ----------
        brick : hashable
            Owner, key, level, and whether the spread is asked for.
        box : (slice, slice, slice)
        units : callable
            The box of whole tiles or segments around one.
        decode : callable
            Decodes a box. Threads that ask for the same brick wait for one another.

        Raises
        ------
        FormatError, PriorMismatchError
            What ``decode`` raises for the box itself.
        """
        found = self.find(brick, box)
        if found is not None:
            return found
        with self._alone(brick):
            found = self.find(brick, box)
            if found is not None:
                return found
            try:
                whole = units(box)
                region = decode(whole)
            except (FormatError, PriorMismatchError):
                return decode(box)  # which says what is wrong with this one
            if whole == box:
                return region
            self._keep(brick, whole, region)
            return region.cut(whole, box)

    @contextmanager
    def _alone(self, brick: Hashable) -> Iterator[None]:
        """Let one thread at a time decode a brick, which has a lock while it is asked for.

        A lock for several bricks would let threads that decode one wait for threads of another.
        """
        with self._lock:
            lock, users = self._busy.get(brick, (threading.Lock(), 0))
            self._busy[brick] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._busy.pop(brick)
                if users > 1:
                    self._busy[brick] = lock, users - 1

    def find(self, brick: Hashable, box: Box) -> DecodedRegion | None:
        """Part of a brick that is kept; None where it is not."""
        with self._lock:
            for frame in self._boxes.get(brick, ()):
                if _holds(frame, box):
                    place = (brick, _corners(frame))
                    self._kept.move_to_end(place)
                    return self._kept[place].cut(frame, box)
        return None

    def has(self, brick: tuple[Hashable, ...], spread: bool, level: int, box: Box) -> bool:
        """Whether part of a level of a brick is kept."""
        return self.find((*brick, level, spread), box) is not None

    def _keep(self, brick: Hashable, box: Box, region: DecodedRegion) -> None:
        if region.nbytes > self.limit:
            return
        region.values.setflags(write=False)
        with self._lock:
            for inner in [b for b in self._boxes.get(brick, ()) if _holds(box, b)]:
                self._drop(brick, inner)
            self._kept[brick, _corners(box)] = region
            self._boxes.setdefault(brick, []).append(box)
            self.nbytes += region.nbytes
            while self.nbytes > self.limit:
                oldest, corners = next(iter(self._kept))
                self._drop(oldest, _box(corners))

    def _drop(self, brick: Hashable, box: Box) -> None:
        self.nbytes -= self._kept.pop((brick, _corners(box))).nbytes
        self._boxes[brick].remove(box)
        if not self._boxes[brick]:
            del self._boxes[brick]


def _holds(outer: Box, inner: Box) -> bool:
    return all(o.start <= i.start and i.stop <= o.stop for o, i in zip(outer, inner, strict=True))


def _corners(box: Box) -> tuple[int, ...]:
    return tuple(n for s in box for n in (s.start, s.stop))


def _box(corners: tuple[int, ...]) -> Box:
    z, y, x = (slice(a, b) for a, b in zip(corners[::2], corners[1::2], strict=True))
    return z, y, x
