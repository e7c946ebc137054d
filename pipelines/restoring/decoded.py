"""A region of an archive as an array that is decoded where it is read."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.base import RestoredVolume, selection_bounds
from pipelines.restoring.from_originals import OriginalArray, Originals
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.levels import Level
from psc_volumetric.archive.plain import PlainArray
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.salvage import FilledArray, Salvage
from psc_volumetric.archive.viewed import Viewer
from psc_volumetric.threads import Ahead

__all__ = ["DecodedArray", "restored_volumes", "touched"]

KEPT_BYTES = 32 << 20

Position = tuple[int, ...]
Box = tuple[slice, ...]


def touched(spec: VariableSpec, box: Box) -> Iterator[Position]:
    """Chunk grid indices of the bricks that a region touches, C order."""
    return product(
        *(
            range(part.start // size, (part.stop - 1) // size + 1)
            for part, size in zip(box, spec.chunk_shape, strict=True)
        )
    )


@dataclass(frozen=True, eq=False)
class DecodedArray:
    """Stored values of a region; ``array[slices]`` decodes the bricks it touches.

    The latest bricks are kept: as many as lie side by side across the slowest axis that a brick
    spans, or ``KEPT_BYTES`` if that is more. Read in C order, slab by slab, each is decoded once,
    and as many more as there are cores are being decoded meanwhile, until it is closed.

    Attributes
    ----------
    reader : ArchiveReader
        Stays open as long as the array is used.
    spec : VariableSpec
    box : tuple of slice
        The region, one half-open slice per axis, none empty.
    level : int, str or None
        Quality level, as for `ArchiveReader.read`.
    told : callable or None
        Called after each brick that was decoded.
    instead : Salvage, Viewer or None
        Reads what is left of damaged bricks, or a view; None: the reader itself.
    """

    reader: ArchiveReader
    spec: VariableSpec
    box: Box
    level: Level = None
    told: Callable[[], None] | None = None
    instead: Salvage | Viewer | None = None
    _kept: OrderedDict[Position, NDArray[Any]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def _ahead(self) -> Ahead[Position, NDArray[Any]]:
        return Ahead(self._decoded, touched(self.spec, self.box))

    def _decoded(self, position: Position) -> NDArray[Any]:
        source = self.reader if self.instead is None else self.instead
        return source.read(self.spec.name, self._within(position), level=self.level)

    def start(self) -> None:
        """Begin to decode, while what writes the file is being loaded."""
        self._ahead.start()

    def close(self) -> None:
        """Decode nothing more."""
        self._ahead.close()

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis of the region."""
        return tuple(part.stop - part.start for part in self.box)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return self.spec.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        """Decode a part of the region; one slice (step 1) per axis, relative to it.

        Raises
        ------
        IndexError : another number of slices than axes, or another step.
        FormatError : a brick is damaged; the message names it.
        """
        wanted = self._absolute(key)
        values = np.empty(tuple(part.stop - part.start for part in wanted), self.dtype)
        if not values.size:
            return values
        for position in touched(self.spec, wanted):
            extent = self._within(position)
            both = [
                (max(w.start, e.start), min(w.stop, e.stop))
                for w, e in zip(wanted, extent, strict=True)
            ]
            target = tuple(
                slice(a - w.start, b - w.start) for (a, b), w in zip(both, wanted, strict=True)
            )
            source = tuple(
                slice(a - e.start, b - e.start) for (a, b), e in zip(both, extent, strict=True)
            )
            values[target] = self._brick(position)[source]
        return values

    def _absolute(self, key: tuple[slice, ...]) -> Box:
        bounds = selection_bounds(key, self.shape)
        return tuple(
            slice(whole.start + start, whole.start + stop)
            for whole, (start, stop) in zip(self.box, bounds, strict=True)
        )

    def _within(self, position: Position) -> Box:
        """The part of the region that a brick covers."""
        return tuple(
            slice(max(b.start, w.start), min(b.stop, w.stop))
            for b, w in zip(self.spec.box(position), self.box, strict=True)
        )

    def _brick(self, position: Position) -> NDArray[Any]:
        """Values of the region inside one brick, kept for the next slab."""
        with self._lock:
            if position in self._kept:
                self._kept.move_to_end(position)
                return self._kept[position]
        with self._turn:
            values = self._ahead(position)
        with self._lock:
            self._kept[position] = values
            while len(self._kept) > 1 and self._kept_bytes > self._room:
                self._kept.popitem(last=False)
        if self.told is not None:
            self.told()
        return values

    @property
    def _kept_bytes(self) -> int:
        return sum(values.nbytes for values in self._kept.values())

    @property
    def _room(self) -> int:
        """Bytes of a row of bricks: whole along all axes behind the slowest that they span."""
        depth = self.spec.chunk_shape[self.spec.lead]
        row = depth * math.prod(self.shape[self.spec.lead + 1 :]) * self.dtype.itemsize
        return max(KEPT_BYTES, row)


@contextmanager
def restored_volumes(
    reader: ArchiveReader,
    boxes: Mapping[str, Box],
    level: Level = None,
    told: Callable[[], None] | None = None,
    instead: Salvage | Viewer | None = None,
) -> Iterator[list[RestoredVolume]]:
    """Give regions of variables as an adapter's ``restore`` takes them, decoded when they are read.

    The plain arrays of the source come with them, whole.

    Parameters
    ----------
    reader : ArchiveReader
        Stays open until the files are written.
    boxes : mapping
        Variable name -> one half-open slice per axis; also of those without bricks.
    level : int, str or None
    told : callable, optional
        Called after each brick that was decoded.
    instead : Salvage or Viewer, optional
        Fills what is damaged, or reads a view; without it damage is an error when it is read.
    """
    beside: list[PlainArray | FilledArray] = [reader.plain(name) for name in reader.arrays]
    if isinstance(instead, Salvage):
        beside = [FilledArray(array) for array in beside if isinstance(array, PlainArray)]
    arrays = [RestoredVolume(a.name, a, (0,) * len(a.shape), a.shape) for a in beside]
    with ExitStack() as opened:
        coded = {
            name: opened.enter_context(
                closing(DecodedArray(reader, reader.variables[name], box, level, told, instead))
            )
            for name, box in boxes.items()
            if name not in reader.kept
        }
        for array in list(coded.values())[:1]:
            array.start()
        decoded: dict[str, DecodedArray | OriginalArray] = {**coded}
        if reader.kept:
            originals = opened.enter_context(closing(Originals(reader.source())))
            for name in filter(reader.kept.__contains__, boxes):
                decoded[name] = OriginalArray(originals, reader.kept[name], boxes[name])
        specs = reader.variables | {name: kept.spec for name, kept in reader.kept.items()}
        yield arrays + [
            RestoredVolume(
                name=str(specs[name].parameters.get("volume", name)),
                array=array,
                start=tuple(part.start for part in array.box),
                full_shape=specs[name].shape,
            )
            for name, array in decoded.items()
        ]
