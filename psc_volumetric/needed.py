"""What decoding a region of a brick takes: byte ranges to read, and voxels that come with it.

Nothing is decoded or read here. A reader that knows the ranges beforehand asks for them together;
one that keeps what was decoded decodes whole tiles and segments, which cost as much as their parts.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ByteRange
from psc_volumetric.layers.planning import layer_ranges
from psc_volumetric.tiling import Box

__all__ = ["byte_ranges", "whole_units"]

Known = Callable[[int, Box], bool]


def _nothing(level: int, box: Box) -> bool:
    return False


def byte_ranges(
    index: BrickIndex, selection: Box, level: int | None, known: Known = _nothing
) -> list[ByteRange]:
    """Ranges of bytes after the header that :func:`psc_volumetric.codec.decode_brick` reads.

    Parameters
    ----------
    index : BrickIndex
    selection : (slice, slice, slice)
        Half-open box inside the brick's valid part, step 1.
    level : int, optional
        None or past the last = everything.
    known : callable
        Whether a box of a level is decoded already and takes no bytes.

    Returns
    -------
    list of (offset, length)
        In no order; they may overlap.
    """
    if index.method == "constant":
        return []
    wanted = index.levels - 1 if level is None else min(level, index.levels - 1)
    return _of_level(index, selection, wanted, known)


def _of_level(index: BrickIndex, box: Box, level: int, known: Known) -> list[ByteRange]:
    if known(level, box):
        return []
    number = level - index.base_levels
    if number < 0:
        return _of_base(index, box, level)
    return layer_ranges(index, number, box, lambda near: _of_level(index, near, level - 1, known))


def _of_base(index: BrickIndex, box: Box, level: int) -> list[ByteRange]:
    fields, found = index.fields, []
    tiles = index.grid.covering(box)
    listed = () if fields is None else fields.sections()[: level + 1]
    names = {"special", *(name for name, _ in listed)}
    for section in index.sections:
        if section.name not in names:
            continue
        parts = None
        if fields is not None and section.name != "special":
            parts = fields.tile_nbytes(section.name)
        if parts is None:
            found.append((section.offset, section.nbytes))
            continue
        starts = list(accumulate(parts, initial=section.offset))
        found += [(starts[n], parts[n]) for n in tiles]
    return found


def whole_units(index: BrickIndex, selection: Box, level: int | None = None) -> Box:
    """The smallest box of whole tiles or segments around a region: what is decoded anyway.

    A network that sees a brick without tiles is asked for the region alone.

    Parameters and limits as for `byte_ranges`.
    """
    wanted = index.levels - 1 if level is None else min(level, index.levels - 1)
    grid, number = index.grid, wanted - index.base_levels
    if number >= 0 and index.layers[number].is_whole:
        _, grid = index.layers[number].covered(index.valid)
    elif index.fields is not None and index.fields.tile is None and index.prior_digest:
        return selection
    tiles = grid.covering(selection)
    if not tiles:
        return selection
    first, last = grid.box(tiles[0]), grid.box(tiles[-1])
    z, y, x = (slice(a.start, b.stop) for a, b in zip(first, last, strict=True))
    return z, y, x
