"""Scale bins of symbols: the package against the reference, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_decoder.scales import Surroundings, lg, weights

from psc_volumetric.methods.psc.context import GROUPS, ScaleContext, log2, scale_bins
from psc_volumetric.methods.psc.scale_weights import BIAS, WEIGHTS
from psc_volumetric.methods.psc.structured import Prediction
from psc_volumetric.methods.psc.transform import BlockTransform


def context(slices: int, size: int, tiles: int, step: int) -> ScaleContext:
    return ScaleContext(BlockTransform(slices, size, torch.device("cpu")), tiles, step)


def prediction(rng: np.random.Generator, tiles: int, n: int) -> Prediction:
    variance = np.exp2(rng.uniform(0, 42, (tiles, n))).astype(np.int64)
    mean = rng.integers(-(1 << 19), 1 << 19, (tiles, n))
    return Prediction(torch.from_numpy(mean), torch.from_numpy(variance))


def test_weights_are_those_of_the_text() -> None:
    assert weights() == (list(WEIGHTS), BIAS)


@given(st.integers(1, (1 << 54) - 1))
def test_logarithm(value: int) -> None:
    found = int(log2(torch.tensor([value]))[0])
    assert found == lg(value)
    assert abs(found / 256 - math.log2(value)) < 0.02


@pytest.mark.parametrize(("slices", "size"), [(8, 16), (4, 24), (2, 16), (1, 8)])
@pytest.mark.parametrize("step", [1, 700, (1 << 17) - 1])
def test_bins_are_those_of_the_reference(slices: int, size: int, step: int) -> None:
    rng = np.random.default_rng(slices + step)
    n, tiles = slices * size * size, 2
    ours = context(slices, size, tiles, step)
    theirs = [Surroundings(slices, size, step) for _ in range(tiles)]
    seen: set[int] = set()
    for threshold in (2048, 77, 0):
        now = prediction(rng, tiles, n)
        ours.look(now)
        for group in range(GROUPS):
            picked = torch.from_numpy(rng.random((tiles, n)) < 0.05) & (ours.group == group)
            t, at = torch.nonzero(picked, as_tuple=True)
            bins = scale_bins(ours.features(t, at, threshold))
            symbols = torch.from_numpy(rng.integers(-400, 400, len(t)))
            ours.learn(t, at, now.variance[t, at], symbols)
            for number, reference in enumerate(theirs):
                assert np.array_equal(reference.groups(), ours.group.numpy())
                mine = t == number
                variance, mean = now.variance[number].numpy(), now.mean[number].numpy()
                where = at[mine].numpy()
                expected = [reference.bin(int(i), variance, mean, threshold) for i in where]
                assert bins[mine].tolist() == expected
                reference.learn(where, variance[where], symbols[mine].numpy())
                seen |= set(expected)
    assert min(seen) >= 0
    assert max(seen) <= 68
    assert len(seen) > 1


def test_a_tile_does_not_see_the_others() -> None:
    rng = np.random.default_rng(1)
    both = prediction(rng, 2, 8 * 16 * 16)
    at = torch.arange(100)
    pair, alone = context(8, 16, 2, 500), context(8, 16, 1, 500)
    pair.look(both)
    alone.look(Prediction(both.mean[1:], both.variance[1:]))
    pair.learn(torch.zeros_like(at), at, both.variance[0, at], at)
    wanted = alone.features(torch.zeros_like(at), at, 100)
    assert torch.equal(pair.features(torch.ones_like(at), at, 100), wanted)


def test_large_symbols_nearby_widen_the_scale() -> None:
    n, step = 8 * 24 * 24, 500
    flat = Prediction(torch.zeros((1, n)).long(), torch.full((1, n), step * step // 4))
    zero, where = torch.zeros(1, dtype=torch.int64), torch.tensor([4 * 512 + 200])
    bins = []
    for symbol in (0, 1, 5):
        around = context(8, 24, 1, step)
        around.look(flat)
        others = torch.nonzero(around.group != around.group[where])[:, 0]
        tiles = torch.zeros_like(others)
        around.learn(tiles, others, flat.variance[0, others], torch.full_like(others, symbol))
        bins.append(int(scale_bins(around.features(zero, where, 100))[0]))
    assert bins[0] < bins[1] < bins[2]
