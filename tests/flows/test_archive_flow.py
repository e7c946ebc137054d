"""The flow archives a folder of real files and gives the bytes that the pipelines give."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, TaskRun
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_dask import DaskTaskRunner
from typer.testing import CliRunner

from flows.__main__ import app
from flows.archive import archive_folder
from flows.dask_setup import slot_cluster
from flows.records import ItemsFailedError
from pipelines.archiving.archive import ArchiveOptions, archive, plan
from pipelines.commands.failures import EXIT_USAGE
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import ParameterError

OPTIONS = ArchiveOptions(mode="lossy", base="psc", effort=1, prior="test-tiny", device="cpu")
WITHOUT_NETWORK = ArchiveOptions(mode="lossy")  # label maps are kept exactly, by no prior

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives made twice are equal only when they carry the same time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")


def manifest(target: Path) -> bytes:
    return (target / "manifest.json").read_bytes()


def recorded(last: str) -> tuple[list[Artifact], list[TaskRun]]:
    """What the server keeps, once the task run named `last` is in its database."""
    deadline = time.monotonic() + 30.0
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
        while not any(run.name == last for run in runs):
            assert time.monotonic() < deadline, f"no task run {last!r} was recorded"
            time.sleep(0.2)
            runs = client.read_task_runs()
        return client.read_artifacts(), runs


def test_folder_gives_the_same_archives_as_without_prefect_and_dask(
    scans: Path, tmp_path: Path
) -> None:
    flow_target, plain_target = tmp_path / "flow", tmp_path / "plain"
    report = archive_folder(str(scans), str(flow_target), OPTIONS)
    assert [item.status for item in report.items] == ["archived"] * 4
    assert report.skipped == 1
    reports = archive(plan(scans, str(plain_target), OPTIONS))
    assert len(reports) == 4
    for plain in reports:
        name = Path(plain.target).name
        assert manifest(flow_target / name) == manifest(plain_target / name)

    artifacts, runs = recorded("seal-item-4")
    (table,) = [a for a in artifacts if a.key == "psc-archive-items"]
    assert str(table.data).count('"archived"') == 4
    stored = [str(a.data) for a in artifacts]
    stored += [f"{run.name} {run.state_name} {run.state and run.state.message}" for run in runs]
    assert {"find-items", "begin-item-4", "seal-item-4"} <= {run.name for run in runs}
    assert not [plain.name for plain in reports if plain.name in " ".join(stored)]


def test_run_after_a_bad_item_keeps_what_is_sealed(scans: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    shutil.copy(scans / "labels.nii", source)
    whole = (scans / "anatomical.nii").read_bytes()
    (source / "cut.nii").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ItemsFailedError) as caught:
        archive_folder(str(source), str(target), WITHOUT_NETWORK)
    outcomes = {item.status: item for item in caught.value.report.items}
    assert set(outcomes) == {"archived", "failed"}
    assert outcomes["failed"].error

    (source / "cut.nii").unlink()
    before = manifest(target / "labels.psc.zarr")
    report = archive_folder(str(source), str(target), WITHOUT_NETWORK)
    assert [item.status for item in report.items] == ["already-archived"]
    assert manifest(target / "labels.psc.zarr") == before


def test_worker_processes_import_the_tasks_by_name(scans: Path, tmp_path: Path) -> None:
    with slot_cluster(processes=True) as cluster:
        flow = archive_folder.with_options(
            task_runner=DaskTaskRunner(address=cluster.scheduler_address)
        )
        report = flow(str(scans / "labels.nii"), str(tmp_path), WITHOUT_NETWORK)
    assert [item.status for item in report.items] == ["archived"]
    reader = ArchiveReader.open(str(tmp_path / "labels.psc.zarr"))
    assert reader.info()


def test_flow_meets_a_target_with_the_bytes_of_the_plain_run(tmp_path: Path) -> None:
    """Ten bricks: two are tasks, the other eight are the sample that is coded last."""
    source = tmp_path / "source"
    source.mkdir()
    rows, columns = np.mgrid[:40, :32]
    wave = 900 * np.cos(rows / 5) * np.sin(columns / 7)
    times = np.stack([np.stack([wave * (t + z) / 9 for z in range(8)], -1) for t in range(10)], -1)
    nibabel.save(nibabel.Nifti1Image(times.astype(np.int16), np.eye(4)), source / "t.nii")
    options = ArchiveOptions(mode="lossy", base="av1", bpv=0.8)
    report = archive_folder(str(source), str(tmp_path / "flow"), options)
    (item,) = report.items
    assert item.report is not None
    (row,) = item.report.variables
    assert row["target"]["met"]
    assert row["bpv"] == pytest.approx(0.8, rel=0.02)
    archive(plan(source, str(tmp_path / "plain"), options))
    assert manifest(tmp_path / "flow" / "t.psc.zarr") == manifest(tmp_path / "plain" / "t.psc.zarr")


def test_shell_command_archives_and_returns_the_exit_codes(scans: Path, tmp_path: Path) -> None:
    source, runner = str(scans / "labels.nii"), CliRunner()
    done = runner.invoke(app, [source, str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert ArchiveReader.open(str(tmp_path / "labels.psc.zarr")).mode == "lossless"
    refused = runner.invoke(app, [source, str(tmp_path / "one.psc.zarr"), "--mode", "lossy"])
    assert refused.exit_code == EXIT_USAGE
    assert "target-not-a-folder" in refused.output


def test_one_archive_is_no_target_for_a_folder(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        archive_folder(str(scans), str(tmp_path / "one.psc.zarr"), OPTIONS)
    assert caught.value.kind == "target-not-a-folder"


def test_other_task_runners_are_refused(scans: Path, tmp_path: Path) -> None:
    flow = archive_folder.with_options(task_runner=ThreadPoolTaskRunner())
    with pytest.raises(ParameterError) as caught:
        flow(str(scans), str(tmp_path), OPTIONS)
    assert caught.value.kind == "task-runner"
