"""What reader and writer of a context stream know beforehand. Part of the format.

SPEC sections 15 and 15.10.

Either a reference, a prediction of every integer, or cells: the least and the largest that each can
be. Both add regressors to the predictors; cells also say which decisions are left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.coders.context.layout import FRONT, PAD
from psc_volumetric.coders.context.occurring import Levels
from psc_volumetric.coders.context.value_list import LevelTable
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.errors import FormatError, ParameterError

__all__ = ["NOTHING", "Cells", "Given", "Window", "check_inside", "given_cells", "given_reference"]

Integers = NDArray[np.int64]
Shape = tuple[int, int, int]

# (dz, dy, dx) of what is looked at: around the voxel, and behind it where nothing is exact yet
AROUND = np.array([(0, 0, 0), (0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0)], np.int64)
BEHIND = np.array(
    [
        (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, -2), (0, 1, -1), (0, 1, 0), (0, 1, 1), (0, 1, 2),
        (0, 2, -2), (0, 2, -1), (0, 2, 0), (0, 2, 1), (0, 2, 2), (0, 3, 0),
        (1, -1, 0), (1, 0, -1), (1, 0, 0), (1, 0, 1), (1, 1, 0),
    ],
    np.int64,
)  # fmt: skip
BEHIND_IN_SLICE = 14  # of them, those in the same slice come first


class Window(NamedTuple):
    """Slices ``begin`` .. ``end`` - 1 of a segment of ``depth``, which are coded together."""

    begin: int
    end: int
    depth: int

    @classmethod
    def whole(cls, depth: int) -> Window:
        """All slices."""
        return cls(0, depth, depth)

    @property
    def seen(self) -> slice:
        """Slices that what is given is needed of: with those around them."""
        return slice(max(self.begin - 1, 0), min(self.end + 1, self.depth))


class Cells(NamedTuple):
    """The least and the largest that each value can be, both (z, y, x)."""

    least: Integers
    most: Integers


class Given(NamedTuple):
    """What is known beforehand, in coded integers.

    Attributes
    ----------
    volume : (z + FRONT + 1, y + 2 PAD, x + 2 PAD) int64
        A number for each voxel of a window, 8 fraction bits, with what lies around it.
    offsets : (e, 3) int64
        Where around a voxel it is looked at.
    cells : Cells or None
        Coded integers of the window.
    """

    volume: Integers
    offsets: Integers
    cells: Cells | None = None


NOTHING = Given(np.zeros((0, 0, 0), np.int64), AROUND[:0])


def given_reference(
    levels: Levels | LevelTable, reference: NDArray[np.integer], window: Window
) -> Given:
    """A prediction of the values, 4 fraction bits, of the slices that are seen."""
    return Given(_padded(levels.mapped(reference), window), AROUND)


def given_cells(levels: Levels | LevelTable, cells: Cells, window: Window, *, what: str) -> Given:
    """The least and the largest that each value can be, of the slices that are seen.

    Raises
    ------
    FormatError
        A cell has none of the values that occur (kind ``"bad-payload"``).
    """
    least = levels.count_below(cells.least)
    most = levels.count_below(cells.most + 1) - 1
    if (least > most).any():
        raise FormatError(
            f"{what}: no value that occurs lies within what the level below allows",
            kind="bad-payload",
            hint="the stream is damaged, run `psc-archive verify`",
        )
    offsets = BEHIND if window.depth > 1 else BEHIND[:BEHIND_IN_SLICE]
    volume = _padded((least + most) << (FRACTION - 1), window)
    own = slice(window.begin - window.seen.start, window.end - window.seen.start)
    return Given(volume, offsets, Cells(least[own], most[own]))


def check_inside(values: NDArray[np.integer], cells: Cells) -> None:
    """Refuse values outside their cells.

    Raises
    ------
    ParameterError
        There are some (kind ``"bad-values"``).
    """
    outside = (values < cells.least) | (values > cells.most)
    if outside.any():
        raise ParameterError(
            f"{int(outside.sum())} values lie outside what the level below allows",
            kind="bad-values",
        )


def _padded(volume: Integers, window: Window) -> Integers:
    """What is seen of a window with its edge around each slice, and the last but one behind all."""
    own = volume[window.begin - window.seen.start :]
    before = np.repeat(own[:1], FRONT, axis=0)  # which nobody looks at
    behind = volume[-2:-1] if window.depth > 1 else volume
    parts = [before, own, behind] if window.end == window.depth else [before, own]
    return np.pad(np.concatenate(parts), ((0, 0), (PAD, PAD), (PAD, PAD)), mode="edge")
