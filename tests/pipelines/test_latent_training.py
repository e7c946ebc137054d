"""Training a latent prior: what is said of planes, and a folder that can be imported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.training.latents.data import PlaneSampler, prompts_of
from pipelines.training.latents.train import (
    EXTENT,
    held_out_db,
    text_of,
    train_autoencoder,
    train_network,
)
from pipelines.training.latents.words import HEAD_MERGES, PLACES, vocabulary
from pipelines.training.posterior.packs import Packed
from psc_volumetric.prior.making.latent_folder import load_latent_model
from psc_volumetric.prior.tokenizer import Tokenizer

NAMES = (
    "patient01_FLAIR",
    "patient01_T1W",
    "patient03_T2W",
    "nih_ge_epi_4d",
    "diff_mbep2d",
    "mr-1",
)


def sampler(plain: bool = False) -> PlaneSampler:
    z, y, x = np.indices((3, 70, 80)) / 80
    values = (0.4 + 0.3 * np.sin(9 * x) * np.cos(7 * y) + 0.1 * z).astype(np.float32)
    volumes = [Packed.of(name, values, 1024, isotropic=False) for name in NAMES]
    return PlaneSampler(volumes, "mr-head", EXTENT, seed=1, plain=plain)


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_fits_the_text_encoder(name: str) -> None:
    words = Tokenizer(list(vocabulary(HEAD_MERGES)), HEAD_MERGES, PLACES - 2)
    said = prompts_of(name)
    assert all(words.decode(words.encode(prompt)) for prompt in said)
    assert all("head" in prompt for prompt in said)


def test_planes_come_with_what_they_show() -> None:
    planes, said = sampler(plain=True).batch(6)
    assert planes.shape == (6, 1, EXTENT, EXTENT)
    assert set(said) <= {prompts_of(name)[0] for name in NAMES}


def test_a_folder_is_made_gone_on_with_and_read(tmp_path: Path) -> None:
    """One step of each network, twice; the importer reads what is there."""
    for steps in (1, 2):
        train_autoencoder(tmp_path, sampler(), 0.0, quiet)
        train_network(tmp_path, sampler(), 0.0, quiet, kept=8)
        record = json.loads((tmp_path / "training.json").read_text())
        assert {name: part["steps"] for name, part in record.items()} == {
            "vae": steps,
            "unet": steps,
        }
    planes = torch.from_numpy(sampler(plain=True).batch(2)[0])
    assert 0 < held_out_db(tmp_path, planes) < 40
    model = load_latent_model(tmp_path, 4)
    assert model.encoder is not None and model.prediction == "v"
    assert model.network.tile == EXTENT // 8
    told = text_of(tmp_path)
    assert not torch.equal(told("flair mri of the head"), told(""))
