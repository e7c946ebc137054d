"""The fit of the context model finds a law that it was shown, and says what it saves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.development.fit_scales import fit, symbol_bits
from psc_volumetric.entropy.tables import SCALE_BINS, symbol_frequencies, symbol_limit
from psc_volumetric.methods.psc.scale_weights import FEATURES


def test_bits_are_those_of_the_tables() -> None:
    for scale_bin in range(4, SCALE_BINS, 4):
        limit = min(symbol_limit(scale_bin) - 1, 12)
        magnitude = torch.arange(limit + 1).float()
        bits = symbol_bits(magnitude, torch.full_like(magnitude, (scale_bin - 12) / 4))
        middle = symbol_limit(scale_bin)
        expected = 24 - np.log2(symbol_frequencies(scale_bin)[middle : middle + limit + 1])
        likely = expected < 14  # the tables never go below 64 / 2^24
        assert np.abs(bits.numpy() - expected)[likely].max() < 0.03


@pytest.mark.parametrize("names", [FEATURES, ("own variance", "surprise, blocks")])
def test_fit_finds_the_law_behind_symbols(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(3)
    features = torch.from_numpy(rng.normal(0, 1, (40000, len(FEATURES)))).float()
    surprise = features[:, FEATURES.index("surprise, blocks")]
    scale = features[:, 0] / 2 + 0.5 * surprise + 1
    symbols = torch.exp2(scale) * torch.from_numpy(rng.normal(0, 1, 40000)).float()
    found = fit([(features, symbols.round().abs())], names)
    expected = torch.zeros(len(FEATURES) + 1)
    expected[0], expected[FEATURES.index("surprise, blocks")] = 0.5, 0.5
    assert (found - expected)[:-1].abs().max() < 0.05
    assert 0.6 < found[-1] < 1.1  # tails of the tables are heavier than these symbols'
