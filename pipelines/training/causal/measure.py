"""What a network is worth and what it costs: bytes and CPU time of segments with and without it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import adapters
from pipelines.training.causal.sources import ERRORS, Source, opened
from psc_volumetric.bitstream.layer_fields import default_segment
from psc_volumetric.coders.context.coder import decode_integers, encode_integers
from psc_volumetric.coders.context.given import Cells
from psc_volumetric.coders.context.networks import known_networks
from psc_volumetric.coders.context.way import PLAIN, Way
from psc_volumetric.errors import ParameterError
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["HEAD", "Coded", "Wanted", "coded", "measure"]

HEAD = (
    "| volume | values | network | voxels | bytes without | with | change | "
    "us a voxel, write / read, without | with |\n" + "|---" * 9 + "|"
)


@dataclass(frozen=True)
class Wanted:
    """What of each volume is coded, and how.

    Attributes
    ----------
    errors : tuple of int
        0 is lossless. Of floats, which are cut to 14, 12, 10 and 8 bits, 0, 2, 5 and 10.
    crop : (z, y, x) or None
        Extents around the middle; whole slices where there is none.
    middle : int or None
        Slices around the middle; all where there is none.
    networks : tuple of int
        Numbers of networks of the package; empty for all of them.
    """

    errors: tuple[int, ...] = ERRORS
    crop: tuple[int, int, int] | None = None
    middle: int | None = None
    networks: tuple[int, ...] = ()

    def box(self, shape: Sequence[int]) -> Box:
        """Voxels that are coded."""
        z, y, x = shape
        wanted = (self.middle or z, y, x) if self.crop is None else self.crop
        sizes = [min(n, size) for n, size in zip(shape, wanted, strict=True)]
        starts = [(n - size) // 2 for n, size in zip(shape, sizes, strict=True)]
        a, b, c = (slice(at, at + size) for at, size in zip(starts, sizes, strict=True))
        return a, b, c

    def ways(self) -> tuple[Way, ...]:
        """A model for each network.

        Raises
        ------
        ParameterError
            The package has no network of such a number (kind ``"unknown-network"``).
        """
        known = range(known_networks())
        for number in self.networks:
            if number not in known:
                raise ParameterError(
                    f"expected a network of the package, {', '.join(map(str, known))}, found "
                    f"{number}",
                    kind="unknown-network",
                )
        return tuple(Way(network=number) for number in self.networks or known)


class Coded(NamedTuple):
    """Bytes, and CPU seconds to write and to read them."""

    nbytes: int
    write_s: float
    read_s: float


def coded(values: NDArray[np.int64], cells: Cells | None, way: Way) -> Coded:
    """Code values in segments as layers have them, and read them back.

    Raises
    ------
    AssertionError
        They do not come back.
    """
    z, y, x = values.shape
    segments, total = TileGrid((z, y, x), default_segment((z, y, x))), Coded(0, 0.0, 0.0)
    for number in range(len(segments)):
        box = segments.box(number)
        own = None if cells is None else Cells(cells.least[box], cells.most[box])
        part = np.ascontiguousarray(values[box])
        start = time.process_time()
        data = encode_integers(part, cells=own, way=way)
        written = time.process_time()
        a, b, c = part.shape
        back = decode_integers(data, (a, b, c), cells=own, may_foresee=True, what="segment")
        read = time.process_time()
        assert (back == part).all()
        total = Coded(
            total.nbytes + len(data),
            total.write_s + written - start,
            total.read_s + read - written,
        )
    return total


def measure(paths: Sequence[Path], wanted: Wanted) -> Iterator[str]:
    """Rows of a table, one for each volume, kind of values and network.

    Raises
    ------
    ParameterError
        There is no volume of measurements (kind ``"no-volumes"``), or no such network.
    """
    count, ways = 0, wanted.ways()
    for path in paths:
        for candidate in adapters.discover(path).candidates:
            for source in opened(candidate):
                count += 1
                yield from _rows(source, wanted, ways)
    if not count:
        raise ParameterError(
            f"{', '.join(map(str, paths))}: expected volumes of measurements, found none",
            kind="no-volumes",
            hint="labels, constant and small volumes are left out",
        )


def _rows(source: Source, wanted: Wanted, ways: Sequence[Way]) -> Iterator[str]:
    box = wanted.box(source.stored.shape)
    for error in wanted.errors:
        values = source.integers(error, box)
        yield from _coded_rows(f"| {source.name} | {source.label(error)} ", values, None, ways)
        if error and source.is_integer:
            start = f"| {source.name} | refinement of {source.label(error)} "
            yield from _coded_rows(start, *source.refined(error, box), ways)


def _coded_rows(
    start: str, values: NDArray[np.int64], cells: Cells | None, ways: Sequence[Way]
) -> Iterator[str]:
    few = slice(0, 2)
    first = None if cells is None else Cells(cells.least[few], cells.most[few])
    for way in (PLAIN, *ways[:1]):  # machine code is loaded, or made, before
        coded(values[few], first, way)
    without = coded(values, cells, PLAIN)

    def cost(found: Coded) -> str:
        write, read = (1e6 * s / values.size for s in (found.write_s, found.read_s))
        return f"{write:.2f} / {read:.2f}"

    for way in ways:
        with_it = coded(values, cells, way)
        change = 100 * with_it.nbytes / without.nbytes - 100
        yield (
            f"{start}| {way.network} | {values.size} | {without.nbytes} | {with_it.nbytes} | "
            f"{change:+.2f} % | {cost(without)} | {cost(with_it)} |"
        )
