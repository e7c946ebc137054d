"""Lazy arrays behind the xarray engine: bricks, also with a slope per slice, and plain arrays.

All of them are decoded when they are used, and can be pickled: another process opens the archive
again, and only if it is the same one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from os.path import realpath
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from psc_volumetric.errors import StorageError
from psc_volumetric.of_process import of_this_process
from psc_volumetric.views import ViewRequest

if TYPE_CHECKING:
    from psc_volumetric.archive import ArchiveReader
    from psc_volumetric.archive.kept import KeptArray
    from psc_volumetric.archive.plain import PlainArray
    from psc_volumetric.archive.quota import Quota
    from psc_volumetric.archive.salvage import Salvage
    from psc_volumetric.archive.viewed import Viewer

__all__ = ["BrickArray", "DamageArray", "Place", "PlainValues", "SliceScaling"]

Key = tuple[int | slice | NDArray[Any], ...]

READERS_KEPT = 8
DECODED = ViewRequest()


class _Open:
    """What a process has open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.places: WeakSet[Place] = WeakSet()
        self.readers: OrderedDict[tuple[str, str, Quota], ArchiveReader] = OrderedDict()


_of_process: dict[int, _Open] = {}


class Place:
    """Where an archive is; opens it again in another process, and only if it is the same one."""

    def __init__(
        self,
        target: Any,
        options: Mapping[str, Any] | None,
        device: str,
        reader: ArchiveReader,
        level: int | str | None = None,
        *,
        skip_damaged: bool = False,
        view: ViewRequest = DECODED,
    ) -> None:
        self.skip_damaged = skip_damaged
        self.view = view
        self._salvage: Salvage | None = None
        self._viewer: Viewer | None = None
        self.target = target
        self.options = options
        self.device = device
        self.quota = reader.quota
        self.mode = reader.mode
        self.level = level
        self.digest = reader.manifest.digest
        self._where = ""
        self._reader: ArchiveReader | None = reader
        if not skip_damaged:
            self._share_decoded(reader)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_salvage": None, "_viewer": None}

    def close(self) -> None:
        """Release file handles; a later access opens the archive again."""
        reader, self._reader, self._salvage, self._viewer = self._reader, None, None, None
        if reader is not None:
            reader.close()

    def _share_decoded(self, reader: ArchiveReader) -> None:
        """Let a reader go on from what others that are open have decoded of the same archive.

        Datasets of two levels, or with and without sigma, stand on the same lower levels. Once the
        last of them is closed nothing is shared: whoever opens the archive anew reads its bytes.
        """
        if not isinstance(self.target, (str, PathLike)):
            return  # stores are not told apart by a name
        text = fspath(self.target)
        self._where = text if "://" in text else realpath(text)
        opened = of_this_process(_of_process, _Open)
        with opened.lock:
            for other in opened.places:
                same = (other._where, other.digest) == (self._where, self.digest)
                if same and other._reader is not None:
                    reader.owner = other._reader.owner
            opened.places.add(self)

    @property
    def reader(self) -> ArchiveReader:
        """The open archive."""
        if self._reader is None:
            self._reader = self._reopened()
        return self._reader

    @property
    def salvage(self) -> Salvage:
        """Reads the open archive, whatever is damaged."""
        from psc_volumetric.archive.salvage import Salvage

        if self._salvage is None:
            self._salvage = Salvage(self.reader)
        return self._salvage

    @property
    def labels(self) -> dict[str, str]:
        """Attributes of values with detail that was drawn; none for others."""
        drawn = self.view.is_generated and self.mode != "lossless"
        return {"psc_view": self.view.label} if drawn else {}

    @property
    def source(self) -> ArchiveReader | Salvage | Viewer:
        """What values are read with."""
        from psc_volumetric.archive.viewed import Viewer

        if not self.view.is_generated:
            return self.salvage if self.skip_damaged else self.reader
        if self._viewer is None:
            self._viewer = Viewer(self.reader, self.view)
        return self._viewer

    def _reopened(self) -> ArchiveReader:
        from psc_volumetric.archive import ArchiveReader

        key = (str(self.target), self.digest, self.quota)
        opened = of_this_process(_of_process, _Open)
        with opened.lock:
            readers = opened.readers
            if key not in readers:
                reader = ArchiveReader.open(
                    self.target, device=self.device, options=self.options, quota=self.quota
                )
                if reader.manifest.digest != self.digest:
                    raise StorageError(
                        f"{self.target}: this is another archive than the one that was opened",
                        kind="archive-changed",
                        hint="archives do not change; open the dataset again",
                    )
                readers[key] = reader
            readers.move_to_end(key)
            while len(readers) > READERS_KEPT:
                readers.popitem(last=False)
            return readers[key]


@dataclass(frozen=True, eq=False)
class SliceScaling:
    """Slope and intercept per slice: float64 tables along the axes that begin at ``axis``."""

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    axis: int

    @classmethod
    def of(cls, attrs: Mapping[str, Any], shape: tuple[int, ...]) -> SliceScaling | None:
        """Read the attributes ``slice_slope`` and ``slice_intercept``; None where they are not.

        The tables run along the axes before the last two, or else along the first ones.
        """
        tables = [attrs.get(f"slice_{name}") for name in ("slope", "intercept")]
        if tables == [None, None]:
            return None
        slope = np.array(1.0 if tables[0] is None else tables[0], np.float64)
        intercept = np.array(0.0 if tables[1] is None else tables[1], np.float64)
        slope, intercept = np.broadcast_arrays(slope, intercept)
        for axis in (len(shape) - 2 - slope.ndim, 0):
            if axis >= 0 and shape[axis : axis + slope.ndim] == slope.shape:
                return cls(slope, intercept, axis)
        return None

    @property
    def of_errors(self) -> SliceScaling:
        """What becomes of the size of an error."""
        return SliceScaling(np.abs(self.slope), np.zeros_like(self.intercept), self.axis)

    def apply(self, values: NDArray[Any], box: tuple[slice, ...]) -> NDArray[np.float64]:
        """``values * slope + intercept`` in float64, for a box of the array."""
        inside = box[self.axis : self.axis + self.slope.ndim]
        after = (1,) * (len(box) - self.axis - self.slope.ndim)
        slope, intercept = (
            table[inside].reshape(table[inside].shape + after)
            for table in (self.slope, self.intercept)
        )
        scaled: NDArray[np.float64] = values.astype(np.float64) * slope + intercept
        return scaled


class BrickArray(BackendArray):
    """One variable (or its uncertainty), decoded on indexing.

    With ``scaling`` the values are float64, as pydicom's modality transform gives them.
    """

    def __init__(
        self,
        place: Place,
        variable: str,
        *,
        spread: bool = False,
        scaling: SliceScaling | None = None,
    ) -> None:
        spec = place.reader.variables[variable]
        self._place = place
        self._variable = variable
        self._spread = spread
        self._scaling = scaling
        self._view = None if spec.raw_dtype is None or spread else np.dtype(spec.raw_dtype)
        self.shape = spec.shape
        # what one read may cost is held to the selection as a whole
        self._chunk = spec.chunk_shape if place.quota.is_unlimited else spec.shape
        stored = np.dtype(np.float32) if spread else self._view or spec.dtype
        self.dtype: np.dtype[Any] = stored if scaling is None else np.dtype(np.float64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return _read_points(key, self.shape, self.dtype, self._chunk, self._decode)

    def _decode(self, key: Key) -> NDArray[Any]:
        return _read_pieces(key, self.shape, self.dtype, self._chunk, self._decode_box)

    def _decode_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        place = self._place
        values = place.source.read(self._variable, box, level=place.level, spread=self._spread)
        if self._view is not None:
            values = values.view(self._view)
        if self._scaling is not None:
            values = self._scaling.apply(values, box)
        return values


class DamageArray(BackendArray):
    """Which voxels of a variable cannot be read; found out on indexing, without decoding."""

    def __init__(self, place: Place, variable: str) -> None:
        self._place = place
        self._variable = variable
        self.shape = place.reader.variables[variable].shape
        self.dtype = np.dtype(np.bool_)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._find
        )

    def _find(self, key: tuple[int | slice, ...]) -> Any:
        from psc_volumetric.archive.selection import bounds_of, relative_to

        bounds = bounds_of(key, self.shape)
        box = tuple(slice(b.start, b.stop) for b in bounds)
        lost = self._place.salvage.mask(self._variable, box, level=self._place.level)
        return lost[relative_to(key, bounds)]


class PlainValues(BackendArray):
    """An array without bricks, read on indexing: one of the archive, or one out of an original.

    Parameters
    ----------
    place : Place
        Where the archive is.
    opening : callable
        Gives the array of an open archive; can be pickled.
    shape : tuple of int
    dtype : dtype
    chunk : tuple of int, optional
        What is read at once; None is everything.
    """

    def __init__(
        self,
        place: Place,
        opening: Callable[[ArchiveReader], PlainArray | KeptArray],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk: tuple[int, ...] | None = None,
    ) -> None:
        self._place = place
        self._opening = opening
        self._chunk = chunk if chunk is not None and place.quota.is_unlimited else shape
        self._array: PlainArray | KeptArray | None = None
        self.shape = shape
        self.dtype = dtype

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return _read_points(key, self.shape, self.dtype, self._chunk, self._read)

    def _read(self, key: Key) -> NDArray[Any]:
        if self._array is None:
            self._array = self._opening(self._place.reader)
        return _read_pieces(key, self.shape, self.dtype, self._chunk, self._array.__getitem__)


def _read_points(
    key: indexing.ExplicitIndexer,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    read: Callable[[Key], NDArray[Any]],
) -> Any:
    """Read any selection; points that are few and far apart chunk by chunk."""
    from psc_volumetric.archive.selection import indices_of, points_by_chunk
    from psc_volumetric.threads import in_order

    def taken(selection: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(selection, shape, support, read)

    axes = [n for n, part in enumerate(key.tuple) if isinstance(part, np.ndarray)]
    if not isinstance(key, indexing.VectorizedIndexer) or not axes:
        return taken(key)
    arrays = np.broadcast_arrays(*(indices_of(key.tuple[n], shape[n]) for n in axes))
    flat = dict(zip(axes, (array.ravel() for array in arrays), strict=True))
    groups = points_by_chunk(list(flat.values()), [max(1, chunk[n]) for n in axes])
    if len(groups) == 1:
        return taken(key)
    parts = (
        indexing.VectorizedIndexer(
            tuple(flat[n][own] if n in flat else part for n, part in enumerate(key.tuple))
        )
        for own in groups
    )
    at, found = axes[0], None  # where xarray puts what points give
    with in_order(taken, parts) as read_parts:
        for own, values in zip(groups, read_parts, strict=True):
            if found is None:
                found = np.empty((arrays[0].size, *np.delete(values.shape, at)), dtype)
            found[own] = np.moveaxis(values, at, 0)
    assert found is not None
    placed = np.moveaxis(found, 0, at)
    return placed.reshape(*placed.shape[:at], *arrays[0].shape, *placed.shape[at + 1 :])


def _read_pieces(
    key: Key,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    read: Callable[[tuple[slice, ...]], NDArray[Any]],
) -> NDArray[Any]:
    """Read a selection by boxes that hold no chunks but those that it touches, and few beside."""
    from psc_volumetric.archive.selection import bounds_of, outer, pieces_of, relative_to
    from psc_volumetric.threads import in_order

    def taken(selection: Key) -> NDArray[Any]:
        bounds = bounds_of(selection, shape)
        values = read(tuple(slice(b.start, b.stop) for b in bounds))
        return outer(values, relative_to(selection, bounds))

    pieces = pieces_of(key, shape, [max(1, size) for size in chunk])
    if len(pieces) == 1:
        return taken(pieces[0].selection)
    along = zip(*(piece.places for piece in pieces), strict=True)
    sizes = [1 + max(int(places.max(initial=-1)) for places in axis) for axis in along]
    found = np.empty(sizes, dtype)
    with in_order(taken, [piece.selection for piece in pieces]) as parts:
        for piece, values in zip(pieces, parts, strict=True):
            found[np.ix_(*piece.places)] = values
    return found
