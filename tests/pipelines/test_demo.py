"""The demo and prior training, end to end; minutes on a slow machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import pytest

from pipelines.demo import demo

Run = Callable[..., Any]

NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"


@pytest.mark.slow
def test_demo_restores_what_xarray_shows_and_draws_it(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "OPTIONS", replace(demo.OPTIONS, prior="test-tiny", effort=1))
    lines = demo.run_demo(tmp_path / "out")
    wholes = [line for line in lines if line.seconds is not None]
    assert len(wholes) >= 3
    assert all(line.nbytes > 0 and line.psnr_db > 10 for line in wholes)
    assert (tmp_path / "out" / "demo.png").read_bytes()[:4] == b"\x89PNG"
    assert demo.run_demo(tmp_path / "out") is not None


@pytest.mark.slow
def test_trained_prior_codes_and_decodes(tmp_path, run):
    folder = tmp_path / "own"
    source = NIBABEL_FILES / "example4d.nii.gz"
    outcome = run(
        "prior", "train", "test-tiny", source, "--out", folder, "--minutes", "0.05", "--json"
    )
    assert outcome.code == 0, outcome.err
    digest = outcome.document["digest"]
    archive = tmp_path / "x.psc.zarr"
    small = NIBABEL_FILES / "anatomical.nii"
    words = ["--mode", "lossy", "--effort", "1", "--base", "psc", "--prior", folder]
    assert run("archive", small, archive, *words).code == 0
    assert run("info", archive, "--json").document["priors"] == [digest]
    again = run("prior", "train", "test-tiny", source, "--out", folder)
    assert again.code == 6
    assert run("prior", "train", "no-such-recipe", source, "--out", tmp_path / "z").code == 2
