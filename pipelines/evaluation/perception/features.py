"""Kernel distance between what a prior's network sees in two volumes.

The distance of KID, on features of one of our denoisers instead of a classifier's: it knows scans
of its domain, ships with this package, and gives the same integers everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.prior import Prior, load_prior
from psc_volumetric.prior.bundle import DENOISER
from psc_volumetric.prior.finding import domain_of

__all__ = ["FeatureNetwork", "Features", "feature_network", "kernel_distance"]

Features = NDArray[np.float64]
Stack = NDArray[np.float64]

MOST_TILES = 48
CELLS = 4  # to each side of a tile; features are averaged over each
UNIT = 1000


class FeatureNetwork:
    """A denoiser, asked for what it computes on the way.

    Parameters
    ----------
    prior : Prior
        A denoiser.
    low, high : float
        Values that are -1 and 1 to it.
    """

    def __init__(self, prior: Prior, low: float, high: float) -> None:
        from psc_volumetric.prior.runtime import TorchRuntime

        self.prior, self.low, self.high = prior, low, high
        self._network = TorchRuntime(prior.program)
        adding = [step.out for step in prior.program.steps if step.add is not None]
        self._registers = tuple(adding)  # ends of the blocks of the network

    def features(self, stack: NDArray[np.generic]) -> Features:
        """Means and deviations of every channel, over each sixteenth of each tile.

        Parameters
        ----------
        stack : (n, y, x) array of any real dtype
            Values in the units of ``low`` and ``high``. Tiles are spread over it, at most 48; what
            is smaller than one is repeated at its edges.

        Returns
        -------
        (samples, channels) float64
        """
        import torch

        prior = self.prior
        found = []
        for tile in _tiles(stack, prior.tile_shape):
            scaled = (tile.astype(np.float64) - self.low) * (2 / (self.high - self.low)) - 1
            x0 = np.clip(np.rint(scaled * 2048), *prior.clip).astype(np.int64)
            x = (x0 * int(prior.alpha[0]) + (1 << 15)) >> 16
            given = torch.from_numpy(x.astype(np.int32))[None]
            registers = self._network.registers(given, 0, self._registers)
            found.append(np.concatenate([_pooled(r[0].double().numpy()) for r in registers], 1))
        return np.concatenate(found)


@lru_cache(maxsize=2)
def feature_network(prior: str, low: float, high: float) -> FeatureNetwork | None:
    """The denoiser of a domain, which is named by any of its priors; None where there is none."""
    found = load_prior(domain_of(prior))
    return FeatureNetwork(found, low, high) if found.kind == DENOISER else None


def _tiles(stack: NDArray[np.generic], shape: tuple[int, int, int]) -> list[NDArray[np.generic]]:
    """Tiles side by side, evenly thinned out to as many as may be."""
    pad = [(0, max(size - have, 0)) for have, size in zip(stack.shape, shape, strict=True)]
    wide = np.pad(stack, pad, mode="edge")
    starts = [range(0, have - size + 1, size) for have, size in zip(wide.shape, shape, strict=True)]
    places = list(product(*starts))
    places = places[:: math.ceil(len(places) / MOST_TILES)]
    return [wide[tuple(slice(a, a + n) for a, n in zip(p, shape, strict=True))] for p in places]


def _pooled(register: Stack) -> Features:
    """(channels, y, x) to (cells, 2 channels)."""
    channels, rows, columns = register.shape
    height, width = rows // CELLS, columns // CELLS
    cells = register.reshape(channels, CELLS, height, CELLS, width)
    both = np.stack([cells.mean((2, 4)), cells.std((2, 4))])
    return both.reshape(2 * channels, CELLS * CELLS).T


def kernel_distance(reference: Features, decoded: Features) -> float:
    """Squared distance of two sets of features in the space of a cubic kernel, times 1000.

    Parameters
    ----------
    reference, decoded : (samples, channels) float64
        The same number of samples, at the same places.

    Returns
    -------
    float
        0 for equal sets, and never negative.

    Notes
    -----
    Binkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018, section 4.3, with
    the kernel (x y / d + 1)^3. Features are first put into units of their deviation in the source,
    channel by channel. The biased estimate is taken: both sets are of the same places, so it is 0
    for equal volumes, where the unbiased one is not.
    """
    mean, deviation = reference.mean(0), reference.std(0)
    alive = deviation > 0
    if not alive.any():
        return 0.0
    first, second = ((f[:, alive] - mean[alive]) / deviation[alive] for f in (reference, decoded))
    return UNIT * max(_mean(first, first) + _mean(second, second) - 2 * _mean(first, second), 0.0)


def _mean(one: Features, other: Features) -> float:
    return float(((one @ other.T / one.shape[1] + 1) ** 3).mean())
