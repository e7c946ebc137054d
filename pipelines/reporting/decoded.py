"""Levels of one variable; small ones are decoded once, however many of their slices are shown."""

from __future__ import annotations

import math
from collections import OrderedDict

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.reader import DecodedRegion

__all__ = ["Decoded"]

SMALL = 1 << 25  # voxels
KEPT = 2  # levels: the one that is shown, and the one that it is compared with


class Decoded:
    """Regions of the levels of a variable, with one sigma per voxel.

    Parameters
    ----------
    reader : ArchiveReader
    spec : VariableSpec
    """

    def __init__(self, reader: ArchiveReader, spec: VariableSpec) -> None:
        self.reader = reader
        self.spec = spec
        self._whole: OrderedDict[int, DecodedRegion] = OrderedDict()

    def region(self, selection: tuple[slice, ...], level: int) -> DecodedRegion:
        """Stored values and spread; not the caller's own.

        Raises
        ------
        FormatError : a brick that it touches is damaged.
        """
        if math.prod(self.spec.shape) > SMALL:
            return self.reader.read_region(self.spec.name, selection, level=level, spread=True)
        if level not in self._whole:
            self._whole[level] = self.reader.read_region(self.spec.name, level=level, spread=True)
            while len(self._whole) > KEPT:
                self._whole.popitem(last=False)
        self._whole.move_to_end(level)
        whole = self._whole[level]
        spread = None if whole.spread is None else whole.spread[selection]
        return DecodedRegion(whole.values[selection], spread)
