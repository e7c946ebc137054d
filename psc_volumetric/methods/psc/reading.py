"""What decoding a ``psc`` brick reads: the words of its tiles, and the prior behind them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, joined, read_section
from psc_volumetric.errors import FormatError, PriorMismatchError
from psc_volumetric.methods.psc.fields import WORD, StreamParameters
from psc_volumetric.prior import Prior, PriorSource
from psc_volumetric.prior.bundle import DENOISER

__all__ = ["matching_prior", "read_tiles"]


class Named(Protocol):
    """Header fields that name a prior and what is taken of it."""

    @property
    def prior_digest(self) -> bytes:
        """First 16 bytes of its SHA-256."""
        ...

    @property
    def tile(self) -> tuple[int, int, int]:
        """Voxels of a tile."""
        ...

    @property
    def parameters(self) -> StreamParameters:
        """With the noise levels."""
        ...


def matching_prior(
    source: PriorSource | None, fields: Named, what: str, *, kind: str = DENOISER
) -> Prior:
    """The prior that a brick names.

    Raises
    ------
    PriorMismatchError
        It is not offered, or another one is, or one of another kind.
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
    if prior.kind != kind:
        raise PriorMismatchError(
            f"{what}: needs a {kind}, its prior {prior.name!r} is a {prior.kind}",
            kind="prior-mismatch",
        )
    levels = fields.parameters.noise_levels
    if prior.voxels != fields.tile or max(levels) >= prior.program.levels:
        raise FormatError(
            f"{what}: tile {fields.tile} or noise level {max(levels)} does not fit the prior "
            f"({prior.voxels}, {prior.program.levels} levels)",
            kind="bad-parameter",
        )
    return prior


def read_tiles(
    read: ReadRange,
    index: BrickIndex,
    words: tuple[tuple[int, ...], ...],
    tiles: tuple[int, ...],
    level: int,
    what: str,
) -> dict[int, bytes]:
    """Words of the tiles up to ``level``; whole sections when all tiles are wanted."""
    pieces: dict[int, list[bytes]] = {n: [] for n in tiles}
    if not tiles:
        return {}
    for k in range(1, level + 1):
        section = index.section(f"level{k}")
        ends = [int(n) for n in np.cumsum([0, *words[k - 1]]) * WORD]
        if len(tiles) == len(index.grid):
            data = read_section(read, section, what=what)
            for n in tiles:
                pieces[n].append(data[ends[n] : ends[n + 1]])
            continue
        wanted = {n: (section.offset + ends[n], ends[n + 1] - ends[n]) for n in tiles}
        runs = [
            (offset, _whole(read, offset, nbytes, section.name, what))
            for offset, nbytes in joined(wanted.values())
        ]
        for n, (offset, nbytes) in wanted.items():
            first, data = next((r for r in reversed(runs) if r[0] <= offset), (offset, b""))
            pieces[n].append(data[offset - first : offset - first + nbytes])
    return {n: b"".join(parts) for n, parts in pieces.items()}


def _whole(read: ReadRange, offset: int, nbytes: int, name: str, what: str) -> bytes:
    """All bytes of a range, or FormatError."""
    data = read(offset, nbytes)
    if len(data) != nbytes:
        raise FormatError(
            f"{what}: section {name!r}: expected {nbytes} bytes at offset {offset}, found "
            f"{len(data)}",
            kind="truncated",
            hint="the chunk is cut, run `psc-archive verify`",
        )
    return data
