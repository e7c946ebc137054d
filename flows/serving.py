"""One command that runs the flows on schedule: server, workers and runner, whatever is missing.

``prefect.yaml`` has the same deployments for those who have a Prefect server and work pools.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from prefect import Flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.archive import NAME as ARCHIVE
from flows.archive import archive_folder
from flows.cluster import slot_cluster
from flows.lost_runs import (
    HEARTBEAT_S,
    expect_heartbeats,
    mark_lost_runs,
    mark_unbegun_runs,
)
from flows.records import Intake
from flows.restore import restore_archives
from flows.retention import NAME as RETENTION
from flows.retention import retain_archives
from flows.scrub import NAME as SCRUB
from flows.scrub import scrub_archives
from pipelines.archiving.archive import ArchiveOptions
from pipelines.archiving.locking import hold
from psc_volumetric.errors import StorageError

__all__ = ["Service", "deployments", "serve_until_stopped"]

SERVER_START_S = 120.0
STOP_S = 20.0


@dataclass(frozen=True)
class Service:
    """What runs on schedule: parameters of the flows, and cron expressions.

    Attributes
    ----------
    source, target : str
    options : ArchiveOptions
    intake : Intake
    archive_at, scrub_at, retention_at : str
        Cron expressions, UTC.
    scrub_part : str or None
        See `pipelines.checking.scrub.ScrubOptions`.
    keep_days : float or None
        None: there is no retention.
    notify : str or None
        Block that hears of failures.
    event_log, metrics : str or None
        Files that get a line, and the Prometheus text, of each run that archives or checks.
    """

    source: str
    target: str
    options: ArchiveOptions
    intake: Intake
    archive_at: str = "*/10 * * * *"
    scrub_at: str = "0 2 * * *"
    scrub_part: str | None = "today/7"
    retention_at: str = "0 6 1 * *"
    keep_days: float | None = None
    notify: str | None = None
    event_log: str | None = None
    metrics: str | None = None


def deployments(service: Service, scheduler: str) -> list[RunnerDeployment]:
    """The flows with parameters and schedules; one run of each at a time, others are left out."""
    common = {"notify": service.notify}
    workers = {**common, "workers": {"scheduler": scheduler}}
    archives = {"archives": service.target}
    arrivals = {"source": service.source, "target": service.target}
    chosen = {"options": service.options.to_dict(), "intake": asdict(service.intake)}
    part = {"options": {"part": service.scrub_part}}
    told = {"event_log": service.event_log, "metrics": service.metrics}
    made = [
        _deployment(
            archive_folder,
            "arrivals",
            {**arrivals, **chosen, **workers, **told},
            service.archive_at,
        ),
        _deployment(
            scrub_archives, "nightly", {**archives, **part, **workers, **told}, service.scrub_at
        ),
        _deployment(restore_archives, "on-demand", {**archives, **workers}, None),
    ]
    if service.keep_days is not None:
        kept = {**archives, "keep_days": service.keep_days, "delete": False, **common}
        kept["event_log"] = service.event_log
        made.append(_deployment(retain_archives, "monthly", kept, service.retention_at))
    return made


def _deployment(
    flow: Flow[Any, Any], name: str, parameters: dict[str, Any], cron: str | None
) -> RunnerDeployment:
    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    made = flow.to_deployment(
        name,
        cron=cron,
        parameters=parameters,
        concurrency_limit=alone,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)  # a coroutine only where an event loop runs
    return made


def serve_until_stopped(
    service: Service, *, scheduler: str | None, n_workers: int, port: int
) -> None:
    """Run the flows on schedule until the process is told to stop.

    A Prefect server is started where none is set (``PREFECT_API_URL``), and worker processes where
    no scheduler is named; both end with this process.

    Raises
    ------
    StorageError : kind ``"no-server"``: Prefect's server does not start, or its port is taken.
    """
    with ExitStack() as all_of_it:
        if not PREFECT_API_URL.value():
            all_of_it.enter_context(_prefect_server(port))
        if scheduler is None:
            cluster = slot_cluster(n_workers=n_workers, processes=True)
            scheduler = all_of_it.enter_context(cluster).scheduler_address
        expect_heartbeats()
        _mark_lost_runs(service)
        served = deployments(service, scheduler)
        for one in served:
            mark_unbegun_runs(one.flow_name or "", one.name)
        serve(*served, heartbeat_seconds=HEARTBEAT_S)


def _mark_lost_runs(service: Service) -> None:
    """Runs of a service before this one that were killed; those at work hold their locks."""
    if "://" in service.target:
        return
    for held, name, parameter in (
        (service.target, ARCHIVE, "target"),
        (service.target, RETENTION, "archives"),
        (f"{service.target.rstrip('/')}.scrub", SCRUB, "archives"),
    ):
        try:
            with hold(held):
                mark_lost_runs(name, **{parameter: service.target})
        except StorageError as error:
            if error.kind != "target-locked":
                raise


@contextmanager
def _prefect_server(port: int) -> Iterator[None]:
    """A Prefect server on this machine alone, for this process and its children."""
    _refuse_taken(port)
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start"]
    server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        _wait_until_healthy(f"{url}/health", server)
        os.environ["PREFECT_API_URL"] = url
        with temporary_settings(updates={PREFECT_API_URL: url}):
            yield
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        try:
            server.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()


def _refuse_taken(port: int) -> None:
    """Whoever listens there would be taken for the server that is started."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return
    except OSError as error:
        raise StorageError(
            f"Prefect's server cannot have port {port} ({error.strerror})",
            kind="no-server",
            hint="name another with --port, or set PREFECT_API_URL to the server that is there",
        ) from error


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise StorageError(
                    f"Prefect's server does not answer at {url}",
                    kind="no-server",
                    hint="its own messages above say why; or set PREFECT_API_URL to another",
                ) from error
        time.sleep(0.2)
