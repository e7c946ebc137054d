"""Dask clusters whose workers offer brick slots, and the checks before work goes to one.

A slot is the right to encode one brick at a time. It is named by role, not by device, so that the
same flow runs on laptops, CPU clusters and GPUs: start workers with
``dask worker ADDRESS --resources "PSC_SLOT=1"``, one slot for each brick that fits into memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from distributed import Client, LocalCluster
from prefect.settings import PREFECT_API_URL

from psc_volumetric.errors import ParameterError

__all__ = ["SLOT", "check_cluster", "count_slots", "slot_cluster"]

log = logging.getLogger(__name__)

SLOT = "PSC_SLOT"
DISTRIBUTION = "psc-archive"
_POLL_S = 0.2


def slot_cluster(
    *, n_workers: int = 1, slots_per_worker: int = 1, processes: bool = False
) -> LocalCluster:
    """Start a Dask cluster on this machine whose workers offer slots.

    Parameters
    ----------
    n_workers : int
        Workers, 1 or more.
    slots_per_worker : int
        Bricks a worker encodes at a time, 1 or more. Each worker has one thread more than slots,
        so that short tasks (planning, sealing) do not wait behind bricks.
    processes : bool
        False: workers are threads of this process and may use Prefect's temporary server.
        True: one process each, which needs a Prefect server of its own (see `check_cluster`).

    Returns
    -------
    LocalCluster
        On this machine only, dashboard on any free port. The caller closes it, or uses it in a
        `with` statement.

    Raises
    ------
    ParameterError
        Kind ``cluster-size``: a count below 1.
    """
    if n_workers < 1 or slots_per_worker < 1:
        raise ParameterError(
            f"a cluster needs at least 1 worker with 1 slot, got n_workers={n_workers!r} and "
            f"slots_per_worker={slots_per_worker!r}",
            kind="cluster-size",
        )
    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=slots_per_worker + 1,
        processes=processes,
        resources={SLOT: slots_per_worker},
        dashboard_address="127.0.0.1:0",
    )


def _workers(client: Client) -> Mapping[str, Mapping[str, Any]]:
    workers: Mapping[str, Mapping[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def count_slots(client: Client) -> int:
    """Slots that the workers known to the scheduler offer together."""
    return int(sum(worker["resources"].get(SLOT, 0) for worker in _workers(client).values()))


def _wait_for_slots(client: Client, *, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while (slots := count_slots(client)) < 1:
        if time.monotonic() >= deadline:
            raise ParameterError(
                f"expected a Dask worker that offers the resource {SLOT}, found "
                f"{len(_workers(client))} worker(s) without it after {timeout_s:g} s",
                kind="no-slot",
                hint=f'start workers with --resources "{SLOT}=1"',
            )
        time.sleep(_POLL_S)
    return slots


def _check_server(client: Client) -> None:
    if PREFECT_API_URL.value():
        return
    remote = [address for address in _workers(client) if not address.startswith("inproc://")]
    if remote:
        raise ParameterError(
            f"{len(remote)} Dask worker(s) run in processes of their own, but PREFECT_API_URL is "
            "not set, so each of them would start a temporary Prefect server",
            kind="temporary-server",
            hint="run `prefect server start` and set PREFECT_API_URL to its address, or use "
            "workers in this process",
        )


def installed_version() -> str:
    """Version of psc-archive in this process; runs on workers."""
    return version(DISTRIBUTION)


def _check_versions(client: Client) -> None:
    here = installed_version()
    found: dict[str, str] = client.run(installed_version)
    others = sorted(set(found.values()) - {here})
    if others:
        raise ParameterError(
            f"expected {DISTRIBUTION} {here} on every worker, found {', '.join(others)}",
            kind="worker-version",
            hint="install the same wheel, or use the same image, for flow and workers",
        )
    log.info("%d worker(s) with %s %s", len(found), DISTRIBUTION, here)


def check_cluster(client: Client, *, timeout_s: float) -> int:
    """Refuse a cluster on which the flow would hang, lose its records or mix versions.

    Parameters
    ----------
    client : Client
        Connected to the cluster.
    timeout_s : float
        How long to wait for the first worker with a slot, in seconds.

    Returns
    -------
    int
        Slots offered, 1 or more.

    Raises
    ------
    ParameterError
        Kind ``no-slot``: no worker offers a slot, so bricks would wait for ever.
        Kind ``temporary-server``: workers run in processes of their own and ``PREFECT_API_URL`` is
        not set, so each would start a temporary Prefect server with a database of its own.
        Kind ``worker-version``: a worker has another version of psc-archive.
    """
    slots = _wait_for_slots(client, timeout_s=timeout_s)
    _check_server(client)
    _check_versions(client)
    return slots
