"""Scales of symbols from their context. Part of the format (SPEC section 5.4).

The particles of a tile say how wide each coefficient may err; what was decoded nearby says how far
to believe them. A linear model of logarithms joins both: neighbours in frequency, the same
frequency in neighbouring blocks, and the magnitudes of symbols against what was expected of them.
All numbers are integers; logarithms are of base 2 with 8 fraction bits.
"""

from __future__ import annotations

from itertools import product

import torch

from psc_volumetric.entropy.tables import SCALE_BINS
from psc_volumetric.methods.psc.scale_weights import BIAS, WEIGHTS
from psc_volumetric.methods.psc.structured import Prediction
from psc_volumetric.methods.psc.transform import BLOCK, BlockTransform, frequency_class
from psc_volumetric.prior.runtime import integer_sqrt

__all__ = ["GROUPS", "ScaleContext", "log2", "scale_bins"]

GROUPS = 4
WEIGHT_BITS = 14
LOG_BITS = 8
MAGNITUDE_BITS = 12
LARGEST = 255 << MAGNITUDE_BITS  # magnitude that still counts
BIN_OF_UNIT = 12
REACH = 4 << LOG_BITS  # octaves between the claimed scale and the modelled one
MAX_BIN = SCALE_BINS + 39


def log2(values: torch.Tensor) -> torch.Tensor:
    """Logarithm of int64 numbers 1 .. 2^54, 8 fraction bits; off by 0.01 at most."""
    powers = torch.tensor([1 << k for k in range(55)], device=values.device)
    octave = torch.bucketize(values.contiguous(), powers, right=True) - 1
    part = ((values << LOG_BITS) >> octave) - (1 << LOG_BITS)
    return (octave << LOG_BITS) + part + ((88 * part * ((1 << LOG_BITS) - part)) >> 16)


def scale_bins(features: torch.Tensor) -> torch.Tensor:
    """Scale bins from features (m, 15) int64: linear in them, near to the claimed scale."""
    weights = torch.tensor(WEIGHTS, device=features.device)
    scale = ((features * weights).sum(-1) + BIAS) >> WEIGHT_BITS
    claimed = features[:, 0] >> 1
    scale = torch.minimum(torch.maximum(scale, claimed - REACH), claimed + REACH)
    quarters = (4 * scale + (1 << (LOG_BITS - 1))) >> LOG_BITS
    return (quarters + BIN_OF_UNIT).clamp_(0, MAX_BIN)


class ScaleContext:
    """What is known around every coefficient of a batch of tiles.

    Arrays lie on a grid of (block row, block column, kz, ky, kx) with a border of zeros, so that
    a neighbour is a fixed distance away.

    Parameters
    ----------
    transform : BlockTransform
        Its tiles and blocks.
    tiles : int
        Tiles of the batch.
    step : int
        Quantiser step, 11 fraction bits.
    """

    def __init__(self, transform: BlockTransform, tiles: int, step: int) -> None:
        device, slices, k = transform.device, transform.slices, transform.blocks
        self.step = step
        grid = (k, k, slices, BLOCK, BLOCK)
        bordered = torch.Size(n + 2 for n in grid)
        self._stride = bordered.numel()
        inside = torch.arange(self._stride, device=device).reshape(bordered)
        self._places = inside[(slice(1, -1),) * 5].reshape(-1)
        axes = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
        row, column, z, y, x = (axis.reshape(-1) for axis in axes)
        self.group = 2 * ((row + column) & 1) + ((z + y + x) & 1)
        classes = torch.from_numpy(frequency_class(slices)).to(device).repeat(k * k)
        self._position = torch.stack([classes, z * (BLOCK // slices)], -1) << LOG_BITS
        steps = [1]
        for n in reversed(bordered[1:]):
            steps.insert(0, steps[0] * n)
        self._frequencies = _distances(steps[2:])
        self._blocks = _distances(steps[:2])
        faces = [0, *_distances(steps[2:], faces=True)]
        self._around = [b + f for b in self._blocks for f in faces]
        there = torch.zeros(self._stride, dtype=torch.int64, device=device)
        there[self._places] = 1
        self._neighbours = [
            _sums(there, self._places, near) for near in (self._frequencies, self._blocks)
        ]
        self._seen = torch.zeros((tiles, self._stride, 2), dtype=torch.int64, device=device)
        self._coded = torch.zeros_like(self._seen)

    def look(self, prediction: Prediction) -> None:
        """Take variances and means of a step, as :meth:`features` is going to see them."""
        both = torch.stack([prediction.variance, prediction.mean.abs()], -1)
        self._seen[:, self._places] = both

    def features(self, tiles: torch.Tensor, where: torch.Tensor, threshold: int) -> torch.Tensor:
        """Features of coefficients: flat position ``where`` of tile ``tiles``, (m, 15) int64."""
        at = tiles * self._stride + self._places[where]
        square = self.step * self.step
        unit = log2(torch.tensor([self.step, max(threshold, 1)], device=at.device))
        seen, coded = self._seen.reshape(-1, 2), self._coded.reshape(-1, 2)
        variance, mean = seen[at].unbind(-1)
        spreads = [log2(variance) - 2 * unit[0]]
        means = [log2(16 * mean + 2 * self.step) - unit[0]]
        for near, count in zip((self._frequencies, self._blocks), self._neighbours, strict=True):
            n = count[where].clamp_min(1)
            variance, mean = _sums(seen, at, near).unbind(-1)
            spreads.append(log2(variance + ((n * square) >> 13) + 1) - log2(n) - 2 * unit[0])
            means.append(log2(16 * mean + 2 * n * self.step) - log2(n) - unit[0])
        fixed = [*self._position[where].unbind(-1), unit[1].expand(len(at))]
        surprises = []
        for near in (self._frequencies, self._blocks, self._around):
            magnitude, expected = _sums(coded, at, near).unbind(-1)
            quarter = 1 << (MAGNITUDE_BITS - 2)
            surprises.append(log2(magnitude + quarter) - log2(expected + quarter))
            surprises.append(log2(expected + (quarter >> 2)))
        return torch.stack([*spreads, *means, *fixed, *surprises], -1)

    def learn(
        self,
        tiles: torch.Tensor,
        where: torch.Tensor,
        variance: torch.Tensor,
        symbols: torch.Tensor,
    ) -> None:
        """Remember decoded symbols and the magnitudes that their variances let expect."""
        ratio = ((variance << 12) // (self.step * self.step)).clamp_max_(1 << 32)
        expected = torch.minimum(ratio, integer_sqrt(2621 * ratio))
        magnitude = symbols.abs() << MAGNITUDE_BITS
        both = torch.stack([magnitude, expected], -1).clamp_max_(LARGEST)
        self._coded[tiles, self._places[where]] = both


def _distances(steps: list[int], *, faces: bool = False) -> list[int]:
    """Distances to the neighbours along axes of these steps, without the place itself."""
    around = product((-1, 0, 1), repeat=len(steps))
    return [
        sum(d * s for d, s in zip(at, steps, strict=True))
        for at in around
        if any(at) and (not faces or sum(map(abs, at)) == 1)
    ]


def _sums(values: torch.Tensor, at: torch.Tensor, distances: list[int]) -> torch.Tensor:
    total = values[at + distances[0]]
    for distance in distances[1:]:
        total = total + values[at + distance]
    return total
