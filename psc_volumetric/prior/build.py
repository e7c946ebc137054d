"""Make a prior bundle from a converted network: schedule tables, calibration, files.

Runs where a prior is trained, never when coding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping
from psc_volumetric.parameters import CodecParameters
from psc_volumetric.prior.bundle import (
    FREQUENCY_CLASSES,
    METADATA,
    WEIGHTS,
    Prior,
    prior_from_files,
)
from psc_volumetric.prior.program import Program, canonical_digest
from psc_volumetric.sampler.measure import Observer
from psc_volumetric.sensing.structured import Prediction, StructuredSensing

__all__ = ["build_bundle", "calibrate", "cosine_times", "predicted_tile", "schedule_tables"]

UNIT_GAIN = 1 << 16
DEFAULT_FLOOR = 1 << 12  # variance, 22 fraction bits


def cosine_times(levels: int) -> tuple[float, ...]:
    """Time of each noise level: (i + 1) / levels, 1 being pure noise."""
    return tuple((i + 1) / levels for i in range(levels))


def schedule_tables(alpha: NDArray[np.float64], prediction: str) -> dict[str, NDArray[np.generic]]:
    """Integer schedule of a prior.

    Parameters
    ----------
    alpha : (levels,) float64
        Signal amplitude per level; sigma = sqrt(1 - alpha^2).
    prediction : str
        ``"v"`` (x0 = alpha x - sigma v) or ``"epsilon"`` (x0 = (x - sigma eps) / alpha).
    """
    sigma = np.sqrt(1 - alpha**2)
    if prediction == "v":
        x_gain, out_gain = alpha, -sigma
    elif prediction == "epsilon":
        x_gain, out_gain = 1 / alpha, -sigma / alpha
    else:
        raise ValueError(f"prediction must be 'v' or 'epsilon', found {prediction!r}")
    tables = {"alpha": alpha, "sigma": sigma, "x_gain": x_gain, "out_gain": out_gain}
    return {
        f"schedule.{name}": np.clip(np.rint(values * 65536), -(1 << 26), 1 << 26).astype(np.int32)
        for name, values in tables.items()
    }


def build_bundle(
    program: Program,
    *,
    name: str,
    alpha: NDArray[np.float64],
    prediction: str,
    clip: tuple[float, float],
    metadata: dict[str, Any],
    scales: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> Prior:
    """Assemble the files of a prior and load them back.

    Parameters
    ----------
    program : Program
        The integer network.
    name : str
        Prior name, for example ``"mr-head"``.
    alpha : (levels,) float64
        Schedule.
    prediction : str
        What the network predicts.
    clip : (low, high)
        Range of denoised samples in normalised units.
    metadata : dict
        MONAI-bundle metadata plus ``description`` and ``modality``.
    scales : (gain, floor), optional
        Calibration, each (levels, 22) int64.
    """
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {
        k: np.ascontiguousarray(v) for k, v in program.tensors.items()
    }
    tensors = {k: v for k, v in tensors.items() if not k.startswith(("schedule.", "scale."))}
    tensors.update(schedule_tables(alpha, prediction))
    shape = (program.levels, FREQUENCY_CLASSES)
    gain, floor = scales or (np.full(shape, UNIT_GAIN), np.full(shape, DEFAULT_FLOOR))
    tensors["scale.gain"] = gain.astype(np.int32)
    tensors["scale.floor"] = floor.astype(np.int64)
    unit = 1 << SAMPLE_FRACTION_BITS
    identity = {
        "network": program.to_dict(),
        "clip": [round(clip[0] * unit), round(clip[1] * unit)],
    }
    described = {
        "name": name,
        "digest": canonical_digest(identity, tensors),
        "description": metadata.pop("description", ""),
        "modality": metadata.pop("modality", ""),
        "identity": identity,
    }
    document = {**metadata, "psc_prior": described}
    files = {
        METADATA: (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(),
        WEIGHTS: save(tensors),
    }
    return prior_from_files(files, described["digest"])


def predicted_tile(
    x_t: torch.Tensor, output: torch.Tensor, alpha: float, prediction: str
) -> torch.Tensor:
    """Denoised tile from a network's float output, as the schedule tables define it."""
    sigma = math.sqrt(1 - alpha**2)
    if prediction == "v":
        return alpha * x_t - sigma * output
    return (x_t - sigma * output) / alpha


@dataclass
class _ScaleStatistics(Observer):
    """Squared prediction errors against sample variances, per noise level and class."""

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
        grid = np.arange(self.levels)
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
    from psc_volumetric.psc_brick import encode_psc

    statistics = _ScaleStatistics(prior.levels)
    slices, tile, _ = prior.tile_shape
    valid = (slices, tile, tile * len(tiles))
    values = np.concatenate(list(tiles), axis=2).astype("<f4")
    header = BrickHeader("psc", values.dtype, (0,), valid, valid)
    for step in steps:
        for effort in (3, 5, 6):
            encode_psc(
                values,
                header=header,
                mapping=IntensityMapping(-1.0, 1.0),
                parameters=CodecParameters(effort=effort, step=step),
                prior=prior,
                special=None,
                seed=7,
                device="auto",
                observer=statistics,
            )
    return statistics.fit()
