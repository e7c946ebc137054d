"""Plain arrays on each variable's tile grid: bytes, errors, digests. Part of the format (SPEC 11).

    tiles/<variable>/bytes       (tiles..., level)  uint32   bytes each level adds for this tile
    tiles/<variable>/mse         (tiles..., level)  float64  mean squared error, stored units
    tiles/<variable>/max_error   (tiles..., level)  float64  largest error, stored units
    tiles/<variable>/method      (tiles...)         uint16   see its attribute ``codes``
    tiles/<variable>/sha256      (tiles..., 32)     uint8    digest of the decoded stored values
    tiles/<variable>/brick_bytes (bricks..., level) uint64   bytes of the brick up to each level
    tiles/<variable>/coverage    (bricks..., level, 3) float32  share within 1, 2 and 3 sigma
    tiles/<variable>/compared    (bricks..., method) uint64  bytes of base methods at equal error, 0
                                                    for one not coded; its attribute ``methods``

The codes are given per variable: base method with its layers and their coders, for example
``none+lossless:context``. A brick that was recorded as one unit (a constant one) has its record at
its first tile, the digest of its other tiles is zero. Levels a brick does not have repeat its last
one (and add no bytes), but for ``coverage``: NaN where no sigma was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from psc_volumetric.archive.journal import BrickRecord
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.stage import Stage
from psc_volumetric.bitstream.constants import LAYERS, MAX_LEVELS
from psc_volumetric.errors import FormatError

__all__ = ["TILE_ARRAYS", "TileTable", "write_tile_table"]

BRICK_ARRAYS = ("brick_bytes", "coverage", "compared")
TILE_ARRAYS = ("bytes", "mse", "max_error", "method", "sha256", *BRICK_ARRAYS)
TILES_PER_CHUNK = 1 << 15
# What a plain reader sees of a lost chunk: never a record.
NO_RECORD = {"f4": np.nan, "f8": np.nan, "u2": 0xFFFF, "u4": 0xFFFFFFFF, "u8": 0xFFFFFFFFFFFFFFFF}

Region = tuple[slice, ...]


@dataclass(frozen=True)
class TileTable:
    """The arrays of ``tiles/<variable>/`` in memory; first axes are the tile grid.

    ``codes`` gives the number that stands for a method in ``method``, ``bases`` the columns of
    ``compared``.
    """

    bytes: NDArray[np.uint32]
    mse: NDArray[np.float64]
    max_error: NDArray[np.float64]
    method: NDArray[np.uint16]
    sha256: NDArray[np.uint8]
    brick_bytes: NDArray[np.uint64]
    coverage: NDArray[np.float32]
    compared: NDArray[np.uint64]
    codes: Mapping[str, int]
    bases: tuple[str, ...] = ()

    @property
    def levels(self) -> int:
        """Largest number of levels any brick has."""
        return int(self.brick_bytes.shape[-1])


def _tiles_per_brick(spec: VariableSpec) -> tuple[int, ...]:
    return tuple(b // t for b, t in zip(spec.chunk_shape, spec.tile_chunk, strict=True))


def write_tile_table(
    spec: VariableSpec,
    record: Callable[[tuple[int, ...]], BrickRecord],
    stage: Stage,
    *,
    levels: int,
    methods: Collection[str],
    bases: Collection[str],
) -> None:
    """Write ``tiles/<variable>/`` from the records of its bricks, one band of bricks at a time.

    Parameters
    ----------
    spec : VariableSpec
    record : callable
        Chunk grid index -> the brick's record.
    stage : Stage
        Flushed after every band.
    levels : int
        Largest number of levels of any brick.
    methods : collection of str
        Methods of the bricks, as their records name them.
    bases : collection of str
        Base methods whose bytes were compared in some brick.
    """
    columns = tuple(sorted(bases))
    codes = {method: code for code, method in enumerate(sorted(methods))}
    per_brick = _tiles_per_brick(spec)
    row = math.prod(spec.tile_grid_shape[1:]) * per_brick[0]
    bricks = min(spec.grid_shape[0], max(1, TILES_PER_CHUNK // row))
    arrays = _create(spec, stage, levels, bricks, codes, columns)
    bands = groupby(spec.positions(), key=lambda position: position[0] // bricks)
    for number, positions in bands:
        first, last = number * bricks, min((number + 1) * bricks, spec.grid_shape[0])
        tiles = slice(first * per_brick[0], min(last * per_brick[0], spec.tile_grid_shape[0]))
        shape = (tiles.stop - tiles.start, *spec.tile_grid_shape[1:])
        band = _blank(shape, (last - first, *spec.grid_shape[1:]), levels, codes, columns)
        for position in positions:
            _place(band, record(position), position, first, spec, levels)
        for name, array in arrays.items():
            rows = slice(first, last) if name in BRICK_ARRAYS else tiles
            array[rows] = getattr(band, name)
        stage.flush()


def read_codes(attributes: Mapping[str, Any], path: str) -> dict[str, int]:
    """The table of methods from the attributes of ``method`` (FormatError if it is none)."""
    codes = attributes.get("codes")
    if not isinstance(codes, dict) or not all(type(code) is int for code in codes.values()):
        raise FormatError(
            f"{path}/method: expected an attribute codes (method -> number), found {codes!r}",
            kind="bad-metadata",
            hint="the archive is damaged or of another format, run `psc-archive verify`",
        )
    return codes


def read_bases(attributes: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Base methods behind the columns of ``compared`` (FormatError if there are none)."""
    names = attributes.get("methods")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{path}/compared: expected an attribute methods (list of names), found {names!r}",
            kind="bad-metadata",
            hint="the archive is damaged or of another format, run `psc-archive verify`",
        )
    return tuple(names)


def check_shapes(
    arrays: Mapping[str, NDArray[Any]], spec: VariableSpec, bases: tuple[str, ...], where: str
) -> None:
    """Refuse arrays that are not the table of this variable (FormatError)."""
    levels = arrays["brick_bytes"].shape[-1] if arrays["brick_bytes"].ndim else 0
    if not 1 <= levels <= MAX_LEVELS + len(LAYERS):
        raise FormatError(f"{where}: {levels} levels", kind="bad-metadata")
    for name, (end, _, dtype) in _ends(levels, len(bases)).items():
        grid = spec.grid_shape if name in BRICK_ARRAYS else spec.tile_grid_shape
        found = arrays[name]
        if found.shape != (*grid, *end) or found.dtype != np.dtype(dtype):
            raise FormatError(
                f"{where}/{name}: expected {dtype} {(*grid, *end)!r}, found {found.dtype.str[1:]} "
                f"{found.shape!r}",
                kind="bad-metadata",
                hint="the archive is damaged or of another format, run `psc-archive verify`",
            )


def _ends(levels: int, bases: int) -> dict[str, tuple[tuple[int, ...], list[str], str]]:
    """Per array: last axes, their names, and dtype."""
    return {
        "bytes": ((levels,), ["level"], "u4"),
        "mse": ((levels,), ["level"], "f8"),
        "max_error": ((levels,), ["level"], "f8"),
        "method": ((), [], "u2"),
        "sha256": ((32,), ["byte"], "u1"),
        "brick_bytes": ((levels,), ["level"], "u8"),
        "coverage": ((levels, 3), ["level", "sigmas"], "f4"),
        "compared": ((bases,), ["method"], "u8"),
    }


def _create(
    spec: VariableSpec,
    stage: Stage,
    levels: int,
    bricks: int,
    codes: Mapping[str, int],
    bases: tuple[str, ...],
) -> dict[str, zarr.Array[Any]]:
    dims = [f"tile_{name}" for name in spec.dims]
    told: dict[str, dict[str, Any]] = {
        "method": {"codes": dict(codes)},
        "compared": {"methods": list(bases)},
    }
    stage.group("tiles")
    stage.group(f"tiles/{spec.node}", {"tile_shape": list(spec.tile_chunk)})
    arrays = {}
    for name, (end, end_dims, dtype) in _ends(levels, len(bases)).items():
        of_bricks = name in BRICK_ARRAYS
        grid = spec.grid_shape if of_bricks else spec.tile_grid_shape
        rows = bricks if of_bricks else bricks * _tiles_per_brick(spec)[0]
        names = [f"brick_{dim}" for dim in spec.dims] if of_bricks else dims
        arrays[name] = stage.array(
            f"tiles/{spec.node}/{name}",
            shape=(*grid, *end),
            dtype=np.dtype(dtype),
            dims=[*names, *end_dims],
            chunks=(min(rows, grid[0]), *grid[1:], *(max(n, 1) for n in end)),
            attributes=told.get(name),
            fill_value=NO_RECORD.get(dtype),
        )
    return arrays


def _blank(
    tiles: Sequence[int],
    bricks: Sequence[int],
    levels: int,
    codes: Mapping[str, int],
    bases: tuple[str, ...],
) -> TileTable:
    return TileTable(
        np.zeros((*tiles, levels), np.uint32),
        np.zeros((*tiles, levels), np.float64),
        np.zeros((*tiles, levels), np.float64),
        np.zeros(tuple(tiles), np.uint16),
        np.zeros((*tiles, 32), np.uint8),
        np.zeros((*bricks, levels), np.uint64),
        np.full((*bricks, levels, 3), np.nan, np.float32),
        np.zeros((*bricks, len(bases)), np.uint64),
        codes,
        bases,
    )


def _place(
    band: TileTable,
    record: BrickRecord,
    position: tuple[int, ...],
    first: int,
    spec: VariableSpec,
    levels: int,
) -> None:
    """Enter one brick's record; ``first`` is the band's first brick along axis 0."""
    per_brick = _tiles_per_brick(spec)
    local = (position[0] - first, *position[1:])
    corner = tuple(p * n for p, n in zip(local, per_brick, strict=True))
    band.brick_bytes[local] = _repeat_last(record.level_nbytes, levels)
    for level, shares in enumerate(record.coverage):
        band.coverage[local][level] = shares
    band.compared[local] = [record.compared.get(name, 0) for name in band.bases]
    whole = tuple(slice(c, c + n) for c, n in zip(corner, per_brick, strict=True))
    band.method[whole] = band.codes[record.method]
    for tile in record.tiles:
        inner = (0,) * spec.lead + tile.position[3 - spec.spatial :]
        at = tuple(c + i for c, i in zip(corner, inner, strict=True))
        band.bytes[at][: len(tile.nbytes)] = tile.nbytes
        band.mse[at] = _repeat_last(tile.mse, levels)
        band.max_error[at] = _repeat_last(tile.max_error, levels)
        band.sha256[at] = np.frombuffer(bytes.fromhex(tile.sha256), np.uint8)


def _repeat_last(values: Sequence[float], levels: int) -> list[float]:
    return [*values, *[values[-1]] * (levels - len(values))]


def brick_tiles(
    table: TileTable, spec: VariableSpec, position: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int, int], str]]:
    """Position inside the brick and expected digest of each recorded tile of one brick."""
    per_brick = _tiles_per_brick(spec)
    corner = tuple(p * n for p, n in zip(position, per_brick, strict=True))
    valid = table.sha256[tuple(slice(c, c + n) for c, n in zip(corner, per_brick, strict=True))]
    counts = valid.shape[spec.lead : -1]
    flat = valid.reshape(-1, 32)
    for number, at in enumerate(np.ndindex(*counts)):
        digest = flat[number].tobytes()
        if any(digest):
            z, y, x = (0,) * (3 - len(at)) + at
            yield (z, y, x), digest.hex()
