"""Noise and gradients of tissues of like intensity: whether each is as rough as it was."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Texture", "texture_of"]

Stack = NDArray[np.float64]

CLASSES = 8
WINDOW = 5  # voxels across the mean that classes are made of
QUIET = 1e-4  # of the range: noise below it counts as none
NORMAL = 0.6744897501960817  # median of the magnitude of a normal variable of deviation 1
FEWEST = 64  # voxels of a class


class Texture(NamedTuple):
    """How the texture of a decoded volume differs from its source's.

    Attributes
    ----------
    noise_octaves : tuple of float
        Per class of intensity, darkest first: log2 of decoded over source deviation of the noise;
        negative where it was smoothed away.
    gradient_gap : float
        Distance of the distributions of gradient magnitudes (1-Wasserstein) as a share of the
        source's mean gradient, mean over classes; 0 for equal volumes.
    """

    noise_octaves: tuple[float, ...]
    gradient_gap: float

    @property
    def noise_gap_octaves(self) -> float:
        """Mean of the magnitudes of ``noise_octaves``."""
        return float(np.mean(np.abs(self.noise_octaves)))


def texture_of(reference: Stack, decoded: Stack) -> Texture | None:
    """Compare noise and gradients class by class.

    Parameters
    ----------
    reference, decoded : (n, y, x) float64
        In units of the data range.

    Returns
    -------
    Texture or None
        None where slices are too small, or the source is flat.

    Notes
    -----
    Classes hold equally many voxels, by the source's mean over 5 x 5; where the source is flat
    around a voxel, it is in none. Noise: the operator of Immerkaer, "Fast noise variance
    estimation", Computer Vision and Image Understanding 64(2), 1996, eq. 2, here with the median
    of its magnitudes, which edges move less than the mean.
    """
    if min(reference.shape[1:]) < WINDOW or not len(reference):
        return None
    first, second = _Measured.of(reference), _Measured.of(decoded)
    rough = first.laplacian != 0
    mean = _box_mean(reference)
    if rough.sum() < FEWEST:
        return None
    ends = np.quantile(mean[rough], np.linspace(0, 1, CLASSES + 1)[1:-1])
    number = np.where(rough, np.searchsorted(ends, mean, side="right"), -1)
    octaves, gaps = [], []
    for k in range(CLASSES):
        own = number == k
        if own.sum() < FEWEST:
            continue
        octaves.append(float(np.log2(second.noise(own) / first.noise(own))))
        one, other = np.sort(first.gradient[own]), np.sort(second.gradient[own])
        gaps.append(float(np.abs(one - other).mean() / max(float(one.mean()), QUIET)))
    return Texture(tuple(octaves), float(np.mean(gaps))) if gaps else None


class _Measured(NamedTuple):
    """What is looked at, two voxels in from the edges of every slice."""

    laplacian: Stack
    gradient: Stack

    @classmethod
    def of(cls, stack: Stack) -> _Measured:
        across = stack[:, :, 2:] - 2 * stack[:, :, 1:-1] + stack[:, :, :-2]
        both = across[:, 2:] - 2 * across[:, 1:-1] + across[:, :-2]
        dy = (stack[:, 2:, 1:-1] - stack[:, :-2, 1:-1]) / 2
        dx = (stack[:, 1:-1, 2:] - stack[:, 1:-1, :-2]) / 2
        inner = np.s_[:, 1:-1, 1:-1]
        return cls(both[inner], np.hypot(dy, dx)[inner])

    def noise(self, own: NDArray[np.bool_]) -> float:
        """Deviation of the noise of some voxels, in units of the data range."""
        return float(np.median(np.abs(self.laplacian[own]))) / (6 * NORMAL) + QUIET


def _box_mean(stack: Stack) -> Stack:
    """Means over 5 x 5 voxels that lie inside the slice."""
    view = np.lib.stride_tricks.sliding_window_view
    rows = view(stack, WINDOW, axis=1).mean(-1)
    return np.asarray(view(rows, WINDOW, axis=2).mean(-1))
