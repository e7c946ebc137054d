"""Two Dask workers against one: ``python -m pipelines.development.benchmark_workers``.

The bricks of one volume are encoded and stored by one worker process, then by two, in turn, each
worker bound to a core of its own; planning, proof and sealing are left out, they are one process's.
Prints seconds by the clock and of CPU time, of all workers and of the busier one, and the load
of the machine. By the clock a busy machine says little: where two workers take no more CPU time
than one, and each takes half of it, nothing but cores keeps them from half the time.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from pipelines.archiving.archive import begin
from pipelines.archiving.bricks import encode_brick_job
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import plan
from psc_volumetric.threads import at_most

__all__ = ["main"]

SIDE = 512


def _write(folder: Path, slices: int) -> Path:
    """Smooth values with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.meshgrid(*(np.linspace(0, 9, SIDE),) * 2, indexing="ij")
    plane = 400 * np.sin(rows) * np.cos(columns)
    values = np.stack(
        [np.rint(plane + 3 * z + rng.normal(0, 4, plane.shape)) for z in range(slices)]
    )
    path = folder / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16).T, np.eye(4)), path)
    return path


def _bound(core: int) -> None:
    os.sched_setaffinity(0, {core})


def _one_core(job: object) -> None:
    with at_most(1):
        encode_brick_job(job)  # type: ignore[arg-type]  # a BrickJob, from another process


def _timed(source: Path, target: Path, workers: int, coders: str) -> tuple[float, float, float]:
    """Seconds that the bricks take: by the clock, of CPU time, and of that by the busier worker."""
    from distributed import Client, LocalCluster

    cores = sorted(os.sched_getaffinity(0))
    options = ArchiveOptions(coders=coders)
    warm = begin(plan(source, str(target.with_name("warm.psc.zarr")), options).items[0])
    jobs = begin(plan(source, str(target), options).items[0])
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        names = sorted(client.scheduler_info(n_workers=-1)["workers"])
        for number, name in enumerate(names):
            client.submit(_bound, cores[number % len(cores)], workers=[name]).result()
            client.submit(_one_core, warm[number], workers=[name]).result()  # imports, machine code
        before = client.run(time.process_time)
        start = time.perf_counter()
        client.gather(client.map(_one_core, jobs, pure=False))
        clock = time.perf_counter() - start
        after = client.run(time.process_time)
        spent = [after[name] - before[name] for name in after]
        return clock, sum(spent), max(spent)


def main(slices: int = 192, rounds: int = 3, coders: str = "fast") -> None:
    """Print seconds of each round, and the ratio of the medians.

    Parameters
    ----------
    slices : int
        Of 512 x 512 voxels.
    rounds : int
    coders : str
        As for `psc-archive archive`.
    """
    say = sys.stdout.write
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    say(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores\n")
    with tempfile.TemporaryDirectory() as name:
        source = _write(Path(name), slices)
        for number in range(rounds):
            for workers, times in found.items():
                folder = Path(name) / f"{number}-{workers}"
                folder.mkdir()
                times.append(_timed(source, folder / "a.psc.zarr", workers, coders))
                clock, cpu, busier = times[-1]
                say(
                    f"{workers} worker(s): {clock:.1f} s by the clock, {cpu:.1f} s of CPU time, "
                    f"{busier:.1f} s of one\n"
                )
    one, two = ([statistics.median(each) for each in zip(*t, strict=True)] for t in found.values())
    say(
        f"two against one: {one[0] / two[0]:.2f} times as fast by the clock, "
        f"{two[1] / one[1]:.2f} times the CPU time, {one[1] / two[2]:.2f} times as fast by the CPU "
        f"time of the busier worker\nload after: {os.getloadavg()[0]:.1f}\n"
    )


if __name__ == "__main__":
    import typer

    typer.run(main)
