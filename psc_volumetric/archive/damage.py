"""Where damage lies: the array, its tiles, the first bad level, voxels, and the place in the world.

What a damaged object costs is found out without decoding: the header of a brick has a checksum of
each of its parts, and says which levels and voxels a part is of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psc_volumetric.archive.access import SealedStore
from psc_volumetric.archive.layout import SIDECARS, VariableSpec, chunk_key
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, Section, read_section
from psc_volumetric.errors import FormatError, PscError
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["Finding", "Region", "Surveyor", "region_of", "tile_at"]

Region = tuple[tuple[int, int], ...]
World = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes
    ----------
    key : str
        The object; ``""`` for the archive as a whole.
    kind : str
        Stable word, as in the errors: ``"missing-key"``, ``"sha256"``, ``"foreign-key"`` ...
    message : str
    variable : str or None
        The array that the object belongs to.
    tile : tuple of int or None
        Index in the tile grid of the whole variable; None where a whole brick is lost.
    roi : tuple of (start, stop) or None
        Voxels of the variable that cannot be trusted.
    level : int or None
        First quality level of these voxels that cannot be trusted; those below it are good.
    world : dict or None
        The same voxels in millimetres (RAS+; ``x``, ``y``, ``z``: a box around them), and in the
        values of coordinates (``time``, ``lat`` ...), as (lowest, highest).
    """

    key: str
    kind: str
    message: str
    variable: str | None = None
    tile: tuple[int, ...] | None = None
    roi: Region | None = None
    level: int | None = None
    world: World | None = None

    @property
    def place(self) -> str:
        """Where it is, for people; empty where nothing is known."""
        parts = [] if self.variable is None else [self.variable]
        if self.tile is not None:
            parts.append(f"tile {','.join(map(str, self.tile))}")
        if self.level is not None:
            parts.append(f"from level {self.level}")
        if self.roi is not None:
            parts.append("voxels " + ",".join(f"{start}:{stop}" for start, stop in self.roi))
        if self.world:
            spans = [f"{name}={low:.6g}:{high:.6g}" for name, (low, high) in self.world.items()]
            parts.append("at " + ",".join(spans))
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


class Surveyor:
    """Says of damaged objects of one archive what they cost; opens it when first asked.

    Parameters
    ----------
    sealed : SealedStore
    reader : ArchiveReader, optional
        Where the archive is open already.
    """

    def __init__(self, sealed: SealedStore, reader: ArchiveReader | None = None) -> None:
        self._sealed = sealed
        self._reader = reader
        self._tried = reader is not None
        self._lines: dict[str, Any] = {}

    @property
    def reader(self) -> ArchiveReader | None:
        """The archive, None where it is too damaged to open."""
        if not self._tried:
            self._tried = True
            try:
                self._reader = ArchiveReader(self._sealed)
            except PscError:
                self._reader = None
        return self._reader

    def findings(self, key: str, error: PscError, *, tiles: bool = True) -> Iterator[Finding]:
        """What is lost with an object: one finding, or (``tiles``) one for each tile of a brick."""
        spec = self._owner(key)
        if spec is None:
            array, middle, _ = key.rpartition("/c/")
            plain = middle and not key.startswith(SIDECARS)
            yield Finding(key, error.kind, str(error), array if plain else None)
            return
        position = _position(spec, key)
        if position is None or not tiles:
            yield Finding(key, error.kind, str(error), spec.name)
            return
        for box, level in self._lost(spec, position):
            yield self.at(key, error, spec, position, box, level)

    def at(
        self,
        key: str,
        error: PscError,
        spec: VariableSpec,
        position: tuple[int, ...],
        box: Box | None,
        level: int,
    ) -> Finding:
        """A finding about part of a brick; ``box`` is in its voxels, None for all of them."""
        roi = region_of(spec, position, box)
        tile = None if box is None else tile_at(spec, position, box)
        world = self.world(spec, roi)
        return Finding(key, error.kind, str(error), spec.name, tile, roi, level, world)

    def world(self, spec: VariableSpec, roi: Region) -> World | None:
        """Where voxels are: millimetres of a box around them, and coordinates along their axes."""
        found: World = {}
        if spec.affine is not None:
            cells = [(start - 0.5, stop - 0.5) for start, stop in roi[-3:]]
            corners = np.array(np.meshgrid(*cells, indexing="ij")).reshape(3, -1)
            affine = np.asarray(spec.affine, np.float64)
            mm = affine[:3, :3] @ corners + affine[:3, 3:]
            low, high = mm.min(axis=1), mm.max(axis=1)
            found = {name: (float(low[n]), float(high[n])) for n, name in enumerate("xyz")}
        for dim, (start, stop) in zip(spec.dims, roi, strict=True):
            values = self._line(spec, dim)
            if values is not None and (spec.affine is None or dim not in spec.dims[-3:]):
                part = values[start:stop]
                found[dim] = (float(part.min()), float(part.max()))
        return found or None

    def _line(self, spec: VariableSpec, dim: str) -> Any:
        """Numbers along an axis, None where there are none or they cannot be read."""
        group = spec.name.rpartition("/")[0]
        names = {*spec.coordinates, *(self.reader.arrays if self.reader else ())}
        name = f"{group}/{dim}" if group else dim
        if self.reader is None or name not in names:
            return None
        if name not in self._lines:
            try:
                self._lines[name] = self.reader.coordinate(name).values
            except PscError:
                self._lines[name] = None
        values = self._lines[name]
        size = spec.shape[spec.dims.index(dim)]
        plain = values is not None and values.dtype.kind in "iuf" and values.shape == (size,)
        return values if plain else None

    def _owner(self, key: str) -> VariableSpec | None:
        """The variable that an object belongs to."""
        beside = key.removeprefix("tiles/").removeprefix("preview/")
        specs = self.reader.variables.values() if self.reader else ()
        owners = [spec for spec in specs if beside.startswith(f"{spec.node}/")]
        return max(owners, key=lambda spec: len(spec.node), default=None)

    def _lost(self, spec: VariableSpec, position: tuple[int, ...]) -> list[tuple[Box | None, int]]:
        """Boxes of a brick that are lost, each with its first bad level."""
        assert self.reader is not None
        key = chunk_key(spec.name, position)
        try:
            index = self.reader.brick_index(spec.name, position)
            parts = list(_bad_parts(index, lambda a, n: self._sealed.read_range(key, a, n)))
        except PscError:
            return [(None, 0)]
        whole = min((level for box, level in parts if box is None), default=None)
        if not parts or whole == 0:
            return [(None, 0)]
        lost: list[tuple[Box | None, int]] = [] if whole is None else [(None, whole)]
        grid = TileGrid(index.valid, spec.tile_shape)
        for tile in map(grid.box, range(len(grid))):
            levels = [level for box, level in parts if box is not None and _meet(box, tile)]
            if levels and (whole is None or min(levels) < whole):
                lost.append((tile, min(levels)))
        every = len(lost) == len(grid) and len({level for _, level in lost}) == 1
        return [(None, lost[0][1])] if every else lost


def _bad_parts(index: BrickIndex, read: ReadRange) -> Iterator[tuple[Box | None, int]]:
    """Voxels (None: all) and level of each part of a brick whose checksum is not its bytes'."""
    first = len(index.sections) - index.base_levels
    for number, section in enumerate(index.sections):
        if not _is_good(read, section):
            yield None, max(0, number - first)
    for number, layer in enumerate(index.layers):
        cover, segments = layer.covered(index.valid)
        for part in range(len(segments)):
            if layer.sizes[part] and not _is_good(read, index.segment(number, part)):
                z, y, x = (
                    slice(c.start + s.start, c.start + s.stop)
                    for c, s in zip(cover, segments.box(part), strict=True)
                )
                yield (z, y, x), index.base_levels + number


def _is_good(read: ReadRange, section: Section) -> bool:
    try:
        read_section(read, section, what="brick")
    except FormatError:
        return False
    return True


def _meet(a: Box, b: Box) -> bool:
    return all(s.start < t.stop and t.start < s.stop for s, t in zip(a, b, strict=True))


def _position(spec: VariableSpec, key: str) -> tuple[int, ...] | None:
    """Chunk grid index of a brick; None for another object of the variable."""
    brick = key.removeprefix(f"{spec.node}/c/")
    if brick == key:
        return None
    try:
        position = tuple(int(part) for part in brick.split("/"))
        spec.check_position(position)
    except ValueError:  # a ParameterError is one
        return None
    return position


def region_of(spec: VariableSpec, position: tuple[int, ...], box: Box | None) -> Region:
    """Voxels of the variable that a (z, y, x) box of a brick is; None is the whole brick."""
    region = []
    for axis, part in enumerate(spec.box(position)):
        inner = axis - spec.lead + 3 - spec.spatial
        if axis < spec.lead or box is None:
            region.append((part.start, part.stop))
        else:
            region.append((part.start + box[inner].start, part.start + box[inner].stop))
    return tuple(region)


def tile_at(spec: VariableSpec, position: tuple[int, ...], box: Box) -> tuple[int, ...]:
    """Index, in the variable's tile grid, of the tile in which a box of a brick begins."""
    region = region_of(spec, position, box)
    return tuple(start // size for (start, _), size in zip(region, spec.tile_chunk, strict=True))
