"""One mean per block, all of a brick together. Part of the format (SPEC section 5.8).

All block means of a brick are coded together, before any network runs: each is predicted from
its neighbours (median edge detector: Weinberger, Seroussi, Sapiro, "LOCO-I", IEEE TIP 9(8), 2000,
equation 1) and its residual coded with a scale learned per activity context.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.adaptive import AdaptiveScale
from psc_volumetric.entropy.symbols import SymbolPort
from psc_volumetric.errors import FormatError

__all__ = ["code_block_means", "predict_mean"]

ACTIVITY_EDGES = (0, 1, 3, 7, 15, 31, 63, 127)
VALUE_LIMIT = 1 << 22


def code_block_means(
    port: SymbolPort, means: NDArray[np.int64] | None, shape: tuple[int, int, int]
) -> NDArray[np.int64]:
    """Write or read the quantised block means of a brick.

    Parameters
    ----------
    port : SymbolPort
        Where the symbols go to or come from.
    means : (slabs, rows, columns) int64 or None
        Quantised means when writing, None when reading.
    shape : (slabs, rows, columns)
        Extent of the grid of blocks.

    Returns
    -------
    (slabs, rows, columns) int64
        The means, on either side.
    """
    out = np.zeros(shape, np.int64)
    contexts = [AdaptiveScale(4 << k, 4) for k in range(len(ACTIVITY_EDGES) + 1)]
    for z in range(shape[0]):
        plane = out[z].tolist()
        before = out[z - 1].tolist() if z else None
        for y in range(shape[1]):
            for x in range(shape[2]):
                predicted, activity = predict_mean(plane, before, y, x)
                context = contexts[sum(activity > e for e in ACTIVITY_EDGES)]
                wanted = None if means is None else int(means[z, y, x]) - predicted
                given = None if wanted is None else np.array([wanted], np.int32)
                bins = np.array([context.scale_bin()], np.int64)
                residual = int(port.code(given, bins)[0])
                context.learn(abs(residual))
                plane[y][x] = predicted + residual
                if abs(plane[y][x]) > VALUE_LIMIT:
                    raise FormatError("block means: one is out of range", kind="bad-symbol")
        out[z] = plane
    return out


def predict_mean(
    plane: list[list[int]], before: list[list[int]] | None, y: int, x: int
) -> tuple[int, int]:
    """Median edge detector in the plane, and the local activity."""
    if y == 0 and x == 0:
        return (before[0][0], 63) if before is not None else (0, 1 << 10)
    west = plane[y][x - 1] if x else plane[y - 1][x]
    north = plane[y - 1][x] if y else west
    corner = plane[y - 1][x - 1] if x and y else north
    low, high = min(west, north), max(west, north)
    if corner >= high:
        predicted = low
    elif corner <= low:
        predicted = high
    else:
        predicted = west + north - corner
    return predicted, abs(west - corner) + abs(north - corner)
