"""Runs on schedule: a bad file fails one run, and logs for many to read name no file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.archive import archive_folder
from flows.records import Intake, ItemsFailedError
from pipelines.archiving.archive import ArchiveOptions
from pipelines.checking.status import status_of
from pipelines.commands.failures import EXIT_INCOMPLETE

QUICK = ArchiveOptions(coders="zstd")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def inbox(scans: Path, tmp_path: Path) -> Path:
    """A label map, and two files that are cut: one has no whole header."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    whole = (scans / "anatomical.nii").read_bytes()
    (folder / "jane-doe.nii").write_bytes(whole[: len(whole) // 2])
    (folder / "john-roe.nii").write_bytes(whole[:300])
    shutil.copy(scans / "labels.nii", folder)
    return folder


def test_bad_files_fail_one_run_and_their_neighbours_are_archived(
    inbox: Path, scans: Path, tmp_path: Path
) -> None:
    target = str(tmp_path / "out")
    with pytest.raises(ItemsFailedError) as caught:
        archive_folder(str(inbox), target, QUICK)
    report = caught.value.report
    assert (report.count("archived"), report.count("failed")) == (1, 2)
    names = sorted((tmp_path / "out.names").iterdir())
    report = archive_folder(str(inbox), target, QUICK)
    assert (report.count("already-archived"), report.count("aside")) == (1, 2)
    assert sorted((tmp_path / "out.names").iterdir()) == names  # nothing to do, nothing to tell
    found = status_of(target)
    assert len(found.refused) == 2
    assert found.last_run is not None
    assert (found.last_run["outcome"], found.last_run["aside"]) == ("ok", 2)
    with pytest.raises(ItemsFailedError):
        archive_folder(str(inbox), target, QUICK, Intake(retry_refused=True))
    shutil.copy(scans / "anatomical.nii", inbox / "jane-doe.nii")
    report = archive_folder(str(inbox), target, QUICK)
    assert (report.count("archived"), report.count("aside")) == (1, 1)
    assert len(status_of(target).refused) == 1


def test_a_bad_file_alone_is_told_too(inbox: Path, tmp_path: Path) -> None:
    (inbox / "labels.nii").unlink()
    (inbox / "jane-doe.nii").unlink()
    with pytest.raises(ItemsFailedError):
        archive_folder(str(inbox), str(tmp_path / "out"), QUICK)
    assert archive_folder(str(inbox), str(tmp_path / "out"), QUICK).count("aside") == 1


def test_log_lines_and_metrics_of_a_flow_name_no_file(inbox: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "psc.prom"
    words = [sys.executable, "-m", "flows", "archive", str(inbox), str(tmp_path / "out")]
    words += ["--coders", "zstd", "--log-json", "--metrics", str(metrics)]
    done = subprocess.run(
        words, env=os.environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == EXIT_INCOMPLETE, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    items = [line for line in told if line.get("event") == "item"]
    assert sorted(item["number"] for item in items) == [1, 2, 3]
    assert sorted(item["state"] for item in items) == ["archived", "failed", "failed"]
    (end,) = [line for line in told if line.get("event") == "run-end"]
    assert (end["archived"], end["failed"], end["exit_code"]) == (1, 2, EXIT_INCOMPLETE)
    names = ("jane-doe", "john-roe", "labels", str(inbox), str(tmp_path))
    assert not [name for name in names if name in done.stderr]
    families = {f.name: f for f in text_string_to_metric_families(metrics.read_text("utf-8"))}
    states = {s.labels["state"]: s.value for s in families["psc_archive_items"].samples}
    assert (states["archived"], states["failed"]) == (1, 2)
    assert not [name for name in names if name in metrics.read_text("utf-8")]
