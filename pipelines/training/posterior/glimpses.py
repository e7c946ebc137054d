"""What the method ``foresight`` shows a network: coarser planes, before a scale is known.

There a network has to say what the next scale holds. So it learns from the planes of the bands that
are known, beside the same planes of all bands of the source.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pipelines.training.posterior.wavelet import analyse, dequantise, synthesise

__all__ = ["GROWTH", "Glimpsed", "glimpsed", "times_finer"]

GROWTH = 1.230174104914001  # of a constant at each split of an axis

Tensor = torch.Tensor


class Glimpsed(NamedTuple):
    """Planes before a scale: (z, rows, columns) float32 as seen, and as they should be."""

    decoded: Tensor
    original: Tensor


def times_finer(splits: int, detail: float) -> float:
    """The step of a brick over that of its planes before a scale; see `glimpses_for`."""
    return float(max(detail * 2.0 ** (splits - 1), 1.0))


def glimpsed(values: Tensor, numbers: Tensor, step: float, depth: int, splits: int) -> Glimpsed:
    """What is seen before a scale is decoded.

    Parameters
    ----------
    values : (z, y, x) float32
        Shares of the intensity range.
    numbers : (z, y, x) float32
        Their numbers of quantiser steps.
    step : float
        Of the brick, share of the range.
    depth : int
        Splits of z.
    splits : int
        The scale, by the splits of y and x of its bands.
    """
    middle = values.mean()
    _, y, x = values.shape
    rows, columns = _halved(y, splits - 1), _halved(x, splits - 1)
    known = dequantise(numbers, step, depth)
    known[:, _halved(y, splits) :] = 0
    known[:, :, _halved(x, splits) :] = 0
    whole = analyse(values - middle, depth)
    grown = GROWTH ** (2 * splits - 2)
    seen, true = (
        synthesise(part[:, :rows, :columns], depth) / grown + middle for part in (known, whole)
    )
    return Glimpsed(seen, true)


def _halved(extent: int, times: int) -> int:
    for _ in range(times):
        extent = (extent + 1) // 2
    return extent
