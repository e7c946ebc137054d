"""What crosses the border between source formats and the rest: volumes, items, candidates.

An adapter turns files into a ``SourceItem``: stored voxel values behind a lazy array, geometry in
millimetres, and everything needed (``document`` + ``blobs``) to write the source format again.
Nothing here imports a format library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from adapters.errors import SourceError
from adapters.kept import Blocks, Kept

__all__ = [
    "CUT",
    "EQUAL_DATA",
    "IDENTICAL",
    "IDENTICAL_UNPACKED",
    "LOSSY",
    "Adapter",
    "Array",
    "Candidate",
    "Coordinate",
    "Discovery",
    "FileRecord",
    "LazyArray",
    "Promise",
    "RestoreInfo",
    "RestoredVolume",
    "SideArray",
    "Skipped",
    "SourceItem",
    "Volume",
    "WrittenFile",
    "selection_bounds",
    "spacing_of",
]

Array = npt.NDArray[Any]

# What a restored file is, compared with the source file it comes from.
IDENTICAL = "identical"
IDENTICAL_UNPACKED = "identical after decompression"
EQUAL_DATA = "equal data"
LOSSY = "derived (lossy)"
CUT = "derived (part of the source)"


@runtime_checkable
class LazyArray(Protocol):
    """Stored values that are read only where asked for.

    ``array[key]`` takes one slice (step 1) per axis and returns a fresh C-ordered array of
    ``dtype`` (native byte order) owned by the caller. Instances can be pickled and read from
    several threads.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        ...

    def __getitem__(self, key: tuple[slice, ...]) -> Array: ...


@dataclass(frozen=True)
class Coordinate:
    """Values along one or more axes of a volume, as stored in the source."""

    name: str
    dims: tuple[str, ...]
    values: Array
    attrs: dict[str, Any]


@dataclass(frozen=True)
class SideArray:
    """An array of the source that is no volume: kept exactly, shown under its own name.

    Attributes
    ----------
    name : str
        As in the source; slashes separate groups. Different from the names of volumes.
    array : LazyArray
        Numbers, single characters (``S1``) or text (``object``), of any shape, also ``()``.
    dims : tuple of str
        One name per axis.
    attrs : dict
        As the format's own reader gives them: text, lists of text, NumPy scalars and arrays.
    """

    name: str
    array: LazyArray
    dims: tuple[str, ...]
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Volume:
    """One array of stored values with its geometry and meaning.

    Attributes
    ----------
    name : str
        As in the source where it has names (slashes separate groups); unique within the item.
        Never text from a medical header.
    array : LazyArray
        Stored values, never rescaled; axes (..., z, y, x), C order, 2 to 6 axes.
    dims : tuple of str
        One name per axis, all different.
    affine : (4, 4) float64 or None
        Array index (z, y, x, 1) of the last three axes -> world mm, RAS+. None when the volume is
        not spatial, or when its slices do not lie on a regular grid.
    spacing_mm : (z, y, x) float or None
        Distance between neighbouring voxel centres; None exactly when ``affine`` is None.
    unit : str or None
        Unit of the physical values.
    slope, intercept : float or None
        physical = stored * slope + intercept; None stands for 1 and 0. Tables that vary by slice
        are in ``attrs["slice_slope"]`` and ``attrs["slice_intercept"]``, with None here.
    special_values : tuple of int or float
        Fill and padding sentinels, as stored; NaN and infinities always are, and never listed.
    coordinates : tuple of Coordinate
    attrs : dict
        Technical facts: JSON types, NumPy scalars, arrays; no patient identifiers of medicine.
    exact_only : str or None
        Why the values must be kept exactly (colours, masks, palette indices); None when they are
        measurements that a lossy code may approximate.
    limits : (least, largest) or None
        Stored values that the format can hold (``BitsStored``); no lossy code leaves them.
    raw_dtype : str or None
        Integer type of the same size that the file declares, where ``array`` gives what readers
        make of it (NetCDF's ``_Unsigned``).
    kept : Kept or None
        Where the values are in the files, for archives that keep these.
    said_beside : tuple of str
        Names of coordinates that files with lossy values, or with a part, do not repeat.
    """

    name: str
    array: LazyArray
    dims: tuple[str, ...]
    affine: Array | None
    spacing_mm: tuple[float, float, float] | None
    unit: str | None
    slope: float | None
    intercept: float | None
    special_values: tuple[float | int, ...]
    coordinates: tuple[Coordinate, ...]
    attrs: dict[str, Any]
    exact_only: str | None = None
    limits: tuple[float | int, float | int] | None = None
    raw_dtype: str | None = None
    kept: Kept | None = None
    said_beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Promise:
    """What restoring exact values makes of a source file.

    Attributes
    ----------
    kind : str
        ``IDENTICAL``, ``IDENTICAL_UNPACKED`` or ``EQUAL_DATA``.
    differs : str or None
        What will differ from the source file, in words.
    sha256 : str or None
        Digest of the decompressed bytes (``IDENTICAL_UNPACKED``), or of the content as
        ``Adapter.content_sha256`` defines it (``EQUAL_DATA``).
    """

    kind: str
    differs: str | None = None
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class FileRecord:
    """One source file: relative posix name, size in bytes, SHA-256 in hex, and the promise."""

    name: str
    size: int
    sha256: str
    promise: Promise = Promise(IDENTICAL)

    def promising(self, promise: Promise) -> FileRecord:
        """Give the same record with another promise."""
        return replace(self, promise=promise)


@dataclass(frozen=True)
class WrittenFile:
    """One restored file: path, number of its source file, and what it is (``IDENTICAL`` ...)."""

    path: Path
    source: int
    outcome: str


@dataclass(frozen=True)
class SourceItem:
    """One opened source: its volumes and all that is needed to write it again.

    ``document`` is JSON-able; ``blobs`` are verbatim pieces of the source and may hold patient
    identifiers. ``notes`` are warnings in words, without identifiers. ``arrays`` and ``groups``
    (path to attributes, ``""`` is the root) are what the source shows beside its volumes; there may
    be no volume at all. ``beyond_remaking`` says in words why the files can not be made again from
    the rest, so that the originals have to be kept; empty where they can.
    ``bytes_beyond_remaking`` says it of their bytes alone: exact archives keep the originals.
    ``identifies`` tells that a header names a person. ``words`` of a closed list say what it shows.
    """

    kind: str
    name: str
    volumes: tuple[Volume, ...]
    document: dict[str, Any]
    blobs: Mapping[str, bytes | Blocks]
    files: tuple[FileRecord, ...]
    suggested_prior: str | None
    notes: tuple[str, ...]
    arrays: tuple[SideArray, ...] = ()
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    beyond_remaking: tuple[str, ...] = ()
    bytes_beyond_remaking: tuple[str, ...] = ()
    identifies: bool = False
    words: str | None = None


@dataclass(frozen=True)
class Candidate:
    """Files that together make one item.

    ``key`` tells items of one discovery apart; ``place`` is the path of the (first) file below the
    folder it was found in, None for items not named after files (DICOM); ``reason``: why as it is.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    key: str
    reason: str | None = None
    place: PurePosixPath | None = None

    @property
    def label(self) -> str:
        """How to call it in a report."""
        return self.name if self.place is None else str(self.place)


@dataclass(frozen=True)
class Skipped:
    """A file that is not taken, and why; ``kind`` is the ``SourceError`` kind it would raise."""

    path: Path
    reason: str
    kind: str
    hint: str | None = None

    @classmethod
    def of(cls, path: Path, error: SourceError) -> Skipped:
        """Leave a file out because of an error."""
        return cls(path, error.message, error.kind, error.hint)


@dataclass(frozen=True)
class Discovery:
    """What a file or folder holds."""

    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class RestoredVolume:
    """Decoded values of one volume, whole or a region of interest, or a whole side array.

    ``array`` has the stored dtype and covers ``start[i] : start[i] + array.shape[i]`` of an array
    of ``full_shape``. It may be lazy: ``array[slices]`` then decodes what the slices touch, so a
    writer that goes through the slowest axis in slabs needs the memory of a slab.
    """

    name: str
    array: Array | LazyArray
    start: tuple[int, ...]
    full_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = self.array.shape
        fits = len(self.start) == len(self.full_shape) == len(sizes) and all(
            s >= 0 and (n > 0 or f == 0) and s + n <= f
            for s, n, f in zip(self.start, sizes, self.full_shape, strict=True)
        )
        if not fits:
            raise SourceError(
                f"volume {self.name!r}: region start {self.start!r} shape {sizes!r} does not fit "
                f"into {self.full_shape!r}",
                kind="bad-region",
            )

    @property
    def values(self) -> Array:
        """The region in memory, as a whole."""
        return np.asarray(self.array[tuple(slice(0, size) for size in self.array.shape)])

    @property
    def is_whole(self) -> bool:
        """Whether the region is the full volume."""
        return self.array.shape == self.full_shape


@dataclass(frozen=True)
class RestoreInfo:
    """How values came to be; ``ratio``: source over archive bytes, ``max_error``: their bound.

    ``generated`` says in words that they have detail which was drawn and not measured.
    """

    lossless: bool
    ratio: float | None
    method: str
    level: int | str | None
    max_error: float | None = None
    generated: str | None = None


class Adapter(Protocol):
    """One source format. ``discover`` sees only files that ``sniff`` accepted."""

    @property
    def kind(self) -> str:
        """The format's word, for example ``"dicom"``."""
        ...

    def sniff(self, path: Path) -> bool:
        """Tell from name and first bytes whether the file claims to be of this format."""
        ...

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Sort accepted files into items; never raises for a bad file, lists it as skipped."""
        ...

    def open(self, candidate: Candidate) -> SourceItem:
        """Read headers and check the source; voxels are read later."""
        ...

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write the source format; see ``adapters.restore_source``."""
        ...

    def content_sha256(self, path: Path) -> str:
        """Give a digest of all that a file holds, whatever its encoding: values and metadata."""
        ...


def selection_bounds(key: tuple[object, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Turn one slice per axis into checked (start, stop) pairs.

    Raises
    ------
    IndexError : another number of slices than axes, or something that is not a slice of step 1.
    """
    if len(key) != len(shape):
        raise IndexError(f"expected a tuple of {len(shape)} slices, found {key!r}")
    bounds = []
    for part, size in zip(key, shape, strict=True):
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise IndexError(f"expected slices of step 1, found {part!r}")
        start, stop, _ = part.indices(size)
        bounds.append((start, max(start, stop)))
    return bounds


def spacing_of(affine: Array) -> tuple[float, float, float]:
    """Give the (z, y, x) voxel distances in mm: the lengths of the affine's columns."""
    z, y, x = np.linalg.norm(affine[:3, :3], axis=0)
    return float(z), float(y), float(x)
