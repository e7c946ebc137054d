"""A deployment with a schedule gets runs, and a served flow does them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from flows.archive import archive_folder

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_deployment_with_a_schedule_gets_scheduled_runs(tmp_path: Path) -> None:
    deployment = archive_folder.to_deployment(
        "every-minute",
        cron="* * * * *",
        parameters={"source": str(tmp_path), "target": str(tmp_path / "out"), "options": {}},
    )
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.apply()]))
    deadline, runs = time.monotonic() + 30, list[FlowRun]()
    with get_client(sync_client=True) as client:
        while len(runs) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            runs = client.read_flow_runs(deployment_filter=wanted)
    assert len(runs) >= 3
    assert {run.state_name for run in runs} <= {"Scheduled", "Late"}
