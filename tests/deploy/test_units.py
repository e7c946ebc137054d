"""Units of systemd and the Slurm script: their commands run, and systemd takes the units."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.cli import main

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service")) + sorted(
    (DEPLOY / "systemd").glob("*.timer")
)
PROGRAM = "/opt/psc-archive/bin/psc-archive"


def settings(unit: Path) -> dict[str, str]:
    lines = (line for line in unit.read_text().splitlines() if "=" in line and line[0] not in "#;")
    return dict(line.split("=", 1) for line in lines)


def command(unit: Path, environment: dict[str, str]) -> list[str]:
    """Words of ``ExecStart`` as systemd makes them, without the program."""
    program, *words = shlex.split(settings(unit)["ExecStart"])
    assert program == PROGRAM
    found: list[str] = []
    for word in words:
        split = re.fullmatch(r"\$(\w+)", word)
        if split:
            found += environment[split[1]].split()
        else:
            found.append(re.sub(r"\$\{(\w+)\}", lambda name: environment[name[1]], word))
    return found


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment file with folders of this test."""
    found = settings(DEPLOY / "systemd" / "psc-archive.env")
    folders = {"PSC_SOURCE": "in", "PSC_TARGET": "srv/out", "STATE_DIRECTORY": "state"}
    found |= {name: str(tmp_path / folder) for name, folder in folders.items()}
    for folder in ("in", "srv", "state"):
        (tmp_path / folder).mkdir()
    volume = np.arange(4 * 16 * 16, dtype=np.int16).reshape(16, 16, 4)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "a.nii")
    return found


def test_a_night_without_prefect(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archive, then scrub, as the two timers do; again the next night."""
    environment["PSC_OPTIONS"] += " --coders zstd"
    monkeypatch.setenv("PSC_ARCHIVE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in" / "bad.nii").write_bytes((tmp_path / "in" / "a.nii").read_bytes()[:360])
    ends, before = iter((8, 0, 0, 0, 0, 0)), files_in(tmp_path)
    for name in ("psc-archive", "psc-archive-scrub", "psc-archive", "psc-archive-scrub"):
        words = command(DEPLOY / "systemd" / f"{name}.service", environment)
        runs = [words]
        if (
            name == "psc-archive-scrub"
        ):  # which night the only archive has its turn depends on the day
            assert "today/7" in words
            runs.append(["1/1" if word == "today/7" else word for word in words])
        for run in runs:
            with pytest.raises(SystemExit) as ended:
                main(run)
            assert ended.value.code == next(ends), run
    assert (tmp_path / "srv" / "out" / "a.psc.zarr" / "manifest.json").is_file()
    log = (tmp_path / "srv" / "out.events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log].count("archive") == 2
    # with ProtectSystem=strict nothing else may be written
    writable = settings(DEPLOY / "systemd" / "psc-archive.service")["ReadWritePaths"]
    assert writable == "/srv"
    allowed = [tmp_path / name for name in ("srv", "cache", "state")]
    for path in files_in(tmp_path) - before:
        assert any(path.is_relative_to(folder) for folder in allowed), path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("psc-archive")
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, str(program))
        (tmp_path / unit.name).write_text(text.replace("EnvironmentFile=", "EnvironmentFile=-"))
    made = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *made],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "psc-archive" in line]
    assert done.returncode == 0 and not said, done.stderr


def test_the_slurm_script_is_sound(environment: dict[str, str]) -> None:
    """It runs the same command, and puts itself into the queue again when it was told to stop."""
    script = DEPLOY / "slurm" / "archive.sbatch"
    stub = 'srun() { echo "srun $*"; return 143; }; scontrol() { echo "scontrol $*"; }; . "$0"'
    done = subprocess.run(
        ["bash", "-c", stub, script],
        env={**os.environ, **environment, "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 143
    ran, queued = done.stdout.splitlines()
    source, target = environment["PSC_SOURCE"], environment["PSC_TARGET"]
    options = "--mode lossless --inbox --quiet --log-json"
    assert ran == f"srun psc-archive archive {source} {target} {options}"
    assert queued == "scontrol requeue 7"
