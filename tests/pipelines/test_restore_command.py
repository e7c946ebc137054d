"""What restoring may cost, and what verify and restore tell a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from pipelines.cli import app
from psc_volumetric.archive.reader import ArchiveReader


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    values = np.random.default_rng(0).integers(0, 900, (20, 16, 12), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "a.nii")
    target = folder / "a.psc.zarr"
    archive(plan(folder / "a.nii", str(target), ArchiveOptions(coders="zstd")))
    return target


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def needed(sealed: Path) -> int:
    """Bytes of the bricks and headers of an archive."""
    with ArchiveReader.open(sealed) as reader:
        entries = {**reader.manifest.under("image/c/"), **reader.manifest.under("source/")}
    return sum(entry.size for entry in entries.values())


def test_restoring_may_cost_so_many_bytes(sealed: Path, tmp_path: Path) -> None:
    most = needed(sealed)
    refused = run("restore", sealed, tmp_path / "a.nii", "--max-bytes-read", most - 1)
    assert refused.exit_code == 4 and "error[quota]" in refused.output
    assert not list(tmp_path.iterdir())
    assert run("restore", sealed, tmp_path / "a.nii", "--max-bytes-read", most).exit_code == 0
    part = ("restore", sealed, tmp_path / "b.nii", "--roi", "z=0:2", "--max-bytes-read")
    assert run(*part, most).exit_code == 0


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--max-seconds", "1e-9", 4),
        ("--max-seconds", "600", 0),
        ("--max-evaluations", "1", 0),
        ("--max-bytes-read", "0", 2),
        ("--max-seconds", "-1", 2),
    ],
)
def test_restoring_may_take_so_long(
    sealed: Path, tmp_path: Path, option: str, value: str, code: int
) -> None:
    done = run("restore", sealed, tmp_path / "a.nii", option, value)
    assert done.exit_code == code, done.output
    assert len(list(tmp_path.iterdir())) == (code == 0)


def told(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_verify_and_restore_log_for_programs(sealed: Path, tmp_path: Path) -> None:
    checked = run("verify", sealed, "--log-json")
    assert [row["event"] for row in told(checked)] == ["run-begin", "archive-checked", "run-end"]
    assert told(checked)[1]["outcome"] == "ok"
    restored = run("restore", sealed, tmp_path / "a.nii", "--log-json", "--json")
    begin, end = told(restored)
    assert (begin["command"], end["outcome"], end["files"]) == ("restore", "ok", 1)
    assert json.loads(restored.stdout)["kind"] == "nifti"
    failed = run("restore", sealed, tmp_path / "a.nii", "--log-json")
    assert [row["event"] for row in told(failed)] == ["run-begin", "run-end", "error"]
    assert told(failed)[1]["error"] == told(failed)[2]["kind"] == "target-exists"
