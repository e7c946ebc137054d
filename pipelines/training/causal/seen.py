"""What the context coder would tell a network at each voxel of a segment (SPEC section 15.11)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.coders.context.coder import CLAMP_BITS
from psc_volumetric.coders.context.decoder import given_in
from psc_volumetric.coders.context.fit import fit_predictors
from psc_volumetric.coders.context.given import Cells, Given, Window
from psc_volumetric.coders.context.network import (
    GUESSES,
    INPUTS,
    OWN_ERRORS,
    OWN_VALUES,
    Network,
)
from psc_volumetric.coders.context.networks import with_room
from psc_volumetric.coders.context.occurring import Levels
from psc_volumetric.coders.context.predictors import write_predictors
from psc_volumetric.coders.context.state import Coding, Settings
from psc_volumetric.coders.context.value_list import LevelTable
from psc_volumetric.entropy.binary_tables import FRACTION
from psc_volumetric.entropy.lanes import ACROSS

__all__ = ["FARTHEST", "USED", "Prepared", "Seen", "prepared", "seen_in"]

FARTHEST = 1 << 30  # what a fact may be; float32 is exact for those near the prediction


def _used() -> NDArray[np.bool_]:
    """Which inputs the table of SPEC 15.11 names.

    The coder fills rows of eight, and leaves it to weights of 0 that nobody sees the rest of them:
    a writer finds the voxel itself there, which a reader does not have.
    """
    used = np.ones(INPUTS, bool)
    used[ACROSS - 1 : GUESSES : ACROSS] = False
    for row in (OWN_VALUES, OWN_ERRORS):  # what is before the voxel alone
        used[row + 3 : row + ACROSS] = False
    used[INPUTS - 1] = False
    return used


USED = _used()


class Seen(NamedTuple):
    """Inputs and facts of the voxels of a segment that a network is run for, in the coder's order.

    Attributes
    ----------
    inputs : (n, INPUTS) int16
        5 fraction bits; 0 where they are not in `USED`.
    facts : (n, 4) int32
        Value, least and largest possible value, all less the coder's prediction, and the scale
        that it expects without a network; 8 fraction bits.
    places : (n,) int64
        Of these voxels in the segment, in C order.
    """

    inputs: NDArray[np.int16]
    facts: NDArray[np.int32]
    places: NDArray[np.int64]


class Prepared(NamedTuple):
    """A segment as `encode_integers` hands it to the loop, with a network of one's own.

    Attributes
    ----------
    levels : Levels or LevelTable
        Which values the coded integers stand for.
    coded : (z, y, x) int64
        Coded integers.
    given : Given
    settings : Settings
    """

    levels: Levels | LevelTable
    coded: NDArray[np.int64]
    given: Given
    settings: Settings

    def code(self) -> bytes | None:
        """Code bytes alone; None if they would be longer than the packed integers."""
        index, top = self.coded, self.settings.top
        room = np.zeros(index.size * ((top.bit_length() + 7) // 8), np.uint8)
        coding = Coding(self.settings, room, self.given.offsets, decode=False)
        if coding.code(Window.whole(len(index)), self.given, index) is None:
            return None
        return room[: coding.size].tobytes()

    def decode(self, data: bytes) -> NDArray[np.int64] | None:
        """Values of code bytes; None if they are damaged."""
        body = np.frombuffer(data, np.uint8).copy()
        coding = Coding(self.settings, body, self.given.offsets, decode=True)
        index = coding.code(Window.whole(len(self.coded)), self.given)
        return None if index is None else self.levels.values(index.astype(np.int64))


def prepared(
    values: NDArray[np.integer], network: Network, *, cells: Cells | None = None
) -> Prepared | None:
    """A segment ready to be coded with a network; None where all values are the same.

    Parameters
    ----------
    values : (z, y, x) integer
    network : Network
        With room of its own.
    cells : Cells, optional
        As for `encode_integers`.
    """
    levels: Levels | LevelTable
    levels, index = Levels.find(values)
    listed = LevelTable.find(values)
    if listed is not None:
        levels, index = listed
    if not levels.top:
        return None
    z, y, x = index.shape
    given = given_in(levels, values.shape, Window.whole(z), None, cells, "segment")
    fitted = fit_predictors(index, given, is_light=False)
    predictors = write_predictors(FieldWriter(), fitted, index.size)  # rounds them
    shift = max(0, levels.top.bit_length() - CLAMP_BITS)
    settings = Settings((z, y, x), levels.top, shift, predictors, False, network)
    return Prepared(levels, index, given, settings)


def seen_in(values: NDArray[np.integer], *, cells: Cells | None = None) -> Seen | None:
    """What a network would see of a segment.

    Returns
    -------
    Seen or None
        None where there is nothing to foresee: all values are the same, numbers do not fit, or the
        coder would rather pack them.
    """
    none = np.zeros(0, np.int16), np.zeros(0, np.int32)
    segment = prepared(values, with_room(*none, seen=values.size), cells=cells)
    if segment is None or segment.settings.top << FRACTION >= FARTHEST or segment.code() is None:
        return None
    network = segment.settings.network
    value, mean, scale, least, most = network.facts.T
    coded = most > least
    parts = [(part << FRACTION) - mean for part in (value, least, most)]
    facts = np.stack([*parts, scale], axis=1)[coded]
    return Seen(network.seen[coded] * USED, facts.astype(np.int32), np.flatnonzero(coded))
