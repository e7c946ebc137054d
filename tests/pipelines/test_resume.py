"""A run that is killed continues where it stopped and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

Run = Callable[..., Any]

NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"
FRAMES = 6
LIMIT_S = 120.0


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A 4-D image with one brick per time point."""
    original = nibabel.load(NIBABEL_FILES / "functional.nii")
    stored = np.asanyarray(original.dataobj.get_unscaled())
    image = nibabel.Nifti1Image(stored[..., :FRAMES], original.affine)
    path = tmp_path / "series.nii"
    nibabel.save(image, path)
    return path


def contents(archive: Path) -> dict[str, bytes]:
    files = (path for path in archive.rglob("*") if path.is_file())
    return {path.relative_to(archive).as_posix(): path.read_bytes() for path in files}


def journal(archive: Path) -> list[Path]:
    return list((archive / "partial" / "image").glob("*.json"))


def start(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """A shell that runs the tests in the background makes its children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for_bricks(process: subprocess.Popen[bytes], archive: Path, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(journal(archive)) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_run_continues_to_the_same_bytes(series, tmp_path, run, coded, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    broken, whole = tmp_path / "broken.psc.zarr", tmp_path / "whole.psc.zarr"
    process = start("archive", series, broken, *coded)
    wait_for_bricks(process, broken, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert not (broken / "manifest.json").exists()
    assert run("info", broken).code == 4
    resumed = run("archive", series, broken, *coded, "--json")
    assert resumed.code == 0, resumed.err
    report = resumed.document["archives"][0]
    assert report["bricks"] == FRAMES
    assert 2 <= report["resumed"] < FRAMES
    assert run("archive", series, whole, *coded).code == 0
    assert contents(broken) == contents(whole)


def test_interrupt_ends_with_130_and_says_how_to_continue(series, tmp_path, run, coded):
    target = tmp_path / "x.psc.zarr"
    process = start("archive", series, target, *coded)
    wait_for_bricks(process, target, 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    lines = err.decode().splitlines()
    assert lines[0].startswith("error[interrupted]")
    assert any("run the same command again" in line for line in lines[1:])
    assert not (target / "manifest.json").exists()
    # other settings do not mix with an unfinished archive
    outcome = run("archive", series, target, *coded, "--step", "0.25")
    assert outcome.code == 6
    assert "error[partial-differs]" in outcome.err


def test_folder_run_passes_over_what_is_sealed(label_map, tmp_path, run):
    folder, target = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.nii", "b.nii"):
        (folder / name).write_bytes(label_map.read_bytes())
    options = ("--mode", "lossy", "--base", "wavelet", "--coders", "zstd")
    assert run("archive", folder / "a.nii", target, *options).code == 0
    before = contents(target / "a.psc.zarr")
    outcome = run("archive", folder, target, *options, "--json")
    assert outcome.code == 0, outcome.err
    assert [r["name"] for r in outcome.document["archives"]] == ["b.nii"]
    assert contents(target / "a.psc.zarr") == before
    again = run("archive", folder, target, *options)
    assert again.code == 0, again.err
    assert [line.split()[0] for line in again.out.splitlines()] == ["already", "already"]
