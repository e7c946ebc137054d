"""PSC over a folder: separate and simulated runs agree; views are labelled; networks of others."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipelines.development import psc_folder
from pipelines.evaluation.learned import LPIPS, frechet_distance
from psc_volumetric.errors import NumericalError, ParameterError, StorageError

SETTING = ["--num-samples", "8", "--rank", "3", "--iters", "2", "--steps", "2", "--prior"]


class Pictures(torch.nn.Module):
    """Called as the networks of the StyleGAN authors are: means of four parts of a picture."""

    def forward(
        self,
        x: torch.Tensor,
        resize_images: bool = False,
        return_lpips: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x[:, :1], 2).flatten(1) / 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("volumes")
    z, y, x = np.indices((9, 40, 70))
    values = 400 + 300 * np.sin(x / 9) * np.cos(y / 7) + 40 * z
    values += np.random.default_rng(0).normal(0, 15, values.shape)
    image = nibabel.Nifti1Image(values.T.astype("<i2"), np.eye(4))
    nibabel.save(image, place / "one.nii")
    return place


def run(*words: object) -> str:
    app = psc_folder.typer.Typer()
    app.command()(psc_folder.main)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.slow
def test_separate_and_simulated_runs_give_the_same(folder, tmp_path):
    network = tmp_path / "network.pt"
    torch.jit.script(Pictures()).save(str(network))
    said = run(folder, tmp_path / "one", *SETTING, "test-tiny", "--views", "mean,sample",
               "--lpips-network", network, "--fid-network", network)  # fmt: skip
    assert "Decompressing gave the encoder's values for every crop." in said
    assert "not measured" not in said
    short = run(folder, tmp_path / "two", *SETTING, "test-tiny", "--simulate")
    assert "LPIPS was not measured" in short
    assert "--fid-network FILE" in short
    mean, sample = json.loads((tmp_path / "one/results.json").read_text())
    (simulated,) = json.loads((tmp_path / "two/results.json").read_text())
    for name in ("nbytes", "bpv", "psnr_db", "swd", "spectrum_db", "evaluations"):
        assert mean[name] == simulated[name] == pytest.approx(mean[name])
    (stream,) = (tmp_path / "one").glob("*.psc")
    assert mean["nbytes"] == sample["nbytes"] == stream.stat().st_size
    assert sample["contradictions"] == 0
    assert sample["label"] == "generated detail (view sample, seed 0)"
    (drawn,) = (tmp_path / "one").glob("*.sample.nii.gz")
    assert b"generated detail" in nibabel.load(drawn).header["descrip"].tobytes()
    assert sample["lpips"] > 0


@pytest.mark.slow
def test_a_latent_prior_is_told_a_prompt(folder, tmp_path):
    words = [*SETTING, "test-tiny-latent", "--prompt", "head", "--views", "mean,pigdm"]
    said = run(folder, tmp_path / "one", *words)
    assert "Decompressing gave the encoder's values for every crop." in said
    mean, drawn = json.loads((tmp_path / "one/results.json").read_text())
    assert mean["nbytes"] == drawn["nbytes"] and mean["psnr_db"] != drawn["psnr_db"]
    assert drawn["label"] == "generated detail (view pigdm, seed 0)"
    run(folder, tmp_path / "two", *words[:-2], "--simulate")
    (simulated,) = json.loads((tmp_path / "two/results.json").read_text())
    assert simulated["psnr_db"] == pytest.approx(mean["psnr_db"])


def test_two_stages_simulated_and_separate_give_the_same(folder, tmp_path):
    words = (folder, tmp_path / "one", "--fast", "2", "--size", "32", "--prior", "test-tiny-vae")
    said = run(*words, "--views", "mean,refined", "--places", "2")
    assert "Decompressing gave the encoder's values for every crop." in said
    rows = json.loads((tmp_path / "one/results.json").read_text())
    again = run(folder, tmp_path / "two", *words[2:], "--places", "2", "--simulate")
    assert again.count("| mean | 2 |") == 1
    simulated = json.loads((tmp_path / "two/results.json").read_text())
    means = [row for row in rows if row["view"] == "mean"]
    for name in ("crop", "nbytes", "psnr_db", "swd", "evaluations"):
        assert [row[name] for row in means] == [row[name] for row in simulated]
    assert means[0]["psnr_db"] != means[1]["psnr_db"]  # two places
    drawn = [row for row in rows if row["view"] == "refined"]
    assert {row["evaluations"] for row in drawn} == {21 * means[0]["evaluations"]}


def test_a_file_that_is_no_network_is_refused(tmp_path):
    wrong = tmp_path / "weights.pth"
    wrong.write_bytes(b"\x80\x04N.")
    with pytest.raises(ParameterError, match="TorchScript") as caught:
        LPIPS.features(wrong, np.zeros((1, 64, 64)), 0.0, 1.0)
    assert caught.value.kind == "bad-network"


def test_frechet_distance_of_normal_features_is_known():
    rng = np.random.default_rng(1)
    first = rng.normal(0, 1, (20000, 3))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, first + 2) == pytest.approx(12, abs=1e-6)
    assert frechet_distance(first, 3 * first) == pytest.approx(12, rel=0.1)


def test_streams_are_restored_by_a_later_run(folder, tmp_path):
    words = (folder, tmp_path / "out", *SETTING, "test-tiny", "--views", "mean")
    assert "bytes" in run(*words, "--compress-only")
    assert not (tmp_path / "out/results.json").exists()
    assert "Decompressing gave" in run(*words)
    (noted,) = (tmp_path / "out").glob("one*.json")
    noted.write_text(noted.read_text().replace('"values": "', '"values": "0'))
    with pytest.raises(NumericalError, match="other values"):
        run(*words)
    with pytest.raises(StorageError, match="expected a stream"):
        run(*words, "--iters", "3")
