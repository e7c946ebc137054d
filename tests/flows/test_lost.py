"""Workers, a scheduler and whole runs are lost; nothing hangs, and nothing is done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import nibabel
import numpy as np
import pytest
from distributed import LocalCluster
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Pending, Running

from flows import lost_runs
from flows.archive import archive_folder
from flows.cluster import SLOT, Workers, slot_cluster
from flows.lost_runs import LOST, UNBEGUN, mark_unbegun_runs
from flows.records import Intake
from flows.serving import Service, deployments
from pipelines.archiving.archive import ArchiveOptions, archive, plan
from psc_volumetric.errors import ParameterError, StorageError

QUICK = ArchiveOptions(coders="zstd")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")


@pytest.fixture
def many_bricks(tmp_path: Path) -> Path:
    """One NIfTI file whose archive has 16 bricks."""
    source = tmp_path / "source"
    source.mkdir()
    noise = np.random.default_rng(7).integers(0, 4096, (64, 64, 8, 16), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), source / "series.nii")
    return source


def when_stored(count: int, target: Path, action: Callable[[], None]) -> threading.Thread:
    """Do something as soon as some bricks of a target are on disk."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if sum(path.is_file() for path in target.glob("*.psc.zarr/*/c/*/*/*/*")) >= count:
                action()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def runs_of(target: Path) -> list[tuple[StateType | None, str | None]]:
    """State and message of the flow runs on a target, oldest first."""
    with get_client(sync_client=True) as client:
        runs = [
            run for run in client.read_flow_runs() if run.parameters.get("target") == str(target)
        ]
    runs.sort(key=lambda run: run.created or 0)
    return [(run.state_type, run.state and run.state.message) for run in runs]


def pids(cluster: LocalCluster) -> list[int]:
    return [worker.process.pid for worker in cluster.workers.values()]


def test_worker_that_is_killed_on_the_way_costs_nothing(many_bricks: Path, tmp_path: Path) -> None:
    target = tmp_path / "flow"
    with slot_cluster(n_workers=2, processes=True) as cluster:
        victim = pids(cluster)[0]
        watch = when_stored(4, target, lambda: os.kill(victim, signal.SIGKILL))
        report = archive_folder(
            str(many_bricks), str(target), QUICK, workers=Workers(cluster.scheduler_address)
        )
        watch.join()
        assert victim not in pids(cluster)
    assert [item.status for item in report.items] == ["archived"]
    archive(plan(many_bricks, str(tmp_path / "plain"), QUICK))
    name = "series.psc.zarr/manifest.json"
    assert (target / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_flow_without_any_worker_left_fails_and_says_so(many_bricks: Path, tmp_path: Path) -> None:
    target = tmp_path / "flow"
    with LocalCluster(
        n_workers=0, threads_per_worker=2, resources={SLOT: 1}, dashboard_address=None
    ) as cluster:
        cluster.scale(1)
        watch = when_stored(2, target, lambda: cluster.scale(0))
        with pytest.raises(StorageError) as caught:
            workers = Workers(cluster.scheduler_address, lost_s=1.0)
            archive_folder(str(many_bricks), str(target), QUICK, workers=workers)
        watch.join()
    assert caught.value.kind == "workers-lost"
    report = archive_folder(str(many_bricks), str(target), QUICK)
    (item,) = report.items
    assert item.report is not None
    assert item.report.resumed >= 2


@pytest.mark.slow
def test_flow_whose_scheduler_goes_fails_at_once(many_bricks: Path, tmp_path: Path) -> None:
    target = tmp_path / "flow"
    with slot_cluster(processes=True) as cluster:
        watch = when_stored(2, target, cluster.close)
        with pytest.raises(StorageError) as caught:
            workers = Workers(cluster.scheduler_address)
            archive_folder(str(many_bricks), str(target), QUICK, workers=workers)
        watch.join()
    assert caught.value.kind == "scheduler-lost"


def test_scheduler_that_does_not_answer_is_told(scans: Path, tmp_path: Path) -> None:
    workers = Workers("tcp://127.0.0.1:1", wait_s=1.0)
    with pytest.raises(ParameterError) as caught:
        archive_folder(str(scans), str(tmp_path), QUICK, workers=workers)
    assert caught.value.kind == "no-scheduler"


def test_run_that_told_no_end_is_crashed_when_the_next_begins(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server believes that it is at work; whoever holds the lock of the target knows better."""
    monkeypatch.setattr(lost_runs, "ENDING_S", 0.5)
    source, target = tmp_path / "in", tmp_path / "flow"
    source.mkdir()
    shutil.copy(scans / "labels.nii", source)
    parameters = {"source": str(source), "target": str(target)}
    with get_client(sync_client=True) as client:
        client.create_flow_run(archive_folder, parameters=parameters, state=Running())
    report = archive_folder(str(source), str(target), QUICK)
    assert [item.status for item in report.items] == ["archived"]
    (lost, message), (ended, _) = runs_of(target)
    assert (lost, ended) == (StateType.CRASHED, StateType.COMPLETED)
    assert message == LOST


def test_run_that_a_service_never_began_does_not_keep_the_place_of_all_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is stopped while it begins a run leaves it pending."""
    monkeypatch.setattr(lost_runs, "ENDING_S", 0.5)
    service = Service(str(tmp_path / "in"), str(tmp_path / "flow"), QUICK, Intake())
    arrivals = deployments(service, "tcp://127.0.0.1:1")[0]
    arrivals.name = "unbegun"  # other tests count the runs of "arrivals"
    number = arrivals.apply()

    def begun() -> tuple[UUID, StateType | None]:
        """A new run, and its state when a runner has asked to begin it."""
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(number)
            client.set_flow_run_state(run.id, Pending())
            return run.id, client.read_flow_run(run.id).state_type

    assert mark_unbegun_runs("archive-folder", "unbegun") == 0
    first, state = begun()
    assert state == StateType.PENDING
    assert begun()[1] == StateType.CANCELLED
    assert mark_unbegun_runs("archive-folder", "unbegun") == 1
    with get_client(sync_client=True) as client:
        lost = client.read_flow_run(first)
    assert lost.state is not None
    assert (lost.state_type, lost.state.message) == (StateType.CRASHED, UNBEGUN)
    assert begun()[1] == StateType.PENDING
    with get_client(sync_client=True) as client:
        client.delete_deployment(number)


@pytest.mark.slow
def test_killed_run_is_crashed_when_the_next_begins(many_bricks: Path, tmp_path: Path) -> None:
    target = tmp_path / "flow"
    command = [sys.executable, "-m", "flows", "archive", str(many_bricks), str(target)]
    run = subprocess.Popen([*command, "--coders", "zstd"], start_new_session=True)
    when_stored(2, target, run.kill).join()
    assert run.wait(timeout=60) == -signal.SIGKILL
    assert runs_of(target) == [(StateType.RUNNING, None)]
    report = archive_folder(str(many_bricks), str(target), QUICK)
    assert [item.status for item in report.items] == ["archived"]
    (lost, message), (ended, _) = runs_of(target)
    assert (lost, ended) == (StateType.CRASHED, StateType.COMPLETED)
    assert message == LOST
