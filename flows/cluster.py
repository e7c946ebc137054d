"""Dask clusters whose workers offer slots: checked before work goes to one, watched while it runs.

A slot is the right to do one brick, or one archive, at a time. It is named by role, not by device,
so that the same flow runs on laptops, CPU clusters and GPUs: start workers with
``dask worker ADDRESS --resources "PSC_SLOT=1"``, one slot for each brick that fits into memory, and
``"PSC_SLOT=1 PSC_GPU=1"`` on workers with a GPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from dask.base import annotate
from distributed import Client, LocalCluster, wait
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.scheduler import KilledWorker
from prefect import Task
from prefect.settings import PREFECT_API_URL
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from flows.records import ItemTaskError
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["GPU", "SLOT", "Call", "Cluster", "Workers", "check_cluster", "slot_cluster", "started"]

log = logging.getLogger(__name__)

SLOT = "PSC_SLOT"
GPU = "PSC_GPU"
DISTRIBUTION = "psc-archive"
_POLL_S = 0.2
_LOOK_S = 2.0


@dataclass(frozen=True)
class Workers:
    """Where the tasks of a flow run, and how patient the flow is.

    Parameters
    ----------
    scheduler : str or None
        Address of a Dask scheduler; None starts one worker in the process of the flow.
    wait_s : float
        How long to wait for the scheduler and for the first worker with a slot, in seconds.
    lost_s : float
        How long the flow goes on without any such worker before it fails, in seconds.
    """

    scheduler: str | None = None
    wait_s: float = 60.0
    lost_s: float = 300.0


@dataclass(frozen=True)
class Call:
    """A task to be run with its parameters, and the resources that it needs of a worker."""

    task: Task[..., Any]
    parameters: Mapping[str, Any]
    resources: tuple[str, ...] = ()


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
        Kind ``"cluster-size"``: a count below 1.
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


def _slots(client: Client, needs: Collection[str]) -> int:
    """Slots of the workers that offer all that is needed."""
    offers = [worker["resources"] for worker in _workers(client).values()]
    return int(sum(o.get(SLOT, 0) for o in offers if all(o.get(need, 0) >= 1 for need in needs)))


def _wait_for_slots(client: Client, needs: Sequence[str], *, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while (slots := _slots(client, needs)) < 1:
        if time.monotonic() >= deadline:
            wanted = " ".join(f"{need}=1" for need in needs)
            raise ParameterError(
                f"expected a Dask worker that offers {' and '.join(needs)}, found "
                f"{len(_workers(client))} worker(s) without it after {timeout_s:g} s",
                kind="no-slot",
                hint=f'start workers with --resources "{wanted}"',
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


def check_cluster(client: Client, *, timeout_s: float, needs: Sequence[str] = (SLOT,)) -> int:
    """Refuse a cluster on which the flow would hang, lose its records or mix versions.

    Parameters
    ----------
    client : Client
        Connected to the cluster.
    timeout_s : float
        How long to wait for the first worker with a slot, in seconds.
    needs : sequence of str
        Resources that one worker must offer together.

    Returns
    -------
    int
        Slots of such workers, 1 or more.

    Raises
    ------
    ParameterError
        Kind ``"no-slot"``: no worker offers them, so tasks would wait for ever.
        Kind ``"temporary-server"``: workers run in processes of their own and ``PREFECT_API_URL``
        is not set, so each would start a temporary Prefect server with a database of its own.
        Kind ``"worker-version"``: a worker has another version of psc-archive.
    """
    slots = _wait_for_slots(client, needs, timeout_s=timeout_s)
    _check_server(client)
    _check_versions(client)
    return slots


class Cluster:
    """A cluster that was checked; tasks go to it, and it notices when nobody is left to do them.

    Attributes
    ----------
    slots : int
        Offered when the flow began.
    """

    def __init__(self, runner: DaskTaskRunner, slots: int, lost_s: float) -> None:
        self.slots = slots
        self._runner = runner
        self._client: Client = runner.client
        self._lost_s = lost_s
        self._seen = time.monotonic()

    def submit(self, call: Call) -> PrefectDaskFuture[Any]:
        """Hand a task to the cluster."""
        with annotate(resources=dict.fromkeys(call.resources, 1)):
            return self._runner.submit(call.task, dict(call.parameters))

    def finished(self, running: Sequence[PrefectDaskFuture[Any]]) -> list[PrefectDaskFuture[Any]]:
        """Wait until some of the tasks are done, and give those.

        Raises
        ------
        StorageError : kind ``"scheduler-lost"``; ``"workers-lost"``, none was left for `lost_s`.
        """
        while True:
            done = [future for future in running if future.wrapped_future.done()]
            if done:
                self._seen = time.monotonic()
                return done
            waited = [future.wrapped_future for future in running]
            with self._client.as_current(), suppress(TimeoutError, FuturesCancelledError):
                wait(waited, timeout=_LOOK_S, return_when="FIRST_COMPLETED")
                continue
            self._look_for_workers()

    def _look_for_workers(self) -> None:
        now = time.monotonic()
        if self._client.status == "running" and _slots(self._client, (SLOT,)) > 0:
            self._seen = now
        elif now - self._seen > self._lost_s:
            raise StorageError(
                f"all Dask workers with {SLOT} are gone for {now - self._seen:.0f} s; what is "
                "stored stays",
                kind="workers-lost",
                hint="start workers and run the flow again: it continues",
            )

    def result(self, future: PrefectDaskFuture[Any]) -> Any:
        """Result of a task that is done, or an `ItemTaskError`.

        A worker that dies with the result in its memory leaves the task to be done again by others.

        Raises
        ------
        StorageError : kind ``"scheduler-lost"``; ``"workers-lost"``, none was left for `lost_s`.
        """
        while True:
            try:
                result = future.result(timeout=_LOOK_S, raise_on_failure=False)
            except TimeoutError:
                if future.wrapped_future.status == "error":  # the task's own
                    raise
                self._look_for_workers()
            except FutureCancelledError as error:
                raise StorageError(
                    "the Dask scheduler is gone, or was started again; what is stored stays",
                    kind="scheduler-lost",
                    hint="start it and its workers, and run the flow again: it continues",
                ) from error
            except KilledWorker:
                what = "several workers died over this task; most often they have too little memory"
                return ItemTaskError(0, "worker-lost", what, lasting=True)
            else:
                return ItemTaskError.of(0, result) if isinstance(result, Exception) else result


@contextmanager
def started(workers: Workers, needs: Sequence[str] = (SLOT,)) -> Iterator[Cluster]:
    """Connect to a cluster, or start one here, check it, and let go of it at the end.

    To be used within a flow. Tasks then run through Prefect's `DaskTaskRunner`, which is opened
    here because its address is a parameter of the run.

    Raises
    ------
    ParameterError : kinds of `check_cluster`; ``"no-scheduler"``, nobody answers at the address.
    """
    runner = (
        DaskTaskRunner(cluster_class=slot_cluster)
        if workers.scheduler is None
        else DaskTaskRunner(address=workers.scheduler, client_kwargs={"timeout": workers.wait_s})
    )
    with runner:
        try:
            client = runner.client
        except (OSError, ValueError) as error:
            raise ParameterError(
                f"no Dask scheduler answers at {workers.scheduler!r} within {workers.wait_s:g} s "
                f"({type(error).__name__})",
                kind="no-scheduler",
                hint="start one with `dask scheduler`, and name it as tcp://HOST:8786",
            ) from error
        slots = check_cluster(client, timeout_s=workers.wait_s, needs=needs)
        yield Cluster(runner, slots, workers.lost_s)
