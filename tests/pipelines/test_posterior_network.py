"""A posterior network from packs to a folder, and an archive coded with the method posterior."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archiving.options import choose_prior
from pipelines.training.posterior import __main__ as command
from pipelines.training.posterior.domains import ALL
from pipelines.training.posterior.train import Checkpoint
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import PriorMismatchError
from psc_volumetric.prior import installed_posteriors, load_prior

TINY = "test-tiny-posterior"


def blobs(shape: tuple[int, int, int] = (12, 60, 70)) -> np.ndarray:
    z, y, x = np.indices(shape)
    distance = np.sqrt(4.0 * (z - 5) ** 2 + (y - 30) ** 2 + (x - 33) ** 2)
    values = 700 / (1 + np.exp(distance - 18)) + np.random.default_rng(1).normal(20, 5, shape)
    return values.clip(0, 999).astype("<u2")


@pytest.mark.slow
def test_a_checkpoint_becomes_a_folder_that_codes(tmp_path: Path, capsys) -> None:
    pack, out, new = tmp_path / "pack", tmp_path / "out", tmp_path / "new"
    assert (
        command.main(
            ["pack", ".", "--pack", str(pack), "--domains", "test-tiny", "--voxels", "30000"]
        )
        == 0
    )
    domain = ALL["test-tiny"]
    Checkpoint.new(domain.shape, 0).save(out / "test-tiny.safetensors")
    words = [
        str(out / "test-tiny.safetensors"),
        "test-tiny",
        "--pack",
        str(pack),
        "--out",
        str(new),
    ]
    assert command.main(["convert", *words]) == 0
    prior = load_prior(new)
    assert prior.name == "test-tiny-2-posterior" and prior.kind == "posterior"
    assert prior.digest in capsys.readouterr().out
    card = (new / "docs" / "README.md").read_text()
    assert prior.digest in card and "| synthetic-0 |" in card
    costs = prior.metadata["training"]["held_out_db"]
    assert all(abs(c["float_db"] - c["integer_db"]) < 0.05 for c in costs)
    assert command.main(["convert", *words]) == 1
    assert "exists already" in capsys.readouterr().err


def test_an_archive_holds_the_network_and_decodes_with_it(tmp_path: Path, run) -> None:
    nibabel.save(nibabel.Nifti1Image(blobs().T, np.eye(4)), tmp_path / "scan.nii")
    target = tmp_path / "scan.psc.zarr"
    words = ("--mode", "lossy", "--base", "posterior", "--prior", TINY, "--step", "0.4")
    found = run("archive", tmp_path / "scan.nii", target, *words, "--json").document
    (row,) = found["archives"][0]["variables"]
    assert row["method"] == "posterior"
    digest = load_prior(TINY).digest
    assert (target / "priors" / digest / "models" / "integer.safetensors").is_file()
    with ArchiveReader.open(target) as reader:
        whole = reader.read("image")
        part = reader.read("image", (slice(2, 5), slice(10, 40), slice(0, 9)))
    assert np.array_equal(whole[2:5, 10:40, :9], part)
    assert run("verify", "--deep", target).code == 0


def test_each_base_has_priors_of_its_own() -> None:
    installed = ("ct-body", "mr-head", "mr-head-posterior")
    assert choose_prior(None, "mr-head", installed, "-posterior") == ("mr-head-posterior", None)
    name, note = choose_prior(None, "ct-body", installed, "-posterior")
    assert name == "mr-head-posterior" and note is not None and "ct-body-posterior" in note
    with pytest.raises(PriorMismatchError, match="mr-head-posterior"):
        choose_prior(None, None, installed[:2], "-posterior")


def test_the_list_of_priors_names_them(run) -> None:
    names = {row["name"] for row in run("prior", "list", "--json").document}
    assert set(installed_posteriors()) <= names
    assert run("prior", "inspect", TINY, "--json").document["kind"] == "posterior"
