"""The probability model of latents, from the latents of the training volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.prior.latent_model import (
    BIN_BITS,
    BINS,
    CLASSES,
    FIRST_EDGE,
    NEIGHBOURS,
    TOTAL,
)
from psc_volumetric.prior.step import EXP_TABLE, RESIDUAL_LIMIT

__all__ = ["Seen", "codebook_tables", "scalar_tables"]

Floats = NDArray[np.float64]
Tables = dict[str, NDArray[np.generic]]
RIDGE = 1e-3  # of the regression, shares of the latents' variance
TAIL = 0.02  # share of a distribution that has Laplace tails, for what was not seen
UNIT = 2048


class Seen:
    """Latents of a data set with the neighbours that a decoder would know.

    Parameters
    ----------
    volumes : list of (z, y, x, c) float64
        Latents of volumes in units, layers of tiles first.
    """

    def __init__(self, volumes: list[Floats]) -> None:
        parts = [_with_neighbours(v) for v in volumes]
        self.values = np.concatenate([values for values, _ in parts])
        self.near = np.concatenate([near for _, near in parts])

    @property
    def activity(self) -> Floats:
        """(n,) how much the neighbours differ, as `methods.two_stage.latents` has it."""
        left, above, _, before = self.near.swapaxes(0, 1)
        found: Floats = (np.abs(left - above) + np.abs(above - before)).sum(1)
        return found

    def classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Limits of the activity (3,), 11 fraction bits, and the class of every place."""
        activity = self.activity * UNIT
        shares = np.quantile(activity, np.arange(1, CLASSES) / CLASSES)
        limits = np.maximum(np.rint(shares), 1).astype(np.int64)
        return limits, (limits[:, None] <= activity).sum(0)


def _with_neighbours(latents: Floats) -> tuple[Floats, Floats]:
    """Places (n, c) of a volume and their neighbours (n, 4, c)."""
    z, y, x = latents.shape[:3]
    near = np.zeros((z, y, x, NEIGHBOURS, latents.shape[3]))
    there = np.zeros((z, y, x, NEIGHBOURS), bool)
    near[:, :, 1:, 0], there[:, :, 1:, 0] = latents[:, :, :-1], True
    near[:, 1:, :, 1], there[:, 1:, :, 1] = latents[:, :-1], True
    near[:, 1:, :-1, 2], there[:, 1:, :-1, 2] = latents[:, :-1, 1:], True
    near[1:, :, :, 3], there[1:, :, :, 3] = latents[:-1], True
    first = np.zeros_like(latents)
    for k in (3, 1, 0):
        first = np.where(there[..., k, None], near[..., k, :], first)
    near = np.where(there[..., None], near, first[..., None, :])
    channels = latents.shape[3]
    return latents.reshape(-1, channels), near.reshape(-1, NEIGHBOURS, channels)


def _regression(inputs: Floats, wanted: Floats) -> Floats:
    """Weights (outputs, inputs) without a constant."""
    gram: NDArray[Any] = inputs.T @ inputs
    gram[np.diag_indices(len(gram))] += RIDGE * len(inputs) * float((inputs**2).mean())
    found: Floats = np.linalg.solve(gram, inputs.T @ wanted).T
    return found


def _whole(weights: Floats) -> NDArray[np.int32]:
    return np.clip(np.rint(weights * 65536), -(1 << 20), 1 << 20).astype(np.int32)


def scalar_tables(seen: Seen, deviations: Floats) -> Tables:
    """Tables of a scalar quantiser.

    Parameters
    ----------
    seen : Seen
    deviations : (c,) float64
        Of the noise that the network was trained to bear in each channel; a uniform quantiser with
        as much has a step of sqrt(12) of it.
    """
    count, channels = seen.values.shape
    near = seen.near.reshape(count, -1)
    weights = np.zeros((channels, near.shape[1] + channels))
    residuals = np.zeros((count, channels))
    for c in range(channels):
        inputs = np.concatenate([near, seen.values[:, :c]], 1)
        row = _regression(inputs, seen.values[:, c : c + 1])[0]
        weights[c, : len(row)] = row
        residuals[:, c] = seen.values[:, c] - inputs @ row
    limits, classes = seen.classes()
    unit = np.clip(np.rint(deviations * np.sqrt(12) * UNIT), 1, RESIDUAL_LIMIT)
    edges = (np.arange(BINS + 1) * (1 << BIN_BITS) + FIRST_EDGE) / UNIT
    cumulative = np.zeros((channels, CLASSES, BINS + 1))
    for c in range(channels):
        for k in range(CLASSES):
            own = residuals[classes == k, c]
            own = own if len(own) > 100 else residuals[:, c]
            cumulative[c, k] = _distribution(own, edges, unit[c] / UNIT)
    return {
        "weights": _whole(weights),
        "activity": limits.astype(np.int32),
        "unit": unit.astype(np.int32),
        "cumulative": np.rint(cumulative * TOTAL).astype(np.int32),
    }


def _distribution(values: Floats, edges: Floats, step: float) -> Floats:
    """Shares below the edges: what was seen, smoothed by a fraction of a step, and tails."""
    width = max(float(values.std()), step / 8)
    histogram: Floats = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].astype(
        np.float64
    )
    reach = np.arange(-BINS // 4, BINS // 4 + 1) * (edges[1] - edges[0])
    kernel = np.exp(-0.5 * (reach / max(width / 4, edges[1] - edges[0])) ** 2)
    smooth = np.convolve(histogram, kernel / kernel.sum(), "same")
    middles = (edges[1:] + edges[:-1]) / 2
    tails = np.exp(-np.abs(middles) / (2 * width + 0.25))
    shares = (1 - TAIL) * smooth / smooth.sum() + TAIL * tails / tails.sum()
    found = np.concatenate([[0.0], np.cumsum(shares)])
    result: Floats = found / found[-1]
    return result


def codebook_tables(seen: Seen, codebook: Floats) -> Tables:
    """Tables of a vector quantiser; latents are vectors of ``codebook`` (codes, c) already."""
    count = len(seen.values)
    weights = _regression(seen.near.reshape(count, -1), seen.values)
    mean = seen.near.reshape(count, -1) @ weights.T
    limits, classes = seen.classes()
    variance = [
        float(((seen.values - mean)[classes == k] ** 2).mean()) if (classes == k).any() else 1.0
        for k in range(CLASSES)
    ]
    # half a squared distance over the variance, in powers of 2 with 8 fraction bits
    spread = 256 * np.log2(np.e) / 2 / np.maximum(variance, 1e-6) * 2.0 ** (30 - 22)
    numbers = ((seen.values[:, None, :] - codebook) ** 2).sum(2).argmin(1)
    use = np.bincount(numbers, minlength=len(codebook)) + 1.0
    falling = np.floor(RESIDUAL_LIMIT * np.exp2(-np.arange(EXP_TABLE) / 256) + 0.5)
    falling[-1] = 0
    return {
        "weights": _whole(weights),
        "activity": limits.astype(np.int32),
        "codebook": np.rint(codebook * UNIT).astype(np.int16),
        "base": np.clip(np.rint(use / use.max() * 65536), 1, 65536).astype(np.int32),
        "spread": np.clip(np.rint(spread), 0, (1 << 24) - 1).astype(np.int32),
        "falling": falling.astype(np.int16),
    }
