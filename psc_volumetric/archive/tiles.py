"""What is known of each tile and brick: one plain array per variable (SPEC 11.3).

    tiles/<variable>   (column, tiles...)  float64

The attribute ``columns`` names the columns, ``levels`` counts quality levels:

    bytes <level>        bytes the level adds for this tile
    mse <level>          mean squared error, stored units, to 16 significant bits
    max_error <level>    largest error, stored units
    method               see the attribute ``codes``
    digest               first three bytes, big-endian, of the SHA-256 of the decoded stored values
    brick <level>        bytes of the brick up to the level
    within <n> <level>   share of the brick's voxels within n sigma; NaN where none was measured
    compared <base>      bytes of the brick with this base method at equal error

The codes are given per variable: base method with its layers and their coders, for example
``none+lossless:context``. What belongs to a brick stands at its first tile. A brick that was
recorded as one unit (a constant one) has its record there, too. Everything else is NaN. Levels a
brick does not have repeat its last one and add no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.journal import BrickRecord
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.stage import Stage
from psc_volumetric.bitstream.constants import LAYERS, MAX_LEVELS
from psc_volumetric.errors import FormatError

__all__ = [
    "TileTable",
    "at_first_tiles",
    "brick_tiles",
    "read_tile_table",
    "short_digest",
    "write_tile_table",
]

TILES_PER_CHUNK = 1 << 15
SIGMAS = (1, 2, 3)
MSE_BITS = 16
MOST_BYTES = 2.0**53
DIGEST_BYTES = 3
PER_LEVEL = ("bytes", "mse", "max_error", "brick", *(f"within {n}" for n in SIGMAS))

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class TileTable:
    """The table of a variable in memory; the last axes are the tile grid.

    Attributes
    ----------
    bytes, mse, max_error : (level, tiles...) float64
    method, digest : (tiles...) float64
        NaN where a tile has no record of its own.
    brick_bytes : (level, tiles...) float64
        At the first tile of each brick, else NaN.
    within : (sigmas, level, tiles...) float64
        Likewise: share of voxels within 1, 2 and 3 sigma, NaN where not measured.
    compared : mapping
        Base method -> (tiles...) float64, likewise: bytes at equal error.
    codes : mapping
        Method -> the number that stands for it.
    """

    bytes: Doubles
    mse: Doubles
    max_error: Doubles
    method: Doubles
    digest: Doubles
    brick_bytes: Doubles
    within: Doubles
    compared: Mapping[str, Doubles]
    codes: Mapping[str, int]

    @property
    def levels(self) -> int:
        """Largest number of levels any brick has."""
        return len(self.bytes)


def _columns(levels: int, bases: Sequence[str]) -> list[str]:
    """Names of the columns, in order."""
    by_level = [f"{name} {level}" for name in PER_LEVEL for level in range(levels)]
    return [*by_level, "method", "digest", *(f"compared {base}" for base in bases)]


def _tiles_per_brick(spec: VariableSpec) -> tuple[int, ...]:
    return tuple(b // t for b, t in zip(spec.chunk_shape, spec.tile_chunk, strict=True))


def at_first_tiles(values: Doubles, spec: VariableSpec) -> Doubles:
    """Of values (..., tiles...), those at the first tile of every brick."""
    steps: Any = (..., *(slice(None, None, step) for step in _tiles_per_brick(spec)))
    first: Doubles = values[steps]
    return first


def write_tile_table(
    spec: VariableSpec,
    record: Callable[[tuple[int, ...]], BrickRecord],
    stage: Stage,
    *,
    levels: int,
    methods: Collection[str],
    bases: Collection[str],
) -> None:
    """Write ``tiles/<variable>`` from the records of its bricks, one band of bricks at a time.

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
    columns = _columns(levels, sorted(bases))
    codes = {method: code for code, method in enumerate(sorted(methods))}
    per_brick, grid = _tiles_per_brick(spec), spec.tile_grid_shape
    row = len(columns) * math.prod(grid[1:]) * per_brick[0]
    bricks = min(spec.grid_shape[0], max(1, len(PER_LEVEL) * TILES_PER_CHUNK // row))
    stage.group("tiles")
    array = stage.array(
        f"tiles/{spec.node}",
        shape=(len(columns), *grid),
        dtype=np.dtype(np.float64),
        dims=["column", *(f"tile_{dim}" for dim in spec.dims)],
        chunks=(len(columns), min(bricks * per_brick[0], grid[0]), *grid[1:]),
        attributes={"columns": columns, "levels": levels, "codes": codes},
        fill_value=np.nan,
    )
    for number, positions in groupby(spec.positions(), key=lambda at: at[0] // bricks):
        start, stop = (n * bricks * per_brick[0] for n in (number, number + 1))
        tiles = slice(start, min(stop, grid[0]))
        band = np.full((len(columns), tiles.stop - start, *grid[1:]), np.nan)
        rows = dict(zip(columns, band, strict=True))
        for position in positions:
            _enter(rows, record(position), position, start, spec, levels, codes)
        array[:, tiles] = band
        stage.flush()


def _enter(
    rows: Mapping[str, Doubles],
    record: BrickRecord,
    position: tuple[int, ...],
    first_row: int,
    spec: VariableSpec,
    levels: int,
    codes: Mapping[str, int],
) -> None:
    """Enter one brick's record; ``first_row`` is the band's first row of tiles."""
    counts = zip(position, _tiles_per_brick(spec), strict=True)
    corner = tuple(p * n for p, n in counts)
    corner = (corner[0] - first_row, *corner[1:])
    for level, nbytes in enumerate(_repeat_last(record.level_nbytes, levels)):
        rows[f"brick {level}"][corner] = nbytes
    for level, shares in enumerate(record.coverage):
        for n, share in zip(SIGMAS, shares, strict=True):
            rows[f"within {n} {level}"][corner] = np.float32(share)
    for base, nbytes in record.compared.items():
        rows[f"compared {base}"][corner] = nbytes
    for tile in record.tiles:
        inner = (0,) * spec.lead + tile.position[3 - spec.spatial :]
        at = tuple(c + i for c, i in zip(corner, inner, strict=True))
        rows["method"][at] = codes[record.method]
        rows["digest"][at] = short_digest(tile.sha256)
        added = [*tile.nbytes, *[0] * (levels - len(tile.nbytes))]
        mse, largest = _repeat_last(tile.mse, levels), _repeat_last(tile.max_error, levels)
        for level in range(levels):
            rows[f"bytes {level}"][at] = added[level]
            rows[f"mse {level}"][at] = _rounded(mse[level])
            rows[f"max_error {level}"][at] = largest[level]


def short_digest(sha256: str) -> int:
    """What the table keeps of the SHA-256 (hex) of a tile's values."""
    return int(sha256[: 2 * DIGEST_BYTES], 16)


def _rounded(value: float) -> float:
    """To as many bits as a mean squared error is worth."""
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, MSE_BITS)), exponent - MSE_BITS)


def _repeat_last(values: Sequence[float], levels: int) -> list[float]:
    return [*values, *[values[-1]] * (levels - len(values))]


def read_tile_table(
    array: NDArray[Any], attributes: Mapping[str, Any], spec: VariableSpec, where: str
) -> TileTable:
    """The table of a variable from its array.

    Parameters
    ----------
    array : (column, tiles...) float64
    attributes : mapping
        Of the array.
    spec : VariableSpec
    where : str
        Archive and path, for messages.

    Raises
    ------
    FormatError : it is not the table of this variable.
    """
    columns, levels, codes = (attributes.get(key) for key in ("columns", "levels", "codes"))
    bases = _bases(columns, levels)
    if bases is None or not isinstance(levels, int) or not isinstance(codes, dict):
        raise _unusable(where, f"columns {str(columns)[:200]}, levels {levels!r}")
    if not all(type(code) is int for code in codes.values()):
        raise _unusable(where, f"codes {str(codes)[:200]}")
    expected = (len(_columns(levels, bases)), *spec.tile_grid_shape)
    if array.shape != expected or array.dtype != np.float64:
        raise _unusable(where, f"{array.dtype} {array.shape!r} instead of float64 {expected!r}")
    by_level = array[: len(PER_LEVEL) * levels].reshape(len(PER_LEVEL), levels, *expected[1:])
    rest = array[len(PER_LEVEL) * levels :]
    found = dict(zip(PER_LEVEL, by_level, strict=True))
    firsts = at_first_tiles(found["brick"], spec)
    if not ((firsts >= 0) & (firsts < MOST_BYTES)).all():
        raise _unusable(where, "bricks without bytes")
    return TileTable(
        found["bytes"], found["mse"], found["max_error"], rest[0], rest[1], found["brick"],
        by_level[-len(SIGMAS) :], dict(zip(bases, rest[2:], strict=True)), codes,
    )  # fmt: skip


def _bases(columns: object, levels: object) -> list[str] | None:
    """Base methods that columns name; None unless they are the columns of a table."""
    if type(levels) is not int or not 1 <= levels <= MAX_LEVELS + len(LAYERS):
        return None
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        return None
    start = len(_columns(levels, []))
    bases = [name.removeprefix("compared ") for name in columns[start:]]
    return bases if columns == _columns(levels, bases) else None


def _unusable(where: str, found: str) -> FormatError:
    return FormatError(
        f"{where}: expected a table of tiles, found {found}",
        kind="bad-metadata",
        hint="the archive is damaged or of another format, run `psc-archive verify`",
    )


def brick_tiles(
    table: TileTable, spec: VariableSpec, position: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Position inside the brick and short digest of each recorded tile of one brick."""
    per_brick = _tiles_per_brick(spec)
    corner = tuple(p * n for p, n in zip(position, per_brick, strict=True))
    own = table.digest[tuple(slice(c, c + n) for c, n in zip(corner, per_brick, strict=True))]
    inner = own.reshape(own.shape[spec.lead :])
    for at in np.argwhere(np.isfinite(inner)).tolist():
        z, y, x = (*(0,) * (3 - len(at)), *at)
        yield (z, y, x), int(inner[tuple(at)])
