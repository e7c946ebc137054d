"""Quantised latents through the range coder. Part of the format (SPEC section 3.11).

Encoder and decoder run one loop. Places are taken tile after tile along z, and in each layer of
tiles row by row, across the tiles; the model of a place looks at those that came before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.entropy.symbols import SymbolPort, categorical
from psc_volumetric.errors import FormatError
from psc_volumetric.prior.latent_model import (
    BIN_BITS,
    BINS,
    FIRST_EDGE,
    NEIGHBOURS,
    TOTAL,
    LatentModel,
)
from psc_volumetric.prior.step import EXP_TABLE, RESIDUAL_LIMIT

__all__ = ["code_latents", "joined_tiles", "split_tiles", "symbols_of"]

Integers = NDArray[np.int64]
Triple = tuple[int, int, int]

WEIGHT_BITS = 16
MOST_NEAR = 31  # quantised latents to each side of the expected one that have a symbol
MOST_NUMBER = 1 << 15  # magnitude of a quantised latent
DISTANCE_BITS = 30


def code_latents(
    port: SymbolPort, model: LatentModel, step: int, shape: Triple, symbols: Integers | None
) -> Integers:
    """Write the symbols of a brick, or read them; gives its latents on either side.

    Parameters
    ----------
    port : SymbolPort
    model : LatentModel
    step : int
        Of the latents, 256ths; not looked at where there is a codebook.
    shape : (z, y, x)
        Layers of tiles, and rows and columns of latents in all tiles of a layer.
    symbols : (z, y, x, c) or (z, y, x, 1) int64, or None
        Quantised latents, or numbers of the codebook; None when reading.

    Returns
    -------
    (z, y, x, c) int64
        Latents with 11 fraction bits.

    Raises
    ------
    FormatError
        The words hold no latents (kind ``"bad-symbol"``).
    """
    latents = np.zeros((*shape, model.channels), np.int64)
    steps = np.zeros(0, np.int64) if model.is_vector else model.steps(step)
    for place in np.ndindex(*shape):
        near = _neighbours(latents, place)
        given = None if symbols is None else symbols[place]
        if model.is_vector:
            latents[place] = _code_vector(port, model, near, given)
        else:
            latents[place] = _code_scalars(port, model, near, steps, given)
    return latents


def _neighbours(latents: Integers, place: Triple) -> Integers:
    """(4, c) latents to the left, above, above and right, and of the tile before.

    One that is not there is the first of left, above, tile before that is, or 0.
    """
    z, y, x = place
    left = latents[z, y, x - 1] if x else None
    above = latents[z, y - 1, x] if y else None
    right = latents[z, y - 1, x + 1] if y and x + 1 < latents.shape[2] else None
    before = latents[z - 1, y, x] if z else None
    found = [one for one in (left, above, before) if one is not None]
    first = found[0] if found else np.zeros(latents.shape[3], np.int64)
    return np.stack([first if one is None else one for one in (left, above, right, before)])


def _class_of(model: LatentModel, near: Integers) -> int:
    """How much the neighbours differ."""
    left, above, _, before = near
    activity = np.abs(left - above).sum() + np.abs(above - before).sum()
    return int((model.activity <= activity).sum())


def _code_scalars(
    port: SymbolPort, model: LatentModel, near: Integers, steps: Integers, given: Integers | None
) -> Integers:
    """Latents of one place, channel after channel."""
    channels, tables = model.channels, model.cumulative[:, _class_of(model, near)]
    sums = model.weights[:, : NEIGHBOURS * channels] @ near.reshape(-1)
    before = model.weights[:, NEIGHBOURS * channels :]
    found = np.zeros(channels, np.int64)
    half = 1 << (WEIGHT_BITS - 1)
    for c in range(channels):
        mean = int(sums[c] + before[c, :c] @ found[:c] + half) >> WEIGHT_BITS
        mean = min(max(mean, -RESIDUAL_LIMIT), RESIDUAL_LIMIT)
        number = None if given is None else int(given[c])
        number = _code_number(port, tables[c], mean, int(steps[c]), number)
        found[c] = min(max(number * int(steps[c]), -RESIDUAL_LIMIT), RESIDUAL_LIMIT)
    return found


def _code_number(
    port: SymbolPort, cumulative: Integers, mean: int, step: int, number: int | None
) -> int:
    """One quantised latent: its distance from the expected one, the outermost with an escape."""
    middle = (2 * mean + step) // (2 * step)
    near = min(-FIRST_EDGE // step + 1, MOST_NEAR)
    wanted = None
    if number is not None:
        wanted = np.array([min(max(number - middle, -near), near) + near], np.int32)
    frequencies = _frequencies(cumulative, mean, middle, step, near)
    away = int(port.exchange(wanted, 1, categorical(frequencies))[0]) - near
    if abs(away) == near:
        beyond = None if number is None else abs(number - middle) - near
        away += port.escape(beyond) * (1 if away > 0 else -1)
    if abs(middle + away) > MOST_NUMBER:
        raise FormatError("a latent is out of range", kind="bad-symbol")
    return middle + away


def _frequencies(
    cumulative: Integers, mean: int, middle: int, step: int, near: int
) -> NDArray[np.int64]:
    """Of the distances -near .. near: what the distribution has in the cell of each."""
    numbers = middle + np.arange(1 - near, near + 1)
    edges = (((2 * numbers - 1) * step) >> 1) - mean - FIRST_EDGE
    edges = np.clip(edges, 0, (BINS << BIN_BITS) - 1)
    at, part = edges >> BIN_BITS, edges & ((1 << BIN_BITS) - 1)
    below = cumulative[at] + (((cumulative[at + 1] - cumulative[at]) * part) >> BIN_BITS)
    count = 2 * near + 1
    shares = np.concatenate([[0], (below * (TOTAL - count)) >> 24, [TOTAL - count]])
    frequencies: NDArray[np.int64] = np.diff(shares) + 1
    return frequencies


def _code_vector(
    port: SymbolPort, model: LatentModel, near: Integers, given: Integers | None
) -> Integers:
    """Latents of one place, which are a vector of the codebook."""
    sums = model.weights @ near.reshape(-1) + (1 << (WEIGHT_BITS - 1))
    mean = np.clip(sums >> WEIGHT_BITS, -RESIDUAL_LIMIT, RESIDUAL_LIMIT)
    distances = ((model.codebook - mean) ** 2).sum(1)
    weight = int(model.spread[_class_of(model, near)])
    index = np.minimum(((distances - distances.min()) * weight) >> DISTANCE_BITS, EXP_TABLE - 1)
    shares = model.base * model.falling[index]
    frequencies = 1 + shares * (TOTAL - len(shares)) // shares.sum()
    frequencies[0] += TOTAL - frequencies.sum()
    wanted = None if given is None else given.astype(np.int32)
    found: Integers = model.codebook[int(port.exchange(wanted, 1, categorical(frequencies))[0])]
    return found


def symbols_of(model: LatentModel, latents: Integers, step: int) -> Integers:
    """The nearest symbols of latents (z, y, x, c); encoder only."""
    if not model.is_vector:
        steps = model.steps(step)
        numbers: Integers = (2 * latents + steps) // (2 * steps)
        return np.clip(numbers, -MOST_NUMBER, MOST_NUMBER)
    flat = latents.reshape(-1, model.channels).astype(np.float64)
    book = model.codebook.astype(np.float64)
    distances = (book**2).sum(1) - 2 * flat @ book.T
    nearest: Integers = distances.argmin(1).reshape(*latents.shape[:-1], 1)
    return nearest


def joined_tiles(tiles: Integers, counts: Triple) -> Integers:
    """Latents (tiles, c, t, t) as (z, y, x, c)."""
    z, y, x = counts
    _, channels, extent, _ = tiles.shape
    blocks = tiles.reshape(z, y, x, channels, extent, extent)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(z, y * extent, x * extent, channels)


def split_tiles(latents: Integers, extent: int) -> Integers:
    """Inverse of `joined_tiles`: (tiles, c, t, t)."""
    z, rows, columns, channels = latents.shape
    y, x = rows // extent, columns // extent
    blocks = latents.reshape(z, y, extent, x, extent, channels).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(z * y * x, channels, extent, extent)
