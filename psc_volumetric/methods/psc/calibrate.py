"""Fit the scale tables of a prior: how far the spread of particles is from their error.

Runs where a prior is made, never when coding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.psc.brick import encode_psc
from psc_volumetric.methods.psc.measure import Observer
from psc_volumetric.methods.psc.structured import Prediction, StructuredSensing
from psc_volumetric.methods.psc.trust import denoiser_for
from psc_volumetric.prior import Prior
from psc_volumetric.prior.bundle import FREQUENCY_CLASSES
from psc_volumetric.prior.making.build import DEFAULT_FLOOR, UNIT_GAIN
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["calibrate"]


@dataclass
class _ScaleStatistics(Observer):
    """Squared prediction errors against sample variances, per noise level and class."""

    first: int
    levels: int
    pairs: dict[int, list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]] = field(
        default_factory=dict
    )

    def step(
        self, level: int, sensing: StructuredSensing, prediction: Prediction, truth: torch.Tensor
    ) -> None:
        """Keep (class, raw sample variance, squared error) of unknown coefficients."""
        unknown = ~sensing.known
        classes = sensing._classes.expand_as(truth)[unknown]
        gain, floor = sensing.gain[level][classes], sensing.floor[level][classes]
        raw = (prediction.variance[unknown] - floor).double() * 65536 / gain.double()
        error = (truth - prediction.mean)[unknown].double() ** 2
        kept = (classes.numpy(), raw.clamp_min(0).numpy(), error.numpy())
        self.pairs.setdefault(level, []).append(kept)

    def fit(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Gain and floor tables; levels never visited are interpolated."""
        visited = sorted(self.pairs)
        gains = np.ones((len(visited), FREQUENCY_CLASSES))
        floors = np.full((len(visited), FREQUENCY_CLASSES), float(DEFAULT_FLOOR))
        for row, level in enumerate(visited):
            classes, raw, error = (
                np.concatenate([p[k] for p in self.pairs[level]]) for k in range(3)
            )
            for c in range(FREQUENCY_CLASSES):
                member = classes == c
                if member.sum() >= 64:
                    gains[row, c], floors[row, c] = _fit_line(raw[member], error[member])
        grid = np.arange(self.first, self.first + self.levels)
        gain = np.stack([np.interp(grid, visited, g) for g in np.log(gains).T], 1)
        floor = np.stack([np.interp(grid, visited, f) for f in np.log(floors).T], 1)
        gain_q = np.rint(np.exp(gain) * UNIT_GAIN).clip(1 << 10, 1 << 24)
        floor_q = np.rint(np.exp(floor)).clip(1, 1 << 38)
        return gain_q.astype(np.int64), floor_q.astype(np.int64)


def _fit_line(raw: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[float, float]:
    """Error ~ gain * raw + floor from means in eight groups of equal size along ``raw``."""
    groups = np.array_split(np.argsort(raw, kind="stable"), 8)
    v = np.array([raw[g].mean() for g in groups])
    e = np.array([error[g].mean() for g in groups])
    best = (math.inf, 1.0, float(DEFAULT_FLOOR))
    for gain in np.geomspace(0.1, 30, 60):
        for floor in np.geomspace(max(1.0, e.min() / 100), max(2.0, e.max()), 40):
            cost = float((np.log((gain * v + floor) / np.maximum(e, 1.0)) ** 2).sum())
            best = min(best, (cost, float(gain), float(floor)))
    return best[1], best[2]


def calibrate(
    prior: Prior, tiles: NDArray[np.float32], *, steps: Sequence[float] = (0.25, 0.5, 1.0)
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fit the scale tables by encoding training tiles and watching the predictions.

    Parameters
    ----------
    prior : Prior
        With any scale tables.
    tiles : (n, slices, tile, tile) float32
        Normalised training tiles.
    steps : sequence of float
        Quantiser steps to visit; efforts 3, 5 and 6 are visited with each.

    Returns
    -------
    gain, floor : (levels, 22) int64
        For :func:`build_bundle`.
    """
    labels = range(max(1, len(prior.classes)))
    tables = [_of_class(replace(prior, label=label), tiles, steps) for label in labels]
    return np.concatenate([t[0] for t in tables]), np.concatenate([t[1] for t in tables])


def _of_class(
    prior: Prior, tiles: NDArray[np.float32], steps: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    statistics = _ScaleStatistics(prior.first_level, prior.levels)
    slices, tile, _ = prior.tile_shape
    valid = (slices, tile, tile * len(tiles))
    values = np.concatenate(list(tiles), axis=2).astype("<f4")
    header = BrickHeader("psc", values.dtype, (0,), valid, valid)
    for step in steps:
        for effort in (3, 5, 6):
            job = EncodeJob(
                values=values,
                header=header,
                special=None,
                limits=None,
                mapping=IntensityMapping(-1.0, 1.0),
                parameters=CodecParameters(effort=effort, step=step),
                prior=prior,
                tile=valid,
                seed=7,
            )
            encode_psc(job, Resources(denoisers=denoiser_for), observer=statistics)
    return statistics.fit()
