"""Reading what is left of a damaged archive: the rest as it is, lost voxels filled and marked.

A brick that decodes is taken whole. Of one that does not, every tile is tried by itself. Nothing
here guesses: what could not be read holds one stated value, and the mask says where.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.damage import Finding, Surveyor
from psc_volumetric.archive.layout import VariableSpec, chunk_key
from psc_volumetric.archive.levels import Level, level_number
from psc_volumetric.archive.plain import PlainArray
from psc_volumetric.archive.reader import ArchiveReader, Selection
from psc_volumetric.errors import (
    FormatError,
    ParameterError,
    PriorMismatchError,
    UnsupportedVersionError,
)
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["FilledArray", "Salvage", "fill_of"]

Position = tuple[int, ...]
Number = int | float


def fill_of(spec: VariableSpec, wanted: Number | None = None) -> Number:
    """The value that lost voxels of a variable get, in stored units.

    Parameters
    ----------
    spec : VariableSpec
    wanted : number, optional
        None is the variable's ``_FillValue`` or ``missing_value``; without one NaN for floats, 0
        for integers.

    Raises
    ------
    ParameterError : the type cannot hold it (kind ``"bad-fill"``).
    """
    if wanted is not None:
        if not _fits(spec, wanted):
            raise ParameterError(
                f"{spec.name}: values of type {spec.dtype.name} cannot be {wanted!r}",
                kind="bad-fill",
                hint="choose a stored value that the type can hold",
            )
        return int(wanted) if spec.dtype.kind in "iu" else float(wanted)
    for name in ("_FillValue", "missing_value"):
        value = spec.attrs.get(name)
        if isinstance(value, (int, float, np.number)) and _fits(spec, float(value)):
            return int(value) if spec.dtype.kind in "iu" else float(value)
    return float("nan") if spec.dtype.kind == "f" else 0


def _fits(spec: VariableSpec, value: Number) -> bool:
    """Whether the type of a variable can hold a value."""
    if spec.dtype.kind not in "iu":
        return True
    limits = np.iinfo(spec.dtype)
    return bool(limits.min <= value <= limits.max and value == int(value))


class Salvage:
    """Reads regions of an archive, whatever is damaged, and remembers what was lost.

    Parameters
    ----------
    reader : ArchiveReader
    fill : number, optional
        For lost voxels, see `fill_of`.

    Notes
    -----
    What is known of a brick is kept, not its values. Safe to use from several threads.
    """

    def __init__(self, reader: ArchiveReader, fill: Number | None = None) -> None:
        self._reader = reader
        self._fill = fill
        self._surveyor = Surveyor(reader.sealed, reader)
        self._known: dict[tuple[str, Position, Level], list[tuple[Box, Finding]]] = {}
        self._lock = threading.Lock()

    def read(
        self,
        variable: str,
        selection: Selection | None = None,
        *,
        level: Level = None,
        spread: bool = False,
    ) -> NDArray[Any]:
        """Stored values of a region, lost ones filled; parameters as `ArchiveReader.read`.

        With ``spread`` one sigma per voxel; NaN where it is lost.
        """
        spec, shape, bricks = self._bricks(variable, selection)
        values = np.empty(shape, np.float32 if spread else spec.dtype)
        for position, inside, target in bricks:
            part = self._read_brick(spec, position, inside, level, spread=spread)
            values[target] = part.reshape(values[target].shape)
        return values

    def mask(
        self, variable: str, selection: Selection | None = None, *, level: Level = None
    ) -> NDArray[np.bool_]:
        """Which voxels of a region are lost; parameters as `ArchiveReader.read`.

        Bricks are compared with the manifest, and decoded only where they differ. A tile that is
        lost in part is lost.
        """
        _, shape, bricks = self._bricks(variable, selection)
        lost = np.zeros(shape, np.bool_)
        for position, inside, target in bricks:
            part = np.zeros([s.stop - s.start for s in inside], np.bool_)
            for box in self.lost(variable, position, level):
                part[_within(box, inside)] = True
            lost[target] = part.reshape(lost[target].shape)
        return lost

    def lost_in(self, variable: str, selection: Selection, level: Level = None) -> list[Finding]:
        """What is lost of a region."""
        _, _, bricks = self._bricks(variable, selection)
        found = []
        for position, inside, _ in bricks:
            self.lost(variable, position, level)
            with self._lock:
                known = self._known[variable, position, level]
            found += [finding for box, finding in known if _meet(box, inside)]
        return found

    def lost(self, variable: str, position: Position, level: Level = None) -> list[Box]:
        """Boxes of a brick, in (z, y, x) of its valid part, that cannot be read at a level."""
        key = (variable, position, level)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = list(self._survey(variable, position, level))
            with self._lock:
                self._known[key] = known
        return [box for box, _ in known]

    def _survey(
        self, variable: str, position: Position, level: Level
    ) -> Iterator[tuple[Box, Finding]]:
        spec, key = self._reader.spec(variable), chunk_key(variable, position)
        valid = spec.valid(position)
        whole = (slice(0, valid[0]), slice(0, valid[1]), slice(0, valid[2]))
        try:
            self._reader.sealed.compare(key)
            return
        except FormatError as error:
            found = error
        try:
            number = level_number(self._reader.brick_index(variable, position), level)
        except (FormatError, PriorMismatchError) as error:
            _refuse_no_damage(error)
            yield whole, self._surveyor.at(key, error, spec, position, None, 0)
            return
        if self._decodes(variable, position, whole, level):
            return  # what is damaged is not needed at this level
        grid = TileGrid(valid, spec.tile_shape)
        for box in map(grid.box, range(len(grid))):
            if not self._decodes(variable, position, box, level):
                yield box, self._surveyor.at(key, found, spec, position, box, number)

    def _decodes(self, variable: str, position: Position, box: Box, level: Level) -> bool:
        try:
            self._reader.read_brick(variable, position, box, level=level)
        except (FormatError, PriorMismatchError) as error:
            _refuse_no_damage(error)
            return False
        return True

    def _read_brick(
        self, spec: VariableSpec, position: Position, inside: Box, level: Level, *, spread: bool
    ) -> NDArray[Any]:
        def read(box: Box) -> NDArray[Any]:
            found = self._reader.read_brick(spec.name, position, box, level=level, spread=spread)
            return found.spread if spread and found.spread is not None else found.values

        with self._lock:
            is_damaged = bool(self._known.get((spec.name, position, level)))
        if not is_damaged:
            try:
                return read(inside)
            except (FormatError, PriorMismatchError) as error:
                _refuse_no_damage(error)
        lost, valid = self.lost(spec.name, position, level), spec.valid(position)
        fill = np.nan if spread else fill_of(spec, self._fill)
        values = np.full(_extent(inside), fill, np.float32 if spread else spec.dtype)
        if any(_extent(box) == valid for box in lost):
            return values
        grid = TileGrid(valid, spec.tile_shape)
        for box in map(grid.box, grid.covering(inside)):
            if box not in lost:
                z, y, x = (
                    slice(max(b.start, i.start), min(b.stop, i.stop))
                    for b, i in zip(box, inside, strict=True)
                )
                values[_within(box, inside)] = read((z, y, x))
        return values

    def _bricks(
        self, variable: str, selection: Selection | None
    ) -> tuple[VariableSpec, tuple[int, ...], Iterator[tuple[Position, Box, Selection]]]:
        """The variable, the shape of a region, and the part of each brick that is in it."""
        spec = self._reader.spec(variable)
        box = selection or tuple(slice(0, size) for size in spec.shape)
        inside = len(box) == spec.ndim and all(
            0 <= part.start <= part.stop <= size for part, size in zip(box, spec.shape, strict=True)
        )
        if not inside:
            raise ParameterError(
                f"{spec.name}: region {box!r} is not inside {spec.shape!r}", kind="roi-outside"
            )
        return spec, tuple(s.stop - s.start for s in box), _parts(spec, box)


def _parts(spec: VariableSpec, box: Selection) -> Iterator[tuple[Position, Box, Selection]]:
    """Bricks that a region touches: position, (z, y, x) box inside, place in the region."""
    if any(part.start == part.stop for part in box):
        return
    ranges = [
        range(part.start // size, (part.stop - 1) // size + 1)
        for part, size in zip(box, spec.chunk_shape, strict=True)
    ]
    for position in product(*ranges):
        both = [
            slice(max(brick.start, part.start), min(brick.stop, part.stop))
            for brick, part in zip(spec.box(position), box, strict=True)
        ]
        corner = [brick.start for brick in spec.box(position)]
        inner = [slice(s.start - c, s.stop - c) for s, c in zip(both, corner, strict=True)]
        z, y, x = [slice(0, 1)] * (3 - spec.spatial) + inner[spec.lead :]
        target = [
            slice(s.start - p.start, s.stop - p.start) for s, p in zip(both, box, strict=True)
        ]
        yield position, (z, y, x), tuple(target)


class FilledArray:
    """A plain array; where it cannot be read, NaN for floats, else 0 or no text."""

    def __init__(self, plain: PlainArray) -> None:
        self._plain = plain
        self.name = plain.name
        self.shape = plain.shape
        self.dtype = plain.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        """A part, or what stands for it."""
        try:
            return self._plain[key]
        except UnsupportedVersionError:
            raise
        except FormatError:
            spans = zip(key, self.shape, strict=True)
            shape = tuple(len(range(*part.indices(size))) for part, size in spans)
            fill: Any = {"f": np.nan, "c": np.nan, "O": "", "S": b""}.get(self.dtype.kind, 0)
            return np.full(shape, fill, self.dtype)


def _refuse_no_damage(error: FormatError | PriorMismatchError) -> None:
    """A prior or release that is not here is no damage; a brick of another prior is."""
    is_lacking = isinstance(error, PriorMismatchError) and error.kind != "prior-mismatch"
    if is_lacking or isinstance(error, UnsupportedVersionError):
        raise error


def _extent(box: Box) -> tuple[int, int, int]:
    z, y, x = (s.stop - s.start for s in box)
    return z, y, x


def _meet(a: Box, b: Box) -> bool:
    return all(s.start < t.stop and t.start < s.stop for s, t in zip(a, b, strict=True))


def _within(box: Box, frame: Box) -> Box:
    """The part of a frame that lies in a box, counted from the frame."""
    z, y, x = (
        slice(max(b.start, f.start) - f.start, max(f.start, min(b.stop, f.stop)) - f.start)
        for b, f in zip(box, frame, strict=True)
    )
    return z, y, x
