"""A flow that is told to stop ends at once, says so, and the next run continues."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from flows.archive import archive_folder
from pipelines.archiving.archive import ArchiveOptions
from pipelines.checking.status import status_of
from pipelines.commands.failures import EXIT_TERMINATED

pytestmark = pytest.mark.usefixtures("prefect_server")


def children_of(process: int) -> set[int]:
    """Processes that a process has started, and those that they have."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_sigterm_ends_a_flow_and_its_children_and_loses_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    noise = np.random.default_rng(7).integers(0, 4096, (64, 64, 8, 60), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), source / "series.nii")
    words = [sys.executable, "-m", "flows", "archive", str(source), str(target)]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen([*words, "--coders", "zstd"], stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 120
        while len(list(target.glob("*.psc.zarr/*/c/*/*/*/*"))) < 3:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        children = children_of(run.pid)
        assert children
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) == EXIT_TERMINATED, (tmp_path / "log").read_text("utf-8")
    finally:
        run.kill()
        run.wait(timeout=30)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "children were left behind"
        time.sleep(0.2)
    with get_client(sync_client=True) as client:
        states = [
            r.state_type for r in client.read_flow_runs() if r.parameters["target"] == str(target)
        ]
    assert states == [StateType.CRASHED]
    found = status_of(str(target))
    assert found.last_run is not None
    assert (found.last_run["error"], found.unfinished) == ("stopped", ("series.psc.zarr",))
    report = archive_folder(str(source), str(target), ArchiveOptions(coders="zstd"))
    (item,) = report.items
    assert item.report is not None and item.report.resumed >= 3
