"""An archive with its specification says where what belongs to it is, and has it there."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

LOSSY = (
    "--mode",
    "lossy",
    "--step",
    "0.3",
    "--effort",
    "1",
    "--base",
    "psc",
    "--prior",
    "test-tiny",
)


@pytest.mark.parametrize(
    ("words", "has_prior"), [(("--coders", "fast"), False), (LOSSY, True)], ids=["exact", "prior"]
)
def test_the_readme_names_the_folders_of_networks(
    run, tmp_path: Path, words: tuple[str, ...], has_prior: bool
) -> None:
    values = np.random.default_rng(5).integers(0, 900, (40, 36, 6), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    target = tmp_path / "scan.psc.zarr"
    assert run("archive", tmp_path / "scan.nii", target, *words, "--self-contained").code == 0
    text = " ".join((target / "README.txt").read_text().split())
    assert "networks of its exact coders are in specification/;" in text
    assert (target / "specification" / "networks.safetensors").is_file()
    assert "are in priors/ where bricks need one" in text
    assert (target / "priors").exists() is has_prior
    assert set(re.findall(r"([a-z]+)/", text)) == {"source", "specification", "priors"}
