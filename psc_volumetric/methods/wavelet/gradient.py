"""What a change of a coefficient does to samples: the transpose of synthesis. Encoder only.

The transform is nearly orthogonal, but not quite, and least so at the ends of an axis. Whoever
chooses coefficients by what they do to samples needs the slope of an error along each of them, and
the error that one step of it makes by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.methods.wavelet.transform import (
    LIFTING,
    LIFTING_BITS,
    WEIGHT_BITS,
    Triple,
    axis_splits,
    band_weights,
    bands,
    combine,
    joined,
)

__all__ = ["curvatures", "decoded", "slopes"]

Doubles = NDArray[np.float64]


def decoded(steps: NDArray[np.integer], depth: int) -> Doubles:
    """Samples (z, y, x) of numbers of quantiser steps, in steps too and without rounding."""
    z, y, x = steps.shape
    out = steps.astype(np.float64)
    for band, weight in zip(bands((z, y, x), depth), band_weights((z, y, x), depth), strict=True):
        out[tuple(slice(*part) for part in band.box)] *= weight / (1 << WEIGHT_BITS)
    return combine(out, depth)


def slopes(gradient: Doubles, depth: int) -> Doubles:
    """Derivatives by numbers of quantiser steps from those by samples, in steps too.

    Parameters
    ----------
    gradient : (z, y, x) float64
        Derivatives of an error by every sample, samples in quantiser steps of the brick.
    depth : int
        Splits of z.
    """
    z, y, x = gradient.shape
    out = gradient.copy()
    for axis, extent in axis_splits((z, y, x), depth):
        part = out[tuple(slice(n) for n in extent)]
        part[...] = np.moveaxis(_joined_back(np.moveaxis(part, axis, 0)), 0, axis)
    for band, weight in zip(bands((z, y, x), depth), band_weights((z, y, x), depth), strict=True):
        out[tuple(slice(*part) for part in band.box)] *= weight / (1 << WEIGHT_BITS)
    return out


def curvatures(shape: Triple, depth: int) -> Doubles:
    """Squared error that one quantiser step of each coefficient makes, in squared steps; near 1."""
    out = np.empty(shape)
    for band, weight in zip(bands(shape, depth), band_weights(shape, depth), strict=True):
        z, y, x = (
            _powers(extent, splits, high=high)
            for extent, splits, high in zip(shape, band.splits, band.high, strict=True)
        )
        unit = weight / (1 << WEIGHT_BITS)
        box = tuple(slice(*part) for part in band.box)
        out[box] = unit**2 * z[:, None, None] * y[:, None] * x
    return out


def _powers(extent: int, splits: int, *, high: bool) -> Doubles:
    """Squared norms of what the coefficients of a band of one axis become."""
    sizes = [extent]
    for _ in range(splits):
        sizes.append((sizes[-1] + 1) // 2)
    if not splits:
        return np.ones(extent)
    first, last = (sizes[splits], sizes[splits - 1]) if high else (0, sizes[splits])
    each = np.eye(sizes[splits - 1])[:, first:last]
    for size in reversed(sizes[:splits]):
        each = joined(np.pad(each, ((0, size - len(each)), (0, 0))))
    powers: Doubles = np.square(each).sum(0)
    return powers


def _joined_back(samples: Doubles) -> Doubles:
    """Transpose of `transform.joined`: samples in turn to low half, then high half."""
    low, high = samples[0::2].copy(), samples[1::2].copy()
    for number in range(4):
        factor = LIFTING[number] / (1 << LIFTING_BITS)
        if number % 2:
            high -= factor * _around_back(low, len(high))
        else:
            low -= factor * _between_back(high, len(low))
    return np.concatenate([low, high])


def _around_back(low: Doubles, count: int) -> Doubles:
    """Transpose of `transform._around`, to ``count`` odd samples."""
    out = np.zeros((count, *low.shape[1:]))
    out[: len(low) - 1] += low[1:]
    out[0] += low[0]
    out[:count] += low[:count]
    if len(low) > count:
        out[-1] += low[-1]
    return out


def _between_back(high: Doubles, count: int) -> Doubles:
    """Transpose of `transform._between`, to ``count`` even samples."""
    out = np.zeros((count, *high.shape[1:]))
    out[: len(high)] += high
    out[1 : len(high) + 1] += high[: count - 1]
    if len(high) >= count:
        out[-1] += high[-1]
    return out
