"""One step: pick coefficients, exchange their symbols. Part of the format (SPEC 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.entropy.symbols import SymbolPort
from psc_volumetric.methods.psc.context import GROUPS, ScaleContext, scale_bins
from psc_volumetric.methods.psc.fields import StreamParameters
from psc_volumetric.methods.psc.quantiser import uniform_symbols
from psc_volumetric.methods.psc.structured import Prediction, StructuredSensing

__all__ = ["COEFFICIENT_LIMIT", "Coded", "Observer", "measure"]

COEFFICIENT_LIMIT = 1 << 19


class Observer:
    """Sees every prediction while encoding; calibration is one. Does nothing by default."""

    def step(
        self, level: int, sensing: StructuredSensing, prediction: Prediction, truth: torch.Tensor
    ) -> None:
        """Called before rows are picked; ``truth`` holds the source's coefficients."""

    def coded(self, features: torch.Tensor, symbols: NDArray[np.int64]) -> None:
        """Called with what was coded: features (m, 15) of 5.4 and symbols (m,)."""

    def measured(self, coded: Coded) -> None:
        """Called with the same symbols, where they belong and what was expected there."""


@dataclass(frozen=True)
class Coded:
    """Some coefficients that were measured.

    Attributes
    ----------
    tiles, where : (m,) int64
        Tile in the batch, and coefficient.
    mean, bins, symbols : (m,) int64
        Prediction (11 fraction bits), bin of the scale, number of quantiser steps.
    """

    tiles: torch.Tensor
    where: torch.Tensor
    mean: torch.Tensor
    bins: torch.Tensor
    symbols: torch.Tensor


def measure(
    sensing: StructuredSensing,
    context: ScaleContext,
    prediction: Prediction,
    parameters: StreamParameters,
    step_number: int,
    ports: Sequence[SymbolPort],
    truth: torch.Tensor | None,
    observer: Observer | None,
) -> None:
    """Pick coefficients, exchange their symbols group by group, and record their values.

    Parameters
    ----------
    sensing, context
        Of the batch; both learn what was measured.
    prediction : Prediction
        Of this step.
    parameters : StreamParameters
    step_number : int
        Which threshold.
    ports : sequence of SymbolPort
        One per tile.
    truth : (b, n) int64 tensor or None
        The source's coefficients when writing.
    observer : Observer or None
        Sees what is coded.
    """
    step, threshold = parameters.step, parameters.thresholds[step_number]
    tiles, where = torch.nonzero(sensing.pick(prediction, threshold, step), as_tuple=True)
    if not len(tiles):
        return
    context.look(prediction)
    groups = context.group[where]
    for group in range(GROUPS):
        own = groups == group
        t, at = tiles[own], where[own]
        mean = prediction.mean[t, at]
        features = context.features(t, at, threshold)
        bins, wanted = scale_bins(features), None
        if truth is not None:
            wanted = uniform_symbols(truth[t, at] - mean, step, bins).to(torch.int32).cpu().numpy()
        counts = torch.bincount(t, minlength=len(ports)).cpu().numpy()
        coded = _exchange(ports, counts, bins.cpu().numpy(), wanted)
        if observer is not None:
            observer.coded(features, coded)
        symbols = torch.from_numpy(coded).to(mean.device)
        if observer is not None:
            observer.measured(Coded(t, at, mean, bins, symbols))
        context.learn(t, at, prediction.variance[t, at], symbols)
        values = (mean + symbols * step).clamp_(-COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)
        sensing.assimilate(t, at, values)


def _exchange(
    ports: Sequence[SymbolPort],
    counts: NDArray[np.int64],
    bins: NDArray[np.int64],
    wanted: NDArray[np.int32] | None,
) -> NDArray[np.int64]:
    """Code symbols tile by tile; ``counts`` says how many each has."""
    symbols = np.empty(len(bins), np.int64)
    stop = 0
    for port, count in zip(ports, counts, strict=True):
        run = slice(stop, stop + int(count))
        stop = run.stop
        if count:
            symbols[run] = port.code(None if wanted is None else wanted[run], bins[run])
    return symbols
