"""Clusters that would hang or lose records are refused before any work is submitted."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from distributed import Client, LocalCluster
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_dask.task_runners import PrefectDaskFuture

from flows.cluster import GPU, SLOT, Workers, check_cluster, slot_cluster, started
from psc_volumetric.errors import ParameterError, StorageError


def test_cluster_offers_the_slots_asked_for() -> None:
    with slot_cluster(n_workers=2, slots_per_worker=3) as cluster, Client(cluster) as client:
        assert check_cluster(client, timeout_s=0.0) == 6


def test_slots_without_a_gpu_are_no_slots_for_one() -> None:
    with (
        slot_cluster() as cluster,
        Client(cluster) as client,
        pytest.raises(ParameterError, match=f'"{SLOT}=1 {GPU}=1"') as caught,
    ):
        check_cluster(client, timeout_s=0.3, needs=(SLOT, GPU))
    assert caught.value.kind == "no-slot"


@pytest.mark.parametrize(("workers", "slots"), [(0, 1), (1, 0)])
def test_cluster_without_workers_or_slots_is_refused(workers: int, slots: int) -> None:
    with pytest.raises(ParameterError) as caught:
        slot_cluster(n_workers=workers, slots_per_worker=slots)
    assert caught.value.kind == "cluster-size"


def test_cluster_without_the_resource_is_refused_instead_of_waiting_for_ever() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
        pytest.raises(ParameterError, match=f'--resources "{SLOT}=1"') as caught,
    ):
        check_cluster(client, timeout_s=0.3)
    assert caught.value.kind == "no-slot"


def test_worker_processes_without_a_prefect_server_are_refused() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        slot_cluster(processes=True) as cluster,
        Client(cluster) as client,
        pytest.raises(ParameterError, match="prefect server start") as caught,
    ):
        check_cluster(client, timeout_s=30.0)
    assert caught.value.kind == "temporary-server"


def test_result_that_dies_with_the_last_worker_is_missed_aloud(prefect_server: str) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, resources={SLOT: 1}, dashboard_address=None
    ) as workers:
        address = workers.scheduler_address

        @flow
        def one_task() -> None:
            with started(Workers(address, lost_s=0.5)) as cluster:
                client = cluster._client
                submitted = client.submit(int, 7, resources={SLOT: 1})
                (done,) = cluster.finished([PrefectDaskFuture(uuid4(), submitted)])
                workers.scale(0)
                deadline = time.monotonic() + 30
                while client.scheduler_info()["workers"] and time.monotonic() < deadline:
                    time.sleep(0.05)
                cluster.result(done)

        with pytest.raises(StorageError) as caught:
            one_task()
    assert caught.value.kind == "workers-lost"
