"""Which networks of the context coder the streams of a variable name."""

from __future__ import annotations

import math
from collections.abc import Iterator

from psc_volumetric.archive.layout import chunk_key
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.bitstream.sections import ReadRange, read_section
from psc_volumetric.bitstream.wire import FieldReader
from psc_volumetric.coders.exact_places import read_places
from psc_volumetric.coders.slicewise import SLICEWISE, SliceDecoder
from psc_volumetric.layers.grid import INDEX

__all__ = ["networks_named"]

FORESEEING = {name for name, (_, may_foresee) in SLICEWISE.items() if may_foresee}


def networks_named(reader: ArchiveReader, variable: str) -> tuple[int, ...]:
    """Numbers of networks, of the first brick that names any; empty where none may.

    Of each layer of a brick with such a coder one segment is read, the first that is not empty.
    No voxel is decoded. An encoder has one network for all bricks; an archive that an earlier
    release began and a later one went on with may have more than the first brick names.

    Raises
    ------
    FormatError : header, segment or the beginning of a stream is damaged.
    StorageError : the brick cannot be read.
    """
    if not any(_coders(coding) & FORESEEING for coding in reader.codings(variable)):
        return ()
    for position in reader.spec(variable).positions():
        index = reader.brick_index(variable, position)
        key = chunk_key(variable, position)

        def read(start: int, length: int, key: str = key) -> bytes:
            return reader.sealed.read_range(key, start, length)

        found = {number for number in _named(read, index) if number is not None}
        if found:
            return tuple(sorted(found))
    return ()


def _coders(coding: str) -> set[str]:
    """Coders in words such as ``none+bounded:neural+lossless:zstd``."""
    return {part.partition(":")[2] for part in coding.split("+")}


def _named(read: ReadRange, index: BrickIndex) -> Iterator[int | None]:
    """What the streams of one segment of each layer name."""
    for number, layer in enumerate(index.layers):
        filled = [n for n, size in enumerate(layer.sizes) if size]
        if layer.coder not in FORESEEING or not filled:
            continue
        what = f"brick {index.position}: {layer.kind}[{filled[0]}]"
        data = read_section(read, index.segment(number, filled[0]), what=what)
        z, y, x = (s.stop - s.start for s in layer.covered(index.valid)[1].box(filled[0]))
        dtype = index.dtype
        if layer.grid is not None:
            stored = FieldReader(data, what=what)
            read_places(stored, math.prod((z, y, x)), dtype, what=what)
            data, dtype = stored.raw(len(data) - stored.offset), INDEX
        yield from SliceDecoder(data, (z, y, x), dtype, coder=layer.coder, what=what).networks
