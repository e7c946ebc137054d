"""Numbers shared by the two sides of the context coder. Part of the format (SPEC section 15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COEFFICIENT_BITS",
    "EXPERTS",
    "FAST_AT",
    "FLAT_LANES",
    "FLAT_NEIGHBOURS",
    "FRONT",
    "GIVEN_LANES",
    "LANES",
    "LIGHT_FLAT",
    "LIGHT_FLAT_LANES",
    "LIGHT_LANES",
    "LIGHT_NEIGHBOURS",
    "MAX_COEFFICIENT",
    "MAX_PADDED",
    "MAX_SETS",
    "MAX_SHIFT",
    "NARROW",
    "NEIGHBOURS",
    "PAD",
    "PREDICTORS_AT",
    "ROOM",
    "SLOW_AT",
    "WORK_SIZE",
    "neighbours_of",
]

# (dz, dy, dx) of the causal neighbours; the first is the base of all differences
NEIGHBOURS = np.array(
    [
        (0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, 0, -2), (0, -2, 0),
        (0, -1, -2), (0, -1, 2), (0, -2, -1), (0, -2, 1), (0, 0, -3), (0, -3, 0),
        (0, -2, -2), (0, -2, 2), (0, -1, -3), (0, -1, 3), (0, -3, -1), (0, -3, 1),
        (0, -2, -3), (0, -2, 3), (0, -3, -2), (0, -3, 2),
        (-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-1, -1, -1),
        (-1, -1, 1), (-1, 1, -1), (-1, 1, 1), (-1, 0, 2), (-1, 2, 0), (-1, 0, -2),
        (-1, -2, 0), (-1, 1, 2), (-1, 1, -2), (-1, -1, 2), (-1, -1, -2),
        (-2, 0, 0), (-2, 0, 1), (-2, 0, -1), (-2, 1, 0), (-2, -1, 0),
    ],
    np.int64,
)  # fmt: skip
FLAT_NEIGHBOURS = 22  # of them, those in the same slice come first
LIGHT_FLAT = 12  # of the light model: so many in the same slice, and so many in the last
LIGHT_NEIGHBOURS = np.concatenate(
    [NEIGHBOURS[:LIGHT_FLAT], NEIGHBOURS[FLAT_NEIGHBOURS : FLAT_NEIGHBOURS + LIGHT_FLAT]]
)
PAD = 3  # voxels around each slice
FRONT = 2  # slices before the first
MAX_PADDED = 1 << 23  # voxels of a segment with its padding
COEFFICIENT_BITS = 14
MAX_COEFFICIENT = (1 << 15) - 1
EXPERTS = 8  # fitted predictors, and three more
MAX_SETS = EXPERTS - 3
MAX_SHIFT = 17

# In memory, not in the stream: rows of numbers that are multiplied with one another, filled with
# zeros to whole vectors. The differences come first, then those of what is given.
LANES, FLAT_LANES = 48, 32  # for all neighbours, and for those of the same slice
LIGHT_LANES, LIGHT_FLAT_LANES = 24, 16
GIVEN_LANES = 24
ROOM = LANES + GIVEN_LANES
FAST_AT, SLOW_AT, PREDICTORS_AT = ROOM, 2 * ROOM, 3 * ROOM
WORK_SIZE = PREDICTORS_AT + MAX_SETS * ROOM
NARROW = 1 << 22  # coded integers below it fit into 32 bits with their fraction and a sign


def neighbours_of(is_light: bool) -> tuple[NDArray[np.int64], int]:
    """(dz, dy, dx) of the neighbours of a model, and how many of the first lie in the slice."""
    return (LIGHT_NEIGHBOURS, LIGHT_FLAT) if is_light else (NEIGHBOURS, FLAT_NEIGHBOURS)
