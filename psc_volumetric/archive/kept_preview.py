"""Previews of variables without bricks: whole pages take the place of bricks of block means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.layout import VariableSpec

__all__ = ["Pictured"]

AT_ONCE = 64 << 20  # bytes of pages that are looked at together, or one page
MOST_PAGES = 64
MULTIPLE = 256  # of rows and columns: every block that a preview may have divides it

Position = tuple[int, ...]


@dataclass(frozen=True)
class Pictured:
    """A variable without bricks, which is to have a preview.

    Attributes
    ----------
    variable : KeptVariable
    nbytes : int
        Of the files that it is read out of, or its share of them: what a preview is small beside.
    """

    variable: KeptVariable
    nbytes: int

    @property
    def spec(self) -> VariableSpec:
        """The variable in bricks of whole pages."""
        spec = self.variable.spec
        page = math.prod(spec.shape[-2:]) * spec.dtype.itemsize * self._samples
        pages = MOST_PAGES
        while pages > 1 and pages * page > AT_ONCE:
            pages //= 2
        rows, columns = (MULTIPLE * -(-size // MULTIPLE) for size in spec.shape[-2:])
        return replace(spec, brick_shape=(pages, rows, columns), tile_shape=(pages, rows, columns))

    @property
    def _samples(self) -> int:
        return 1 if self.variable.samples is None else self.variable.spec.shape[0]

    def parts(self) -> Iterator[tuple[tuple[slice, ...], list[tuple[Position, int | None]]]]:
        """Boxes of the variable, each decoded once, and the bricks that they are.

        Yields
        ------
        box : tuple of slice
            All samples of some pages.
        bricks : list of (position, index)
            Of each brick, its place along the first axis of the box; None: it is the whole box.
        """
        spec = self.spec
        along = self.variable.samples is not None and spec.lead > 0
        for position in spec.positions():
            box = spec.box(position)
            if not along:
                yield box, [(position, None)]
            elif position[0] == 0:
                places = range(spec.shape[0])
                whole = (slice(0, spec.shape[0]), *box[1:])
                yield whole, [((sample, *position[1:]), sample) for sample in places]
