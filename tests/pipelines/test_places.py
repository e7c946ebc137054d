"""Places as people name them: the folder one is in, its parent, nothing, half an address."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archiving.locking import lock_path
from pipelines.checking.event_log import EventLog
from psc_volumetric.archive.companions import companion_name
from psc_volumetric.errors import ParameterError


def run(folder: Path, *words: str) -> tuple[int, dict[str, object], str]:
    """Exit code, the document on stdout, and stderr of a command that runs in a folder."""
    command = [sys.executable, "-m", "pipelines.cli", *words, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    image = nibabel.Nifti1Image(np.arange(336, dtype=np.int16).reshape(6, 7, 8), np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii")
    return folder


def test_folder_that_one_is_in_is_a_target_as_any(here: Path, tmp_path: Path) -> None:
    code, _, _ = run(here, "archive", "../scan.nii", ".", "--coders", "zstd")
    assert code == 0
    assert [path.name for path in here.iterdir()] == ["scan.psc.zarr"]
    assert (tmp_path / "archives.events.jsonl").exists()
    for place in (".", "../archives", str(here)):
        code, found, _ = run(here, "status", place)
        assert code == 0 and found["archives"] == 1
        assert found["last_run"] is not None


def test_names_of_here_and_above_are_those_of_the_folders(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    assert lock_path(".") == lock_path("../archives/") == lock_path(str(here))
    assert lock_path("..") == tmp_path.with_name(tmp_path.name + ".lock")
    assert EventLog.of(".").path == EventLog.of(str(here)).path
    assert EventLog.of("..").path == EventLog.of(f"file://{tmp_path}").path
    assert companion_name(".", ".sig") == f"{here}.sig"
    for make in (lock_path, EventLog.of):
        with pytest.raises(ParameterError) as caught:
            make("/")
        assert caught.value.kind == "no-place"


@pytest.mark.parametrize(
    "words",
    [
        ("archive", "", "out/"),
        ("archive", "../scan.nii", ""),
        ("archive", "../scan.nii", "s3://"),
        ("archive", "../scan.nii", "s3:/bucket/volumes"),
        ("sync", "", "copies"),
        ("sync", "https:/example.org/x.psc.zarr", "copies"),
        ("scrub", ""),
        ("verify", "file:"),
        ("evaluate", "../scan.nii", ""),
    ],
)
def test_nothing_and_half_an_address_are_no_places(here: Path, words: tuple[str, ...]) -> None:
    code, found, said = run(here, *words)
    assert code == 2 and found["error"]["kind"] == "usage"  # type: ignore[index]
    assert "expected a" in said and "found" in said
    assert not any(here.iterdir())


def test_scrub_of_a_place_that_is_mistyped_makes_no_folders(here: Path, tmp_path: Path) -> None:
    code, found, _ = run(here, "scrub", "nowhere/at/all.psc.zarr")
    assert code == 6 and found["error"]["kind"] == "not-found"  # type: ignore[index]
    assert not any(here.iterdir())
