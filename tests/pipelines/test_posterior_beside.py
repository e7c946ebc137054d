"""Estimators are measured beside one another: other shapes, starts from denoisers, particles."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.training.posterior import __main__ as command
from pipelines.training.posterior.beside import only
from pipelines.training.posterior.denoisers import begin_as_denoiser, load_denoiser, noise_time
from pipelines.training.posterior.domains import DOMAINS
from pipelines.training.posterior.make_pack import make_pack
from pipelines.training.posterior.packs import Packed, held_out_file, read_pack
from pipelines.training.posterior.particles import Particles, mean_of_particles
from pipelines.training.posterior.runs import Run, checkpoint_file, run
from pipelines.training.posterior.train import Checkpoint
from pipelines.training.posterior.wavelet import analyse, dequantise
from pipelines.training.precision import short_floats
from pipelines.training.train import cosine_alpha
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.making.posterior_net import PosteriorNet, PosteriorShape
from psc_volumetric.prior.making.residual_unet import ResidualUNet
from tests.pipelines.test_posterior import DOMAIN, anatomy, write_volumes

LIKE_DENOISERS = PosteriorShape(channels=(32, 64, 96))


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """A pack of three small NIfTI volumes, one of them of a held-out patient."""
    folder = tmp_path_factory.mktemp("pack")
    make_pack([write_volumes(tmp_path_factory.mktemp("data"))], DOMAIN, folder)
    return folder


@pytest.fixture(scope="module")
def denoiser() -> ResidualUNet:
    return load_denoiser("mr-head")


def test_noise_has_the_time_that_the_denoiser_was_trained_at():
    for deviation in (0.01, 0.3, 2.0):
        alpha = float(cosine_alpha(torch.tensor(noise_time(deviation))))
        assert np.sqrt(1 - alpha**2) / alpha == pytest.approx(deviation, rel=1e-3)


def test_a_network_begins_by_correcting_the_noise_that_the_denoiser_finds():
    domain, step = DOMAINS["mr-head"], 0.16
    net = begin_as_denoiser(PosteriorNet(LIKE_DENOISERS), domain).eval()
    clean = torch.from_numpy(anatomy((5, 64, 64), noise=0))[None]
    noise = 0.25 * step * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, _ = net.posterior(
            clean + noise, torch.tensor([step]), torch.zeros(1, dtype=torch.long)
        )
    left, before = (float(((v - clean[:, 2:3]) ** 2).mean()) for v in (mean, clean + noise))
    assert left < before / 2


@pytest.mark.parametrize("shape", [PosteriorShape(), replace(LIKE_DENOISERS, slices=9)])
def test_a_network_that_the_denoiser_does_not_fit_is_refused(shape):
    with pytest.raises(ParameterError, match="expected channels and blocks of the denoiser") as e:
        begin_as_denoiser(PosteriorNet(shape), DOMAINS["mr-head"])
    assert e.value.kind == "bad-start"


def test_runs_have_the_shape_and_the_processor_time_that_they_are_asked_for(pack, tmp_path):
    shape = PosteriorShape(slices=1, channels=(4, 8), blocks=(1, 1))
    scores = run(
        Run(pack, tmp_path, domains=[DOMAIN], device="cpu", checks=False, held_out_slices=1,
            steps=2, shape=shape, cpu_minutes=5.0)
    )  # fmt: skip
    state = Checkpoint.load(checkpoint_file(tmp_path, "mr-head"))
    assert state.net.shape == shape and state.steps == 2
    assert len(scores["mr-head"]) == len(DOMAIN.held_out_steps)
    run(
        Run(pack, tmp_path / "b", domains=[DOMAIN], device="cpu", checks=False, held_out_slices=1,
            cpu_minutes=0.01)
    )  # fmt: skip
    state = Checkpoint.load(checkpoint_file(tmp_path / "b", "mr-head"))
    assert 0.6 <= state.seconds < 30


def test_the_mean_of_particles_lies_in_the_cells_of_the_stream(pack, denoiser):
    (volume,) = read_pack(held_out_file(pack, DOMAIN.name))
    (coded,) = only([volume], [], [0.3])[0].coded
    how = Particles(count=2, evaluations=2)
    mean = mean_of_particles(denoiser, coded, how)
    assert torch.equal(mean, mean_of_particles(denoiser, coded, how))
    assert not torch.equal(mean, mean_of_particles(denoiser, coded, replace(how, seed=1)))
    coefficients = analyse(mean - coded.middle, coded.depth)
    numbers = torch.from_numpy(coded.numbers.astype(np.float32))
    one = dequantise(torch.ones_like(numbers), coded.step, coded.depth)
    away = coefficients / one - numbers
    assert away.abs().max() < 0.81
    assert away[numbers > 0].min() > -0.51 and away[numbers < 0].max() < 0.51


def test_one_particle_has_no_noise_and_is_the_denoiser_alone(pack, denoiser):
    (volume,) = read_pack(held_out_file(pack, DOMAIN.name))
    coded, how = volume.coded[0], Particles(1, 1, first=0.02)
    alone = mean_of_particles(denoiser, coded, how)
    assert torch.equal(alone, mean_of_particles(denoiser, coded, replace(how, seed=5)))


def test_a_halo_is_seen_and_not_kept(pack, denoiser):
    (volume,) = read_pack(held_out_file(pack, DOMAIN.name))
    coded = volume.coded[0]
    with_halo, without = (
        mean_of_particles(denoiser, coded, Particles(1, 1, first=0.02, halo=halo))
        for halo in (2, 0)
    )
    assert with_halo.shape == without.shape == volume.samples.shape
    assert not torch.equal(with_halo, without)


def test_estimators_are_told_beside_one_another(pack, tmp_path, capsys):
    path = checkpoint_file(tmp_path, "mr-head")
    Checkpoint.new(DOMAIN.shape, 0).save(path)
    words = ["beside", str(path), "--domain", "mr-head", "--pack", str(pack), "--steps", "0.3"]
    words += ["--volumes", "patient12", "--particles", "1", "--shipped"]
    assert command.main(words) == 0
    *_, head, _, first, ships, second = capsys.readouterr().out.strip().splitlines()
    assert head == "| estimator | patient12_T1W, 0.3 | mean, 0.3 |"
    assert first == f"| {path}, 0 steps | +0.00 | +0.00 |"  # first weights correct nothing
    assert re.match(r"\| mr-head-\d+-posterior, \d+ steps \| [+-]\d\.\d\d \| ", ships)
    assert second.startswith("| 1 particles, 1 evaluations each | ")


def test_volumes_and_steps_are_chosen_by_name_and_number():
    one = Packed.of("patient01", anatomy((2, 16, 16)), 64, isotropic=False)
    other = replace(one, name="patient12")
    assert [v.name for v in only([one, other], ["t12"], [])] == ["patient12"]
    assert [v.name for v in only([one, other], [], [])] == ["patient01", "patient12"]


def test_short_floats_are_for_devices_that_have_units_for_them():
    has_units = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for wanted in (True, False):
        with short_floats("cpu", wanted=wanted):
            made = torch.ones(4, 4) @ torch.ones(4, 4)
        assert (made.dtype == torch.bfloat16) is (wanted and has_units)
