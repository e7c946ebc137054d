"""What decoding a ``psc`` brick reads: the words of its tiles, and the prior behind them."""

from __future__ import annotations

import numpy as np

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.methods.psc.fields import WORD, PscFields
from psc_volumetric.prior import Prior, PriorSource

__all__ = ["matching_prior", "read_tiles"]


def matching_prior(source: PriorSource | None, fields: PscFields, what: str) -> Prior:
    """The prior that a brick names.

    Raises
    ------
    PriorMismatchError
        It is not offered, or another one is.
    FormatError
        Tiles or noise levels of the brick are not the prior's.
    """
    digest = fields.prior_digest.hex()
    if source is None:
        raise PriorMismatchError(
            f"{what}: needs the prior {digest}, none was offered",
            kind="prior-missing",
            hint="open the stream through its archive, which embeds the prior",
        )
    prior = source(digest)
    if not prior.digest.startswith(digest):
        raise PriorMismatchError(
            f"{what}: needs the prior {digest}, was offered {prior.digest}", kind="prior-mismatch"
        )
    levels = fields.parameters.noise_levels
    if prior.tile_shape != fields.tile or max(levels) >= prior.levels:
        raise FormatError(
            f"{what}: tile {fields.tile} or noise level {max(levels)} does not fit the prior "
            f"({prior.tile_shape}, {prior.levels} levels)",
            kind="bad-parameter",
        )
    return prior


def read_tiles(
    read: ReadRange,
    index: BrickIndex,
    fields: PscFields,
    tiles: tuple[int, ...],
    level: int,
    what: str,
) -> dict[int, bytes]:
    """Words of the tiles up to ``level``; whole sections when all tiles are wanted."""
    pieces: dict[int, list[bytes]] = {n: [] for n in tiles}
    if not tiles:
        return {}
    whole = len(tiles) == len(index.grid)
    for k in range(1, level + 1):
        section, row = index.section(f"level{k}"), fields.words[k - 1]
        starts = np.cumsum([0, *row]) * WORD
        if whole:
            first, data = 0, read_section(read, section, what=what)
        else:
            first, stop = int(starts[tiles[0]]), int(starts[tiles[-1] + 1])
            data = read(section.offset + first, stop - first) if stop > first else b""
            if len(data) != stop - first:
                raise FormatError(
                    f"{what}: section {section.name!r}: expected {stop - first} bytes at offset "
                    f"{section.offset + first}, found {len(data)}",
                    kind="truncated",
                    hint="the chunk is cut, run `psc-archive verify`",
                )
        for n in tiles:
            pieces[n].append(data[int(starts[n]) - first : int(starts[n + 1]) - first])
    return {n: b"".join(parts) for n, parts in pieces.items()}
