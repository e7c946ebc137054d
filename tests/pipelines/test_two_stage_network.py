"""Autoencoders from packs to folders that code; what ships has not seen what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.training.posterior import __main__ as packing
from pipelines.training.posterior.packs import read_pack, training_file
from pipelines.training.recipe import Recipe
from pipelines.training.two_stage import __main__ as command
from pipelines.training.two_stage.data import training_sampler
from pipelines.training.two_stage.latent_tables import Seen, scalar_tables
from pipelines.training.two_stage.networks import shape_of
from pipelines.training.two_stage.train import Checkpoint, train_autoencoder
from psc_volumetric.prior import installed_autoencoders, installed_posteriors, load_prior
from psc_volumetric.prior.bundle import README


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    words = ["pack", ".", "--pack", str(folder), "--domains", "test-tiny", "--voxels", "30000"]
    assert packing.main(words) == 0
    return folder


@pytest.mark.parametrize("quantiser", [pytest.param("scalar", marks=pytest.mark.slow), "vector"])
def test_a_run_goes_on_and_becomes_a_folder_that_codes(
    pack: Path, tmp_path: Path, quantiser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, new = tmp_path / "tiny.safetensors", tmp_path / "new"
    state = Checkpoint.new(shape_of("test-tiny", quantiser))
    sampler = training_sampler(pack, "test-tiny", state.shape, seed=1)
    lines: list[str] = []
    for _ in range(2):
        train_autoencoder(state, sampler, 1.0, path, batch=2, steps=2, report=lines.append)
        state = Checkpoint.load(path)
    assert state.steps == 4 and len(lines) == 2
    if quantiser == "vector":  # so few steps leave the moving means of a codebook near 0
        Checkpoint.new(state.shape).save(path)
    words = [str(path), "--domain", "test-tiny", "--pack", str(pack), "--out", str(new)]
    assert command.main(["convert", *words]) == 0
    prior = load_prior(new)
    assert prior.kind == "autoencoder" and prior.analysis is not None
    assert prior.latents is not None and prior.latents.is_vector == (quantiser == "vector")
    assert prior.digest in capsys.readouterr().out
    card = (new / README).read_text()
    assert prior.digest in card and "| synthetic-0 |" in card
    assert command.main(["convert", *words]) == 1
    assert "exists already" in capsys.readouterr().err


def test_tables_know_what_is_near_and_what_is_rare() -> None:
    """Latents that repeat their left neighbour are expected to; the spread is what is left."""
    rng = np.random.default_rng(1)
    steps = rng.normal(0, 0.1, (4, 24, 24, 2))
    seen = Seen([np.cumsum(steps, axis=2)])
    tables = scalar_tables(seen, np.array([0.05, 0.1]))
    left = tables["weights"][0, :2] / 65536
    assert left[0] == pytest.approx(1.0, abs=0.15)
    middle = tables["cumulative"].shape[2] // 2
    inside = tables["cumulative"][0, 1, middle + 10] - tables["cumulative"][0, 1, middle - 10]
    assert inside > 0.9 * (1 << 24)  # within 0.3 units
    assert tables["cumulative"][0, 1, middle - 64] > 0  # tails for what was not seen


@pytest.mark.parametrize("name", sorted(installed_autoencoders()))
def test_shipped_autoencoders_have_not_seen_what_is_held_out(name: str) -> None:
    prior = load_prior(name)
    domain = name.rsplit("-", 1)[0]
    facts = prior.metadata["training"]
    trained, held_out = facts["training_volumes"], facts["held_out_volumes"]
    assert trained and held_out and not set(trained) & set(held_out)
    patterns = Recipe.load(domain).held_out
    assert not [v for v in trained for pattern in patterns if pattern in v]
    posterior = load_prior(f"{domain}-posterior").metadata["training"]
    if domain != "test-tiny":
        assert f"{domain}-posterior" in installed_posteriors()
        assert set(held_out) == set(posterior["held_out_volumes"])
        assert set(trained) == set(posterior["training_volumes"])
    card = (installed_autoencoders()[name].folder / README).read_text("utf-8")
    assert prior.digest in card and all(volume in card for volume in held_out)


def test_training_sees_the_training_side_alone(pack: Path) -> None:
    sampler = training_sampler(pack, "test-tiny", shape_of("test-tiny", "scalar"), seed=0)
    names = {v.name for v in read_pack(training_file(pack, "test-tiny"))}
    assert {v.name for v in sampler.volumes} == names
