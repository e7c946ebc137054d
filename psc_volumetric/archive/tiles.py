"""What is known of each tile and brick: a packed table per variable (SPEC 11.3).

    tiles/<variable>/c/<n>   one Zstandard frame: length of the JSON (u32), the JSON, byte planes

The planes are those of the table (column, tiles...) as float64, of as many rows of tiles as piece n
has; pieces follow one another along the first axis of the tile grid. The JSON says ``levels``, how
many quality levels there are, and the columns follow from that and from ``bases``:

    bytes <level>        bytes the level adds for this tile
    mse <level>          mean squared error, stored units, to 16 significant bits
    max_error <level>    largest error, stored units
    brick <level>        bytes of the brick up to the level
    within <n> <level>   share of the brick's voxels within n sigma; NaN where none was measured
    method               see ``codes`` in the JSON
    digest               first three bytes, big-endian, of the SHA-256 of the decoded stored values
    compared <base>      bytes of the brick with this base method at equal error

The codes are given per variable: base method with its layers and their coders, for example
``none+lossless:context``. What belongs to a brick stands at its first tile. A brick that was
recorded as one unit (a constant one) has its record there, too. Everything else is NaN. Levels a
brick does not have repeat its last one and add no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.documents import TableHead, decode
from psc_volumetric.archive.journal import BrickRecord
from psc_volumetric.archive.layout import VariableSpec, encode_json
from psc_volumetric.bitstream.constants import LAYERS, MAX_LEVELS
from psc_volumetric.bitstream.frames import frame_size, pack_frame, unpack_frame
from psc_volumetric.errors import FormatError, LimitExceededError

__all__ = [
    "TileTable",
    "at_first_tiles",
    "brick_tiles",
    "read_codes",
    "read_tile_table",
    "short_digest",
    "tiles_prefix",
    "write_tile_table",
]

TILES_PER_PIECE = 1 << 15
MOST_IN_PIECE = 512 << 20  # decoded bytes that a reader believes whatever is stored
RATIO = 256  # decoded bytes per stored byte beyond that
LEVEL = 19
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


def tiles_prefix(spec: VariableSpec) -> str:
    """What the keys of the table of a variable begin with; the number of the piece follows."""
    return f"tiles/{spec.node}/c/"


def write_tile_table(
    spec: VariableSpec,
    record: Callable[[tuple[int, ...]], BrickRecord],
    put: Callable[[str, bytes], None],
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
    put : callable
        ``put(key, bytes)``, once for every band.
    levels : int
        Largest number of levels of any brick.
    methods : collection of str
        Methods of the bricks, as their records name them.
    bases : collection of str
        Base methods whose bytes were compared in some brick.
    """
    columns = _columns(levels, sorted(bases))
    codes = {method: code for code, method in enumerate(sorted(methods))}
    head = encode_json({"bases": sorted(bases), "codes": codes, "levels": levels})
    per_brick, grid = _tiles_per_brick(spec), spec.tile_grid_shape
    row = len(columns) * math.prod(grid[1:]) * per_brick[0]
    bricks = min(spec.grid_shape[0], max(1, len(PER_LEVEL) * TILES_PER_PIECE // row))
    for number, positions in groupby(spec.positions(), key=lambda at: at[0] // bricks):
        start, stop = (n * bricks * per_brick[0] for n in (number, number + 1))
        band = np.full((len(columns), min(stop, grid[0]) - start, *grid[1:]), np.nan)
        rows = dict(zip(columns, band, strict=True))
        for position in positions:
            _enter(rows, record(position), position, start, spec, levels, codes)
        planes = band.astype("<f8").view(np.uint8).reshape(-1, 8).T
        packed = len(head).to_bytes(4, "little") + head + planes.tobytes()
        put(f"{tiles_prefix(spec)}{number}", pack_frame(packed, LEVEL))


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


def read_tile_table(pieces: Iterable[tuple[str, bytes]], spec: VariableSpec) -> TileTable:
    """The table of a variable from its pieces.

    Parameters
    ----------
    pieces : iterable of (str, bytes)
        Archive and key, for messages, and what is stored there; in their order, at least one.
    spec : VariableSpec

    Raises
    ------
    FormatError : they are not the table of this variable.
    """
    bands, heads, where = [], [], ""
    for where, data in pieces:
        head, planes = _opened(data, where)
        columns = _columns(head.levels, head.bases)
        row = 8 * len(columns) * math.prod(spec.tile_grid_shape[1:])
        if not planes or len(planes) % row:
            raise _unusable(where, f"{len(planes)} bytes, no whole rows of {row}")
        table = np.frombuffer(planes, np.uint8).reshape(8, -1).T.copy().view("<f8")
        bands.append(table.reshape(len(columns), -1, *spec.tile_grid_shape[1:]))
        heads.append(head)
    head = heads[0]
    if any(other != head for other in heads):
        raise _unusable(where, "a piece with other columns")
    array = np.concatenate(bands, axis=1)
    if array.shape[1:] != spec.tile_grid_shape:
        raise _unusable(where, f"{array.shape[1:]!r} tiles instead of {spec.tile_grid_shape!r}")
    levels = head.levels
    by_level = array[: len(PER_LEVEL) * levels].reshape(len(PER_LEVEL), levels, *array.shape[1:])
    rest = array[len(PER_LEVEL) * levels :]
    found = dict(zip(PER_LEVEL, by_level, strict=True))
    firsts = at_first_tiles(found["brick"], spec)
    if not ((firsts >= 0) & (firsts < MOST_BYTES)).all():
        raise _unusable(where, "bricks without bytes")
    return TileTable(
        found["bytes"], found["mse"], found["max_error"], rest[0], rest[1], found["brick"],
        by_level[-len(SIGMAS) :], dict(zip(head.bases, rest[2:], strict=True)), head.codes,
    )  # fmt: skip


def read_codes(data: bytes, where: str) -> Mapping[str, int]:
    """Method -> the number that stands for it, from the first piece; `read_tile_table` checks."""
    return _opened(data, where)[0].codes


def _opened(data: bytes, where: str) -> tuple[TableHead, bytes]:
    """The JSON and the planes of a piece."""
    promised = frame_size(data) or 0
    if promised > max(MOST_IN_PIECE, RATIO * len(data)):
        raise LimitExceededError(
            f"{where}: {promised} bytes, where {len(data)} are stored",
            kind="limit",
            hint="the archive is damaged or was made to do harm",
        )
    content = unpack_frame(data, promised, where)
    end = 4 + int.from_bytes(content[:4], "little")
    if not 4 < end <= len(content):
        raise _unusable(where, "a document that is cut")
    head = decode(content[4:end], TableHead, where=where)
    if head.levels > MAX_LEVELS + len(LAYERS):
        raise _unusable(where, f"{head.levels} levels")
    return head, content[end:]


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
