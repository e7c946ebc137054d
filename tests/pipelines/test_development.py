"""Tools of developers: each says what it takes, and only one of them does without typer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipelines.development.posterior_pictures import coded_pictures, draw

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("psc_volumetric", "adapters", "pipelines", "flows")
TOOLS = {
    "pipelines.development.ablate": ("--tiles", "--only"),
    "pipelines.development.benchmark": ("--threads",),
    "pipelines.development.benchmark_reading": ("--slices", "--readers"),
    "pipelines.development.benchmark_view": ("ARCHIVE",),
    "pipelines.development.coverage": ("--every", "auto|psc|av1|wavelet|posterior"),
    "pipelines.development.fit_scales": ("RECIPE=FOLDER",),
    "pipelines.development.measure_bases": ("--bases", "--max-error"),
    "pipelines.development.measure_reference": ("--bounds", "--crop"),
    "pipelines.development.paper_setting": ("--ddrm-steps", "--weights"),
    "pipelines.development.parity": ("--weights", "1..9"),
    "pipelines.development.posterior_gain": ("--depth", "--prior"),
    "pipelines.development.posterior_pictures": ("--bpv", "--plane"),
    "pipelines.development.readme_pictures": ("--bpv", "--folder"),
    "pipelines.development.report_picture": ("--bpv", "--out"),
    "pipelines.development.view_picture": ("--out", "one volume"),
    "psc_volumetric.conformance.regenerate": ("--target",),
}


@pytest.mark.parametrize("name", TOOLS)
def test_help_of_a_tool_names_its_options(name: str) -> None:
    module = importlib.import_module(name)
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command()(module.print_table if name.endswith("benchmark") else module.main)
    outcome = CliRunner().invoke(app, ["--help"])
    assert outcome.exit_code == 0
    assert all(word in outcome.stdout for word in TOOLS[name])


def test_argparse_is_left_to_the_program_for_training_machines() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "import argparse" in path.read_text("utf-8")
    ]
    assert users == ["pipelines/training/posterior/__main__.py"]


@pytest.mark.slow
def test_pictures_of_a_slice_are_all_at_the_rate(sources, tmp_path) -> None:
    pictures = coded_pictures(sources["nifti"], (0.8,), "test-tiny-posterior")
    names, rates = zip(*(p.title.split(", ")[:2] for p in pictures[1:]), strict=True)
    assert names == ("AV1", "wavelet", "posterior")
    assert all(float(rate.split()[0]) == pytest.approx(0.8, rel=0.25) for rate in rates)
    assert len({p.values.shape for p in pictures}) == 1
    draw(pictures, 3, tmp_path / "one.png", lambda picture: picture.values[0].astype(float))
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
