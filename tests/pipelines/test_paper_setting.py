"""The loop of the paper: what it must do whatever the network, and that costs are counted."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from pipelines.development import paper_setting
from pipelines.development.measured_tiles import code_tiles, tiles_of
from pipelines.development.paper_loop import (
    PaperSetting,
    PosteriorSampler,
    Schedule,
    code_bits,
    code_tile,
    float8,
)
from pipelines.progress import Silent
from psc_volumetric.codec import CodecParameters
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.prior import load_prior

LEVELS = 50
TIMES = (np.arange(LEVELS) + 1) / LEVELS
ALPHA, SIGMA = np.cos(TIMES * 1.568), np.sin(TIMES * 1.568)


class GaussianPrior:
    """Images of a known covariance: the exact denoiser is linear, the best rows are known."""

    def __init__(self, variances: np.ndarray) -> None:
        generator = torch.Generator().manual_seed(7)
        n = len(variances)
        noise = torch.randn((n, n), generator=generator, dtype=torch.float64)
        self.axes = torch.linalg.qr(noise)[0]  # columns
        self.variances = torch.from_numpy(variances)
        self.calls = 0

    def draw(self, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(8)
        white = torch.randn((count, len(self.axes)), generator=generator, dtype=torch.float64)
        return white * self.variances.sqrt() @ self.axes.T

    def denoise(self, x: torch.Tensor, level: int) -> torch.Tensor:
        self.calls += len(x)
        a, s = float(ALPHA[level]), float(SIGMA[level])
        gain = a * self.variances / (a * a * self.variances + s * s)
        return (x @ self.axes * gain) @ self.axes.T

    def sampler(self, steps: int = 25) -> PosteriorSampler:
        schedule = Schedule.of(ALPHA, SIGMA, steps)
        return PosteriorSampler(self.denoise, schedule, torch.Generator().manual_seed(1))


@pytest.fixture
def prior() -> GaussianPrior:
    return GaussianPrior(4.0 ** -np.arange(40.0).clip(0, 6))


def test_rows_stay_orthonormal_and_samples_meet_the_measurements(prior: GaussianPrior) -> None:
    sampler = prior.sampler()
    setting = PaperSetting(steps=25, samples=8, rows=5)
    (state,) = code_tile(prior.draw(1)[0], sampler, setting, [4])
    assert state.rows.shape == (20, 40)
    unit = torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(state.rows @ state.rows.T, unit, atol=1e-12, rtol=0)
    drawn = sampler.draw(state.rows, state.y, 3)
    torch.testing.assert_close(drawn @ state.rows.T, state.y.expand(3, -1), atol=1e-12, rtol=0)


def test_all_rows_measured_leave_only_the_error_of_the_quantiser(prior: GaussianPrior) -> None:
    x, sampler = prior.draw(1)[0], prior.sampler()
    states = list(code_tile(x, sampler, PaperSetting(samples=9, rows=8), [2, 4, 7]))
    assert len(states[-1].rows) == 40  # the last rounds find fewer directions, and no more than all
    errors = []
    for state in states:
        mean = sampler.draw(state.rows, state.y, 64).mean(0)
        errors.append(float(((mean - x) ** 2).sum()))
    exact = states[-1].rows @ x
    assert errors[-1] == pytest.approx(float(((float8(exact)[0] - exact) ** 2).sum()), rel=1e-6)
    assert all(later < 0.7 * earlier for earlier, later in pairwise(errors))
    # E4M3 keeps four significant bits: a relative error of at most 1/16 beyond the subnormals
    assert errors[-1] <= float((exact / 16).square().sum()) + 40 * 2.0**-20


def test_first_rows_are_the_directions_of_largest_variance() -> None:
    variances = np.full(40, 1e-4)
    variances[[3, 17, 30]] = 9, 4, 1
    prior = GaussianPrior(variances)
    setting = PaperSetting(samples=16, rows=3)
    (state,) = code_tile(prior.draw(1)[0], prior.sampler(), setting, [1])
    shares = (state.rows @ prior.axes[:, [3, 17, 30]]).square().sum(0)
    assert float(shares.min()) > 0.98


def test_samples_of_this_sampler_spread_less_than_the_posterior(prior: GaussianPrior) -> None:
    """Full renoising of a mean, DDRM's eta = 1, contracts; the order of directions stays."""
    empty = torch.zeros((0, 40), dtype=torch.float64)
    drawn = prior.sampler().draw(empty, torch.zeros(0, dtype=torch.float64), 500)
    variance = (drawn @ prior.axes).var(0)
    assert 0.3 < float(variance[0]) < 0.7
    assert float(variance[0]) > 2 * float(variance[1]) > 4 * float(variance[2])


def test_float8_is_the_nearest_number_and_has_one_zero() -> None:
    values, codes = float8(torch.tensor([0.3, -0.0, 1e-9, -1e-9, 1e6, -500], dtype=torch.float64))
    assert values.tolist() == [0.3125, 0, 0, 0, 448, -448]
    assert codes.tolist()[1:4] == [0, 0, 0]
    assert codes[4] + 128 == codes[5]


def test_bits_of_codes_lie_between_their_entropy_and_eight_each() -> None:
    codes = np.array([5] * 300 + [9] * 100, np.uint8)
    adaptive, entropy = code_bits(codes)
    assert entropy == pytest.approx(400 * (2 - 0.75 * math.log2(3)))
    assert entropy < adaptive < entropy + 200
    first, nothing = code_bits(codes[:1])
    assert first == pytest.approx(8) and nothing == 0
    assert code_bits(codes[:0]) == (0, 0)


def test_evaluations_and_rates_of_both_sides_are_counted_exactly() -> None:
    denoiser = Denoiser(load_prior("test-tiny"), "cpu")
    z, y, x = np.indices((8, 64, 128))
    waves = 0.6 * np.sin(x / 5) * np.cos(y / 6 + z / 3)
    tiles = np.stack(np.split(waves.astype(np.float32), 2, axis=2))
    setting = PaperSetting(steps=3, samples=4, rows=2, restored=5)
    one, three = paper_setting.measure_paper(tiles, denoiser, setting, [1, 3], Silent())
    assert one.point.evaluations == 1 * 3 * 4 + 3 * 5
    assert three.point.evaluations == 3 * 3 * 4 + 3 * 5
    assert 0 < three.entropy_bpv <= three.point.rate_bpv <= 2 * 3 * 8 / tiles[0].size * 1.01
    assert three.point.psnr_db > one.point.psnr_db
    assert three.sample_db <= three.point.psnr_db  # a mean of samples is closer than one of them
    again = paper_setting.measure_paper(tiles, denoiser, setting, [3], Silent())[0]
    assert again.point.psnr_db == three.point.psnr_db
    ours = code_tiles(tiles, CodecParameters(effort=1, step=0.3), denoiser)
    assert ours.evaluations == 2 * 4
    assert not hasattr(denoiser.network, "evaluations")  # the counter is taken off again


def test_command_prints_both_sides_and_reads_ours_at_equal_rate(
    sources: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    paper_setting.main(
        [sources["nifti"]], tiles=1, prior="test-tiny", effort=1, steps="0.3,60", rounds="1,5",
        ddrm_steps=1, samples=64, rows=60, restored=2,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert len(re.findall(r"^\| ours, effort 1, step", out, re.M)) == 2
    assert re.search(r"^\| paper, 5 rounds \|.*\| [\d.]+ dB \([+-][\d.]+\) \|$", out, re.M)
    assert re.search(r"^\| paper, 1 rounds \|.*\| - \|$", out, re.M)
    whole, payload = re.findall(r"BD-PSNR ([+-][\d.]+) dB", out)
    assert float(payload) > float(whole)  # fewer of our bytes count


def test_tiles_are_the_ones_nearest_the_centre_and_normalised(tmp_path: Path) -> None:
    z, y, x = np.indices((40, 200, 200))
    stored = (x + 200 * y + 7 * z * z).astype(np.int32) % 30011  # every voxel tells where it is
    path = tmp_path / "ramp.nii"
    nibabel.save(nibabel.Nifti1Image(stored.T, np.eye(4)), path)
    tiles, prior = tiles_of([path], 2, "test-tiny")
    assert tiles.shape == (2, *prior.tile_shape)
    options = ArchiveOptions(mode="lossy", base="psc", prior="test-tiny")
    (variable,) = plan(path, "unused.psc.zarr", options).items[0].variables
    assert variable.range is not None
    low, high = variable.range.low, variable.range.high
    # 5 x 4 x 4 tiles: the middle slab, and the first two of the four about the middle
    for tile, start in zip(tiles, (64, 128), strict=True):
        values = stored[16:24, 64:128, start : start + 64]
        wanted = 2 * (values - low) / (high - low) - 1
        assert np.abs(tile - wanted).max() < 1e-3
