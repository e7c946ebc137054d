"""Deployments get runs on schedule, and one command serves them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import nibabel
import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse

from flows.archive import archive_folder
from flows.cluster import Workers
from flows.lost_runs import LOST
from flows.records import Intake
from flows.restore import restore_archives
from flows.retention import retain_archives
from flows.scrub import scrub_archives
from flows.serving import Service, deployments
from pipelines.archiving.archive import ArchiveOptions
from psc_volumetric.archive.reader import ArchiveReader

ROOT = Path(__file__).resolve().parents[2]
FLOWS = (archive_folder, scrub_archives, restore_archives, retain_archives)
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)

pytestmark = pytest.mark.usefixtures("prefect_server")


def scheduled(deployment: UUID, *, at_least: int) -> list[FlowRun]:
    """Runs of a deployment, once the scheduler has made some."""
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    deadline, runs = time.monotonic() + 60, list[FlowRun]()
    with get_client(sync_client=True) as client:
        while len(runs) < at_least and time.monotonic() < deadline:
            time.sleep(0.2)
            runs = client.read_flow_runs(deployment_filter=wanted)
    assert len(runs) >= at_least
    assert {run.state_name for run in runs} <= {"Scheduled", "Late"}
    return runs


def ended(run: UUID, *, within_s: float) -> FlowRun:
    """A run when it has come to an end."""
    deadline = time.monotonic() + within_s
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(run)
        while found.state_type not in ENDED and time.monotonic() < deadline:
            time.sleep(0.5)
            found = client.read_flow_run(run)
    return found


def deployment_of(name: str) -> DeploymentResponse:
    """A deployment by its name."""
    with get_client(sync_client=True) as client:
        (found,) = [d for d in client.read_deployments() if d.name == name]
    return found


def test_deployments_of_the_service_get_runs_and_parameters_that_fit(tmp_path: Path) -> None:
    service = Service(
        str(tmp_path), str(tmp_path / "out"), ArchiveOptions(), Intake(), keep_days=365
    )
    made = {d.name: d for d in deployments(service, "tcp://127.0.0.1:8786")}
    for flow, name in zip(FLOWS, ("arrivals", "nightly", "on-demand", "monthly"), strict=True):
        parameters = dict(made[name].parameters)
        if name == "on-demand":
            parameters["target"] = "/restored"  # whoever starts it says where to
        found = flow.validate_parameters(parameters)
        assert found.get("workers", Workers("tcp://127.0.0.1:8786")).scheduler is not None
    runs = scheduled(_id(made["arrivals"].apply()), at_least=3)
    assert {run.parameters["target"] for run in runs} == {str(tmp_path / "out")}


def _id(found: object) -> UUID:
    assert isinstance(found, UUID)
    return found


def test_prefect_yaml_makes_deployments_that_get_runs() -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="psc-archive", type="process"), overwrite=True)
    paths = {"PSC_SOURCE": "/in", "PSC_TARGET": "/out", "PSC_SCHEDULER": "tcp://dask:8786"}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = deployment_of("nightly")
    assert found.entrypoint == "flows.scrub.scrub_archives"
    assert (found.concurrency_options or found.global_concurrency_limit) is not None
    assert scrub_archives.validate_parameters(found.parameters)["workers"].scheduler
    assert archive_folder.validate_parameters(deployment_of("arrivals").parameters)
    scheduled(found.id, at_least=3)


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m flows serve`` over a folder with one file, in a group of its own."""
    bricks = getattr(request, "param", 1)
    source = tmp_path / "source"
    source.mkdir()
    noise = np.random.default_rng(7).integers(0, 4096, (64, 64, 8, bricks), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), source / "jane-doe.nii")
    command = [sys.executable, "-m", "flows", "serve", str(source), str(tmp_path / "out")]
    options = ["--coders", "zstd", "--quiet-for", "0", "--archive-at", "0 0 1 1 *"]
    running = subprocess.Popen([*command, *options], start_new_session=True, cwd=tmp_path)
    yield running
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def served(service: subprocess.Popen[bytes], target: Path) -> DeploymentResponse:
    """The deployment of arrivals, once it is there."""
    deadline = time.monotonic() + 120
    with get_client(sync_client=True) as client:
        while True:
            assert service.poll() is None
            assert time.monotonic() < deadline
            found = [
                d for d in client.read_deployments() if d.parameters.get("target") == str(target)
            ]
            if found:
                return found[0]
            time.sleep(0.5)


def start(service: subprocess.Popen[bytes], target: Path) -> UUID:
    """Start a run of the served flow of arrivals."""
    found = served(service, target)
    with get_client(sync_client=True) as client:
        return client.create_flow_run_from_deployment(found.id).id


def test_one_command_serves_the_flows(service: subprocess.Popen[bytes], tmp_path: Path) -> None:
    run = ended(start(service, tmp_path / "out"), within_s=120)
    assert run.state_type == StateType.COMPLETED, run.state
    assert "jane-doe" not in str(run.parameters)
    archive = tmp_path / "out" / "jane-doe.psc.zarr"
    assert ArchiveReader.open(str(archive)).mode == "lossless"
    service.send_signal(signal.SIGTERM)
    service.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("service", [24], indirect=True)
def test_served_run_that_is_killed_with_everything_around_it_becomes_crashed(
    service: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Two minutes without a sign of life, then the server's automation."""
    run = start(service, tmp_path / "out")
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*.psc.zarr/*/c/*/*/*/*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(service.pid, signal.SIGKILL)
    service.wait()
    found = ended(run, within_s=240)
    assert (found.state_type, found.state and found.state.message) == (StateType.CRASHED, LOST)
