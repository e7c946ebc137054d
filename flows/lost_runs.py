"""Runs that were killed, so that nobody told Prefect their end: they become Crashed.

A run that a runner (``python -m flows serve``, ``prefect worker``) started and that is killed alone
is noticed by the runner. When the machine goes, two things help. Each run holds the lock of its
target, so the next run on that target knows that an earlier one is no more. And served runs give a
sign of life every half minute, which an automation of the server waits for.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_run
from prefect.states import Crashed
from prefect.utilities.asyncutils import run_coro_as_sync

__all__ = [
    "AUTOMATION",
    "HEARTBEAT_S",
    "expect_heartbeats",
    "mark_lost_runs",
    "mark_unbegun_runs",
]

log = logging.getLogger(__name__)

AUTOMATION = "psc-archive: runs without a sign of life have crashed"
HEARTBEAT_S = 30
SILENT_S = 120
ENDING_S = 10.0
UNBEGUN = "its service ended before the run began; the next run does its work"
LOST = "killed, or its machine went; what it stored stays, and the next run continues"


def mark_lost_runs(flow: str, **parameters: Any) -> int:
    """Mark earlier runs of a flow on the same target as Crashed.

    To be called with the lock of the target held, so that no other run can be at work there. A run
    that has just let go of the lock gets a few seconds to tell its end.

    Parameters
    ----------
    flow : str
        Name of the flow.
    **parameters
        Those that name the target, as the run has them.

    Returns
    -------
    int
        How many.
    """
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + ENDING_S
        while (lost := _running(client, flow, parameters)) and time.monotonic() < deadline:
            time.sleep(0.5)
        for run in lost:
            client.set_flow_run_state(run.id, Crashed(message=LOST), force=True)
            log.error("%s: run %s was lost", flow, run.name)
    return len(lost)


def mark_unbegun_runs(flow: str, deployment: str) -> int:
    """Mark runs of a deployment as Crashed that an earlier service was about to begin.

    To be called before this process serves the deployment. Such a run has the one place that runs
    of the deployment have, so that the server cancels all that follow, for ever. What another
    runner is beginning gets a few seconds to begin.

    Parameters
    ----------
    flow, deployment : str
        Names.

    Returns
    -------
    int
        How many.
    """
    pending = FlowRunFilterStateType(any_=[StateType.PENDING])
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + ENDING_S
        while True:
            lost = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=pending)),
            )
            if not lost or time.monotonic() >= deadline:
                break
            time.sleep(0.5)
        for run in lost:
            client.set_flow_run_state(run.id, Crashed(message=UNBEGUN), force=True)
            log.error("%s: run %s was never begun", flow, run.name)
    return len(lost)


def _running(client: SyncPrefectClient, flow: str, parameters: dict[str, Any]) -> list[FlowRun]:
    running = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=running)),
    )
    others = [run for run in runs if str(run.id) != this_run.id]
    return [
        run
        for run in others
        if all(run.parameters.get(name) == value for name, value in parameters.items())
    ]


def expect_heartbeats() -> None:
    """Have the server mark served runs as Crashed that give no sign of life; made once."""
    expected = {"heartbeat", "Completed", "Failed", "Cancelled", "Crashed"}
    automation = Automation(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={f"prefect.flow-run.{event}" for event in expected},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=LOST, force=True)
        ],
    )
    try:
        run_coro_as_sync(Automation.aread(name=AUTOMATION))
    except (ValueError, ObjectNotFound):
        run_coro_as_sync(automation.acreate())
