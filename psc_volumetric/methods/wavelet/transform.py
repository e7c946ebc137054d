"""Bands of a volume and the integer wavelet transform between them. Part of the format.

SPEC section 17. The filters are the 9/7 pair of Cohen, Daubechies and Feauveau in lifting steps
(Daubechies & Sweldens, "Factoring wavelet transforms into lifting steps", J. Fourier Anal. Appl.
4(3), 1998, section 7.7). Synthesis is integer arithmetic, so that it gives the same samples
everywhere; analysis is the encoder's own business and runs in double precision.

z is taken apart first, as often as an encoder chooses (``depth``); every plane of the result is
then taken apart in y and x, as often as it goes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SAMPLE_LIMIT",
    "UNITS",
    "Band",
    "analyse",
    "axis_splits",
    "band_weights",
    "bands",
    "combine",
    "dequantise",
    "full_depth",
    "joined",
    "split",
    "synthesise",
]

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Triple = tuple[int, int, int]
Range = tuple[int, int]

UNITS = 256  # integer units of one quantiser step
SMALLEST_SPLIT = 3  # axes with fewer samples are left whole
MOST_SPLITS = 16  # of an axis; enough for 65536 samples
SAMPLE_LIMIT = 1 << 36  # magnitudes saturate there after every step
LIFTING_BITS = 20
LIFTING = (-1663182, -55554, 925799, 465051)  # alpha .. delta of the 9/7 pair, 20 fraction bits
WEIGHT_BITS = 16
# 1 / norm of a synthesised coefficient of an axis: high bands of splits 1 .. 16, and low bands of
# as many, 16 fraction bits
HIGH = (
    73862,
    66637,
    55910,
    47825,
    41396,
    35962,
    31272,
    27200,
    23660,
    20581,
    17902,
    15573,
    13546,
    11783,
    10250,
    8916,
)
LOW = (
    57500,
    48847,
    42054,
    36471,
    31700,
    27569,
    23980,
    20859,
    18145,
    15784,
    13730,
    11943,
    10389,
    9037,
    7861,
    6838,
)


class Band(NamedTuple):
    """A box of coefficients of like frequency.

    Attributes
    ----------
    box : ((z, z), (y, y), (x, x))
        First and past the last index in the array of coefficients.
    splits : (z, y, x)
        Splits of each axis.
    high : (z, y, x) of bool
        Whether the band is the upper half of the last split.
    parent : int
        Number of the band of the next coarser scale and the same kind; -1 if there is none.
    siblings : tuple of int
        Numbers of earlier bands of the same scale and z.
    kind : int
        0 for the lowest in y and x, else 1 (high in y), 2 (x), 3 (both).
    """

    box: tuple[Range, Range, Range]
    splits: Triple
    high: tuple[bool, bool, bool]
    parent: int
    siblings: tuple[int, ...]
    kind: int


def _sizes(extent: int) -> list[int]:
    """Extents of the low band after 0, 1, 2 ... splits."""
    sizes = [extent]
    while sizes[-1] >= SMALLEST_SPLIT and len(sizes) <= MOST_SPLITS:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def full_depth(extent: int) -> int:
    """How often an axis can be split."""
    return len(_sizes(extent)) - 1


def _all_sizes(shape: Triple, depth: int) -> tuple[list[int], list[int], list[int]]:
    z, y, x = (_sizes(n) for n in shape)
    return z[: depth + 1], y, x


@functools.lru_cache(maxsize=8)
def bands(shape: Triple, depth: int) -> tuple[Band, ...]:
    """Bands of a volume in the order they are coded: low z first, then coarse scales first.

    Parameters
    ----------
    shape : (z, y, x)
    depth : int
        Splits of z, 0 .. `full_depth`.
    """
    depths, rows, columns = _all_sizes(shape, depth)
    planes: list[tuple[Range, int, bool]] = [((0, depths[-1]), len(depths) - 1, False)]
    for k in range(len(depths) - 1, 0, -1):
        planes.append(((depths[k], depths[k - 1]), k, True))
    found: list[Band] = []
    for z, z_splits, z_high in planes:
        _plane_bands(found, z, z_splits, z_high, rows, columns)
    return tuple(found)


def _plane_bands(
    found: list[Band], z: Range, z_splits: int, z_high: bool, rows: list[int], columns: list[int]
) -> None:
    """Append the bands of the planes ``z``."""
    scales = max(len(rows), len(columns)) - 1
    y_splits, x_splits = len(rows) - 1, len(columns) - 1
    found.append(
        Band(
            (z, (0, rows[-1]), (0, columns[-1])),
            (z_splits, y_splits, x_splits), (z_high, False, False), -1, (), 0,
        )
    )  # fmt: skip
    parents = {1: -1, 2: -1, 3: -1}
    for scale in range(scales, 0, -1):
        y, x = min(scale, y_splits), min(scale, x_splits)
        siblings: list[int] = []
        for kind, (y_high, x_high) in enumerate(((True, False), (False, True), (True, True)), 1):
            if (y_high and y < scale) or (x_high and x < scale):
                continue
            box = (
                z,
                (rows[y], rows[y - 1]) if y_high else (0, rows[y]),
                (columns[x], columns[x - 1]) if x_high else (0, columns[x]),
            )
            band = Band(
                box, (z_splits, y, x), (z_high, y_high, x_high),
                parents[kind], tuple(siblings), kind,
            )  # fmt: skip
            siblings.append(len(found))
            parents[kind] = len(found)
            found.append(band)


def axis_splits(shape: Triple, depth: int) -> list[tuple[int, Triple]]:
    """Axis and box (0 .. extent) of every split, in the order of analysis."""
    depths, rows, columns = _all_sizes(shape, depth)
    splits: list[tuple[int, Triple]] = [(0, (n, shape[1], shape[2])) for n in depths[:-1]]
    for scale in range(max(len(rows), len(columns)) - 1):
        y, x = rows[min(scale, len(rows) - 1)], columns[min(scale, len(columns) - 1)]
        if scale < len(rows) - 1:
            splits.append((1, (shape[0], y, x)))
        if scale < len(columns) - 1:
            splits.append((2, (shape[0], y, x)))
    return splits


def band_weights(shape: Triple, depth: int) -> tuple[int, ...]:
    """Of every band: size of a quantiser step over the step of the brick, 16 fraction bits."""
    weights = []
    for band in bands(shape, depth):
        z, y, x = (
            (HIGH[n - 1] if high else LOW[n - 1]) if n else 1 << WEIGHT_BITS
            for n, high in zip(band.splits, band.high, strict=True)
        )
        weights.append((((z * y) >> WEIGHT_BITS) * x) >> WEIGHT_BITS)
    return tuple(weights)


def dequantise(quantised: NDArray[np.int32], depth: int) -> Integers:
    """Coefficients (z, y, x) in units from their numbers of steps."""
    z, y, x = quantised.shape
    found = zip(bands((z, y, x), depth), band_weights((z, y, x), depth), strict=True)
    out = np.empty(quantised.shape, np.int64)
    for band, weight in found:
        box = tuple(slice(*part) for part in band.box)
        scaled = np.multiply(quantised[box], UNITS * weight, dtype=np.int64)
        scaled += 1 << (WEIGHT_BITS - 1)
        np.right_shift(scaled, WEIGHT_BITS, out=out[box])
    return out


def synthesise(coefficients: Integers, depth: int) -> Integers:
    """Samples (z, y, x) in units from coefficients, which are overwritten."""
    z, y, x = coefficients.shape
    _saturate(coefficients)
    for axis, extent in reversed(axis_splits((z, y, x), depth)):
        part = coefficients[tuple(slice(n) for n in extent)]
        merged = _merge(np.moveaxis(part, axis, 0))
        part[...] = np.moveaxis(merged, 0, axis)
    return coefficients


def _saturate(values: Integers) -> None:
    np.clip(values, -SAMPLE_LIMIT, SAMPLE_LIMIT, out=values)


def _merge(split: Integers) -> Integers:
    """Undo one split of the first axis: low half, then high half, to samples in turn."""
    count = (len(split) + 1) // 2
    low, high = split[:count].copy(), split[count:].copy()
    for number in (3, 2, 1, 0):
        target, change = (low, _around(high, count)) if number % 2 else (high, _between(low, high))
        target -= (change * LIFTING[number] + (1 << (LIFTING_BITS - 1))) >> LIFTING_BITS
        _saturate(target)
    out = np.empty_like(split)
    out[0::2], out[1::2] = low, high
    return out


def _around(high: Integers, count: int) -> Integers:
    """Sum of the two odd neighbours of every even sample; mirrored at the ends."""
    before = np.concatenate([high[:1], high])[:count]
    total: Integers = before + np.concatenate([high, high[-1:]])[:count]
    return total


def _between(low: Integers, high: Integers) -> Integers:
    """Sum of the two even neighbours of every odd sample; mirrored at the end."""
    total: Integers = low[: len(high)] + np.concatenate([low[1:], low[-1:]])[: len(high)]
    return total


def analyse(values: Doubles, depth: int) -> Doubles:
    """Coefficients (z, y, x) of samples; the inverse of `synthesise` but for rounding."""
    z, y, x = values.shape
    out = values.copy()
    for axis, extent in axis_splits((z, y, x), depth):
        part = out[tuple(slice(n) for n in extent)]
        part[...] = np.moveaxis(_split(np.moveaxis(part, axis, 0)), 0, axis)
    return out


def _split(samples: Doubles) -> Doubles:
    low, high = samples[0::2].copy(), samples[1::2].copy()
    for number in range(4):
        factor = LIFTING[number] / (1 << LIFTING_BITS)
        if number % 2:
            low += factor * _around(high, len(low))  # type: ignore[arg-type]
        else:
            high += factor * _between(low, high)  # type: ignore[arg-type]
    return np.concatenate([low, high])


def split(samples: Integers) -> Integers:
    """Take the first axis apart once, in integers: what `synthesise` undoes exactly."""
    low, high = samples[0::2].copy(), samples[1::2].copy()
    for number in range(4):
        target, change = (
            (low, _around(high, len(low))) if number % 2 else (high, _between(low, high))
        )
        target += (change * LIFTING[number] + (1 << (LIFTING_BITS - 1))) >> LIFTING_BITS
        _saturate(target)
    return np.concatenate([low, high])


def combine(coefficients: Doubles, depth: int) -> Doubles:
    """Values (z, y, x) of coefficients in double precision; the inverse of `analyse`."""
    z, y, x = coefficients.shape
    out = coefficients.copy()
    for axis, extent in reversed(axis_splits((z, y, x), depth)):
        part = out[tuple(slice(n) for n in extent)]
        part[...] = np.moveaxis(joined(np.moveaxis(part, axis, 0)), 0, axis)
    return out


def joined(split: Doubles) -> Doubles:
    """Undo one split of the first axis in double precision."""
    count = (len(split) + 1) // 2
    low, high = split[:count].copy(), split[count:].copy()
    for number in (3, 2, 1, 0):
        factor = LIFTING[number] / (1 << LIFTING_BITS)
        if number % 2:
            low -= factor * _around(high, count)  # type: ignore[arg-type]
        else:
            high -= factor * _between(low, high)  # type: ignore[arg-type]
    out = np.empty_like(split)
    out[0::2], out[1::2] = low, high
    return out
