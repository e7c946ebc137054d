"""Fit the context model of scales (SPEC section 5.4) to real volumes, and measure it.

    python -m pipelines.development.fit_scales mr-head=DATA/mr ct-body=DATA/ct ...

Tiles of the training sides of the recipes are encoded with their priors; the weights are those
that make the symbols cheapest, printed as `psc_volumetric/methods/psc/scale_weights.py` wants them.
Then tiles of the held-out sides are encoded, and a table says what each kind of feature saves.
The installed weights matter little: they only decide how the encoder rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.training.recipe import Recipe
from pipelines.training.train import TrainingVolume
from pipelines.training.volumes import load_volumes, split_volumes
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.psc.brick import encode_psc
from psc_volumetric.methods.psc.context import LOG_BITS, WEIGHT_BITS
from psc_volumetric.methods.psc.measure import Observer
from psc_volumetric.methods.psc.scale_weights import FEATURES
from psc_volumetric.methods.psc.trust import denoiser_for
from psc_volumetric.prior import Prior, load_prior
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["collect", "fit", "symbol_bits"]

VISITS = ((5, 0.6), (5, 0.25), (3, 0.4), (6, 0.4), (5, 0.06))  # effort, step; training side
HELD_OUT_VISITS = ((5, 0.6), (5, 0.25))
FLAT = 0.02  # tiles with a smaller deviation are hardly coded
ROUNDS = 60
RIDGE = 1e-5
SMALLEST_SCALE = 2.0**-3  # of the first table
# features by what they look at, each row on top of those before
KINDS = (
    ("claimed scale, recalibrated", ("own variance",)),
    ("class, depth, threshold", ("class", "depth", "threshold")),
    ("means", ("own mean", "mean, frequencies", "mean, blocks")),
    ("variances nearby", ("variance, frequencies", "variance, blocks")),
    ("symbols, frequencies", ("surprise, frequencies", "expected, frequencies")),
    ("symbols, blocks", ("surprise, blocks", "expected, blocks")),
    ("symbols, around", ("surprise, around", "expected, around")),
)
Sample = tuple[torch.Tensor, torch.Tensor]


class _Symbols(Observer):
    """Keeps features and symbols."""

    def __init__(self) -> None:
        self.features: list[torch.Tensor] = []
        self.symbols: list[torch.Tensor] = []

    def coded(self, features: torch.Tensor, symbols: NDArray[np.int64]) -> None:
        self.features.append(features.cpu().float() / (1 << LOG_BITS))
        self.symbols.append(torch.from_numpy(symbols).abs().float())


def _tiles(
    volumes: list[TrainingVolume], shape: tuple[int, int, int], count: int, seed: int
) -> NDArray[np.float32]:
    """Some tiles of the tile grids of the volumes, side by side, all volumes alike."""
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.float32]] = []
    while len(found) < count:
        values = volumes[rng.integers(len(volumes))].values
        at = []
        for n, m in zip(values.shape, shape, strict=True):
            start = m * rng.integers(-(-n // m))
            at.append(np.minimum(np.arange(start, start + m), n - 1))
        tile = values[np.ix_(*at)]
        if tile.std() >= FLAT or rng.random() < FLAT:
            found.append(tile)
    return np.concatenate(found, axis=2).astype("<f4")


def collect(
    prior: Prior,
    volumes: list[TrainingVolume],
    visits: Sequence[tuple[int, float]],
    tiles: int,
) -> Sample:
    """Encode other tiles for every (effort, step).

    Returns
    -------
    features : (m, 15) float32
        In octaves.
    magnitudes : (m,) float32
    """
    seen = _Symbols()
    for seed, (effort, step) in enumerate(visits):
        values = _tiles(volumes, prior.tile_shape, tiles, seed)
        z, y, x = values.shape
        shape = (z, y, x)
        job = EncodeJob(
            values=values,
            header=BrickHeader("psc", values.dtype, (0,), shape, shape),
            special=None,
            limits=None,
            mapping=IntensityMapping(-1.0, 1.0),
            parameters=CodecParameters(effort=effort, step=step),
            prior=prior,
            tile=shape,
            seed=seed,
        )
        encode_psc(job, Resources(denoisers=denoiser_for), observer=seen)
    return torch.cat(seen.features), torch.cat(seen.symbols)


def symbol_bits(magnitude: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Bits of symbols under the shipped tables, for scales (octaves) between the bins."""
    s = torch.exp2(scale.clamp(max=30)).clamp_min(SMALLEST_SCALE)
    low, high = (magnitude - 0.5) / s, (magnitude + 0.5) / s
    gauss = 0.5 * (torch.erfc(low / 2**0.5) - torch.erfc(high / 2**0.5))
    tail = 0.5 * (torch.exp(-low / 1.5) - torch.exp(-high / 1.5))
    laplace = torch.where(magnitude < 0.5, 1 - torch.exp(-high / 1.5), tail)
    return -torch.log2((0.8 * gauss + 0.2 * laplace).clamp_min(2.0**-18))


def fit(samples: Sequence[Sample], names: Sequence[str]) -> torch.Tensor:
    """Weights of these features, and the bias last, that make the symbols cheapest.

    Every sample counts alike, whatever its size.
    """
    columns = [FEATURES.index(name) for name in names]
    joined = torch.cat([features[:, columns] for features, _ in samples])
    centre, spread = joined.mean(0), joined.std(0) + 1e-6
    data = [((f[:, columns] - centre) / spread, f[:, 0] / 2, m) for f, m in samples]
    weights = torch.zeros(len(columns) + 1, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        total = RIDGE * (weights**2).sum()
        for features, claimed, magnitude in data:
            scale = claimed + features @ weights[:-1] + weights[-1]
            total = total + symbol_bits(magnitude, scale).mean() / len(data)
        total.backward()
        return total

    search.step(loss)
    found = torch.zeros(len(FEATURES) + 1)
    with torch.no_grad():
        found[columns] = weights[:-1] / spread
        found[-1] = weights[-1] - (weights[:-1] * centre / spread).sum()
        found[FEATURES.index("own variance")] += 0.5
    return found


def _saving(sample: Sample, weights: torch.Tensor) -> float:
    """Change of symbol bits against the claimed scales, percent."""
    features, magnitude = sample
    before = symbol_bits(magnitude, features[:, 0] / 2).sum()
    after = symbol_bits(magnitude, features @ weights[:-1] + weights[-1]).sum()
    return 100 * float(after / before) - 100


def main(
    data: Annotated[list[str], typer.Argument(metavar="RECIPE=FOLDER...")],
    tiles: Annotated[int, typer.Option(help="Per recipe, effort and step.")] = 10,
) -> None:
    """Print weights of the context model of scales, and what each kind of feature saves."""
    names, training, held_out = [], [], []
    for name, _, folder in (item.partition("=") for item in data):
        recipe, prior = Recipe.load(name), load_prior(name)
        sides = split_volumes(recipe, load_volumes([Path(folder)], recipe))
        names.append(name)
        training.append(collect(prior, sides[0], VISITS, tiles))
        held_out.append(collect(prior, sides[1], HELD_OUT_VISITS, tiles))
    final = fit(training, FEATURES)
    lines = [
        f'    "{feature}": {round(float(weight) * (1 << WEIGHT_BITS))},'
        for feature, weight in zip(FEATURES, final, strict=False)
    ]
    lines.append(f"BIAS = {round(float(final[-1]) * (1 << (WEIGHT_BITS + LOG_BITS)))}\n")
    lines += [f"| features | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    used: list[str] = []
    for title, more in KINDS:
        used += more
        weights = fit(training, used)
        savings = [f"{_saving(sample, weights):+.1f} %" for sample in held_out]
        lines.append(f"| {title} | {' | '.join(savings)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
