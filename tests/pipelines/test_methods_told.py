"""Which method, coder and network bricks have, and why: in plans, reports of archiving and info."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.checking.info import archive_info, info_lines

KEPT = Path(__file__).parents[1] / "archives" / "v1"
LOSSY = ("--mode", "lossy", "--step")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii"
    z, y, x = np.indices((12, 48, 40))
    values = 500 + 200 * np.sin(x / 7 + z / 3) * np.cos(y / 9)
    values += np.random.default_rng(0).normal(0, 9, values.shape)
    nibabel.save(nibabel.Nifti1Image(np.rint(values).astype(np.int16).T, np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("posterior", ("1 posterior", "posterior was asked for", "priors    none")),
        ("foresight", ("1 foresight", "foresight was asked for", "(test-tiny-posterior)")),
        ("neural", ("1 none+bounded:neural+lossless:zstd",)),
    ],
)
def test_info_says_method_coder_network_and_why(name: str, said: tuple[str, ...]) -> None:
    info = archive_info(str(KEPT / f"image-{name}.psc.zarr.zip"))
    text = "\n".join(info_lines(info))
    assert all(part in text for part in said), text
    assert set(info["prior_names"]) <= set(info["priors"]) and not info["priors_outside"]


def test_info_of_an_archive_that_records_odd_options_is_shown() -> None:
    info = archive_info(str(KEPT / "image-posterior.psc.zarr.zip"))
    for options in (None, [], "base", {"base": ["posterior"]}):
        info["provenance"]["options"] = options
        assert "1 posterior" in "\n".join(info_lines(info))


@pytest.mark.parametrize(
    ("base", "planned", "done"),
    [
        ("auto", "base auto, the best method of each brick", "(chosen by bytes at equal error: "),
        ("wavelet", "base wavelet", "1 wavelet"),
    ],
)
def test_plan_and_report_say_the_method(
    scan: Path, run, tmp_path: Path, base: str, planned: str, done: str
) -> None:
    words = ("archive", scan, tmp_path / "x.psc.zarr", *LOSSY, "2", "--base", base)
    assert planned in run(*words, "--dry-run").out
    outcome = run(*words)
    assert outcome.code == 0, outcome.err
    assert "bricks by method and coder: 1 " in outcome.out
    assert done in outcome.out


@pytest.mark.parametrize(("step", "is_inside"), [("4", False), ("0.2", True)])
def test_a_prior_is_told_where_it_is_in_the_archive_and_nowhere_else(
    scan: Path, run, tmp_path: Path, step: str, is_inside: bool
) -> None:
    target = tmp_path / "x.psc.zarr"
    words = ("--base", "posterior", "--prior", "test-tiny-posterior")
    outcome = run("archive", scan, target, *LOSSY, step, *words, "--json")
    (report,) = outcome.document["archives"]
    assert bool(archive_info(str(target))["priors"]) is is_inside
    assert report["prior"] == ("test-tiny-posterior" if is_inside else None)
    assert any("no brick needs the prior" in note for note in report["notes"]) is not is_inside
