"""Bricks to train on are what encoders make and what the method foresight shows its network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.training.posterior import __main__ as command
from pipelines.training.posterior.bricks import BrickPool, Changes, PoolSize, Shares
from pipelines.training.posterior.domains import TINY, nearest_step, tabulated_steps
from pipelines.training.posterior.glimpses import GROWTH, glimpsed, times_finer
from pipelines.training.posterior.packs import Packed
from pipelines.training.posterior.train import Checkpoint
from psc_volumetric.methods.foresight import source as encoder
from psc_volumetric.methods.foresight.guess import Seer
from psc_volumetric.methods.foresight.source import glimpses_for
from psc_volumetric.methods.posterior.fields import View
from psc_volumetric.methods.posterior.moments import SCALE_BITS, UNIT_BITS
from psc_volumetric.methods.posterior.network import Estimator
from psc_volumetric.methods.posterior.source import FORESEEN as TOLD
from psc_volumetric.methods.posterior.source import level_of_step
from psc_volumetric.methods.wavelet.coder import decode_steps
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.prior import load_prior
from psc_volumetric.prior.bundle import CONDITION_BITS, DEPTHS
from psc_volumetric.prior.making.posterior_net import FORESEEN
from psc_volumetric.values.mapping import UNIT
from tests.pipelines.test_posterior import anatomy

CPU = torch.device("cpu")


@dataclass
class Recorded:
    """An estimator that keeps what it is shown."""

    estimator: Estimator
    seen: list[np.ndarray] = field(default_factory=list)

    @property
    def prior(self):
        return self.estimator.prior

    @property
    def device(self):
        return self.estimator.device

    def __call__(self, x: np.ndarray, level: int) -> np.ndarray:
        self.seen.append(np.array(x))
        return self.estimator(x, level)


@pytest.mark.parametrize("splits", [3, 2, 1])
@pytest.mark.parametrize("detail", encoder.DETAILS)
def test_networks_learn_from_what_the_method_shows_them(splits: int, detail: float) -> None:
    assert GROWTH == encoder.GROWTH and FORESEEN == TOLD
    values = anatomy((6, 64, 80)).astype(np.float64)
    depth, prior = 1, load_prior("test-tiny-posterior")
    trial = WaveletSource(values, None, depth=depth).code(0.2)
    numbers, _ = decode_steps(trial.data, values.shape, what="test")
    step = trial.fields.step * 256
    scale = step * 2.0**-UNIT_BITS * 2 * UNIT * 2.0**SCALE_BITS
    level = DEPTHS * int(np.abs(prior.steps * 2.0**-CONDITION_BITS - step).argmin()) + depth
    view = View(16, b"", level, round(scale), round((2 * trial.fields.low - 1) * UNIT))
    shown = Recorded(Estimator(prior, "cpu"))
    glimpses = glimpses_for(view, prior, values.shape, depth, detail)
    (glimpse,) = (g for g in glimpses if g.splits == splits)
    list(Seer(shown, view, glimpses).foresee(numbers, depth, glimpse))
    seen = np.concatenate(shown.seen)

    samples = torch.from_numpy(values).float()
    made = glimpsed(samples, torch.from_numpy(numbers).float(), step, depth, splits)
    assert made.decoded.shape == made.original.shape == (6, 64 >> splits - 1, 80 >> splits - 1)
    net = Checkpoint.new(TINY.shape, 0).net
    planes = torch.cat([made.decoded[:1], made.decoded, made.decoded[-1:]]).unfold(0, 3, 1)
    finer = torch.full((6,), step / times_finer(splits, detail))
    told = net.features(planes.permute(0, 3, 1, 2), finer).numpy() * 2048
    told[:, 3:] += 2048 * 2 * (trial.fields.low - float(samples.mean()))  # another middle
    assert np.abs(seen - told).max() < 0.02 * 2048 and np.abs(seen).max() > 2048


def pool_of(shares: Shares, **changes) -> BrickPool:
    volumes = [Packed.of("v", anatomy((12, 160, 150)), 512, isotropic=False)]
    domain = replace(TINY, **{"patch": 32, **changes})
    return BrickPool(volumes, domain, Changes(), PoolSize(4, (8, 40, 40), 999), CPU, 0, shares)


def test_planes_before_a_scale_hold_less_than_the_source() -> None:
    plain, foreseen = pool_of(Shares()), pool_of(Shares(foreseen=1.0))
    for pool in (plain, foreseen):
        for _ in range(4):
            assert pool.batch(3).decoded.shape == (3, 3, 32, 32)
    # errors in told steps: what is not known yet is most of it
    mean = [np.mean([b.error / b.step**2 for b in pool.bricks]) for pool in (plain, foreseen)]
    assert mean[1] > 1.5 * mean[0]


def test_patches_say_what_of_them_lies_inside() -> None:
    """A piece is as wide as a patch, planes before a scale are as wide, a little less or half."""
    plain, foreseen = (pool_of(Shares(foreseen=share), patch=40) for share in (0.0, 1.0))
    assert plain.batch(3).inside.min() == 1
    areas = {float(area) for _ in range(8) for area in foreseen.batch(3).inside.sum((1, 2, 3))}
    shapes = set()
    for brick in foreseen.bricks:
        inside = brick.inside[0].numpy()
        rows, columns = int(inside[:, 0].sum()), int(inside[0].sum())
        rest = np.pad(np.ones((rows, columns)), ((0, 40 - rows), (0, 40 - columns)))
        np.testing.assert_array_equal(inside, rest)
        for planes in (brick.original.numpy(), brick.decoded.numpy()):
            repeated = np.pad(
                planes[:, :rows, :columns], ((0, 0), (0, 40 - rows), (0, 40 - columns)), "edge"
            )
            np.testing.assert_array_equal(planes, repeated)
            assert (planes[:, rows - 1] != planes[:, rows - 2]).any()  # nothing of it is outside
            assert (planes[..., columns - 1] != planes[..., columns - 2]).any()
        shapes.add((rows, columns))
    assert shapes <= {*product((40, 38), repeat=2), *product((20, 19), repeat=2)}
    assert {1600.0} < areas <= {float(rows * columns) for rows, columns in shapes}


def test_coarser_planes_are_told_apart_by_networks_that_foresee() -> None:
    shape = replace(TINY.shape, foresees=True)
    pool = pool_of(Shares(foreseen=1.0), shape=shape)
    batch = pool.batch(2)
    table = tabulated_steps(TINY)
    told = [FORESEEN * nearest_step(table, float(step)) for step in batch.step]
    assert torch.allclose(batch.told, torch.tensor(told))
    steps = tabulated_steps(TINY, foresees=True)
    assert steps[: len(steps) // 2] == tabulated_steps(TINY)
    prior = load_prior("test-tiny-posterior")
    integers = np.rint(np.array(steps) * 2.0**CONDITION_BITS).astype(np.int64)
    able, half = replace(prior, steps=integers), len(steps) // 2
    for share in (0.02, 0.1, 0.3, 0.7):
        plain = level_of_step(prior, share, 1)
        assert plain is not None and level_of_step(able, share, 1) == plain
        assert level_of_step(able, share, 1, foreseen=True) == plain + DEPTHS * half
        assert level_of_step(prior, share, 1, foreseen=True) == plain
    assert level_of_step(able, 0.002, 1) is None


def test_refined_numbers_are_those_of_a_thorough_encoder() -> None:
    values, step = anatomy((8, 60, 64)), 0.1
    real = WaveletSource(values, None, depth=1)
    first = real.quantised(step)
    real_again = real.refined(step, first)
    made, plain = (
        pool_of(Shares(refined=share))._numbers(torch.from_numpy(values), step, 1).numpy()
        for share in (1.0, 0.0)
    )
    assert np.mean(made != real_again) < 0.2 * np.mean(made != plain)
    assert np.abs(made).sum() == pytest.approx(np.abs(real_again).sum(), rel=0.01)


def test_training_starts_from_what_ships(tmp_path: Path) -> None:
    pack, out = tmp_path / "pack", tmp_path / "out"
    words = ["--pack", str(pack), "--domains", "test-tiny"]
    assert command.main(["pack", ".", *words, "--voxels", "30000"]) == 0
    words += ["--out", str(out), "--minutes", "0.5", "--threads", "1", "--device", "cpu"]
    words += ["--no-checks", "--shipped", "--learning-rate", "1e-9", "--foreseen", "0.5"]
    assert command.main(["train", *words, "--refined", "0.5"]) == 0
    state = Checkpoint.load(out / "test-tiny.safetensors")
    told = load_prior("test-tiny-posterior").metadata["training"]
    assert state.steps > told["steps"]
    assert "from the network test-tiny-posterior" in (out / "log.txt").read_text()
