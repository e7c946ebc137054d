"""Reading and exact archiving need the core alone: no torch, no Prefect, no Dask."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from core_environment import core_names, make_core_environment

from pipelines.archive import ArchiveOptions, archive, plan

PROGRAM = Path(__file__).parent / "core_program.py"
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_core_environment(tmp_path_factory.mktemp("core"), wheel)


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive made here, where torch is, with the smallest prior."""
    folder = tmp_path_factory.mktemp("coded")
    values = np.arange(64 * 64 * 8, dtype=np.int16).reshape(64, 64, 8) % 997
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "scan.nii")
    options = ArchiveOptions(mode="lossy", base="psc", prior="test-tiny", effort=1)
    target = folder / "scan.psc.zarr"
    archive(plan(folder / "scan.nii", str(target), options))
    return target


@pytest.fixture(scope="module")
def found(core: Path, coded: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = run(tmp_path_factory.mktemp("work"), core, PROGRAM, coded)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_core_is_small(wheel: Path) -> None:
    names = core_names(wheel)
    assert {"numpy", "zarr", "xarray", "typer", "pydicom"} <= names
    assert not names & {"torch", "monai", "prefect", "dask", "distributed", "s3fs", "matplotlib"}
    assert len(names) < 50


def test_nothing_of_the_extras_is_importable(found: Any) -> None:
    assert found["importable"] == []


def test_archives_are_made_verified_and_restored(found: Any) -> None:
    assert found["made"] == ["lossless"]
    assert found["verified"] == [True, True]
    assert found["restored"] == ["identical"]
    assert found["identical"]


def test_archives_are_read_by_xarray_zarr_info_and_ls(found: Any) -> None:
    assert found["xarray"] and found["zarr"]
    assert list(found["info"]) == ["av1"]
    assert found["ls"] == ["exact.psc.zarr", "lossy.psc.zarr"]


def test_auto_decides_without_the_prior_and_says_so_once(found: Any) -> None:
    plan = found["plan"]
    assert plan["items"][0]["prior"] is None
    assert [note.split("'")[1] for note in plan["notes"]] == ["prior", "av1"]


def test_what_takes_an_extra_says_which(found: Any) -> None:
    code, out, err = found["refused"]
    assert (code, out) == (9, "")
    assert err.startswith("error[extra-missing]: ")
    assert "pip install 'psc-archive[prior]'" in err


def test_bricks_of_a_prior_are_listed_and_checked_but_not_decoded(found: Any) -> None:
    steps = found["coded by a prior"]
    assert (steps["info"], steps["verify"]) == (0, 0)
    code, out, err = steps["verify --deep"]
    assert (code, err) == (9, "")
    assert "no damage in" in out and "read and compared" in out
    assert "not checked[extra-missing]" in out and "pip install 'psc-archive[prior]'" in out
    code, out, err = steps["restore"]
    assert code == 9
    assert "damage" not in out + err and "pip install 'psc-archive[prior]'" in err


def test_doctor_lists_what_is_missing_and_is_content(found: Any) -> None:
    assert found["doctor"]["healthy"]
    missing = {c["name"] for c in found["doctor"]["checks"] if c["state"] == "warning"}
    assert {f"extra {name}" for name in ("prior", "train", "flows", "av1", "s3")} <= missing


@pytest.mark.parametrize("words", [(), ("archive",), ("restore",), ("prior", "train")])
def test_help_and_version_work(words: tuple[str, ...], core: Path, tmp_path: Path) -> None:
    program = core.with_name("psc-archive")
    done = run(tmp_path, program, *words, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: psc-archive" in done.stdout
    assert run(tmp_path, program, "--version").stdout.startswith("psc-archive ")
