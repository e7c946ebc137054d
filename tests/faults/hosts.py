"""An archive by three hosts, one of them lost on the way: ``python -m tests.faults.hosts``.

The hosts are network namespaces of this machine on a bridge, with a Dask worker each; they share
its disk. The flow, the scheduler and Prefect's server are outside. When some bricks are stored, one
host goes off the net in silence: its processes live on, and no packet comes or goes. Takes root,
and some two minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import nibabel
import numpy as np

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions

__all__ = ["Net", "missing", "round_with_a_lost_host"]

HERE, HOSTS = "10.213.77.1", ("10.213.77.11", "10.213.77.12", "10.213.77.13")
SCHEDULER, API = f"tcp://{HERE}:18786", f"http://{HERE}:14200/api"
ROOT = Path(__file__).resolve().parents[2]
# How soon a silent worker counts as lost: five minutes by default.
TTL_S = 10
WAIT_S = 180


def missing() -> str | None:
    """What this machine lacks; None when nothing."""
    if os.geteuid() != 0:
        return "root"
    if shutil.which("ip") is None:
        return "the program ip"
    tried = subprocess.run(
        ["ip", "netns", "add", "psc-try"], capture_output=True, timeout=30, check=False
    )
    if tried.returncode:
        return "the right to make network namespaces"
    subprocess.run(["ip", "netns", "del", "psc-try"], timeout=30, check=False)
    return None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)


class Net:
    """A bridge with three namespaces on it; ``with Net() as net``."""

    def __enter__(self) -> Net:
        self._clear()
        ip("link", "add", "psc-br", "type", "bridge")
        ip("address", "add", f"{HERE}/24", "dev", "psc-br")
        ip("link", "set", "psc-br", "up")
        for number, address in enumerate(HOSTS):
            name, inside, outside = f"psc-{number}", f"psc-i{number}", f"psc-o{number}"
            ip("netns", "add", name)
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            ip("link", "set", outside, "master", "psc-br", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", inside)
            ip("-n", name, "link", "set", inside, "up")
            ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def lose(self, number: int) -> None:
        """Take a host off the net."""
        ip("link", "set", f"psc-o{number}", "down")

    def _clear(self) -> None:
        for number in range(len(HOSTS)):
            for words in (("netns", "del", f"psc-{number}"), ("link", "del", f"psc-o{number}")):
                subprocess.run(["ip", *words], capture_output=True, timeout=30, check=False)
        subprocess.run(
            ["ip", "link", "del", "psc-br"], capture_output=True, timeout=30, check=False
        )


@contextmanager
def process(
    *words: str, log: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process and all it starts, until the block ends."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            words, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=ROOT
        )
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(timeout=30)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def stored_bricks(target: Path) -> int:
    return sum(path.is_file() for path in target.glob("*.psc.zarr/*/c/*/*/*/*"))


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": API,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "SOURCE_DATE_EPOCH": "1790000000",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{TTL_S}s",
    }


def round_with_a_lost_host(folder: Path) -> dict[str, float | int | bool]:
    """Archive a volume of 60 bricks, lose a host after ten, and compare with a plain run.

    Returns
    -------
    dict
        ``same`` (whether the manifests are equal), ``code`` of the flow, ``seconds`` in all and
        ``seconds_after_loss``, ``stored_at_loss``.
    """
    source, target = folder / "in", folder / "out"
    source.mkdir()
    noise = np.random.default_rng(7).integers(0, 4096, (256, 256, 16, 60), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), source / "series.nii")
    env, dask = environment(folder), str(Path(sys.executable).with_name("dask"))
    server = (sys.executable, "-m", "prefect", "server", "start", "--host", HERE, "--port", "14200")
    with ExitStack() as all_of_it:
        net = all_of_it.enter_context(Net())

        def start(name: str, *words: str) -> subprocess.Popen[bytes]:
            return all_of_it.enter_context(
                process(*words, log=folder / f"{name}.log", environment=env)
            )

        start("server", *server)
        start("scheduler", dask, "scheduler", "--host", HERE, "--port", "18786", "--no-dashboard")
        health = [sys.executable, "-c", f"import urllib.request as r; r.urlopen('{API}/health')"]
        until(
            lambda: (
                not subprocess.run(health, capture_output=True, timeout=60, check=False).returncode
            ),
            "Prefect's server does not answer",
        )
        for number, address in enumerate(HOSTS):
            words = ("ip", "netns", "exec", f"psc-{number}", dask, "worker", SCHEDULER)
            words += ("--host", address, "--nworkers", "1", "--nthreads", "2", "--no-dashboard")
            start(f"host{number}", *words, "--resources", "PSC_SLOT=1")
        begin = time.monotonic()
        words = (sys.executable, "-m", "flows", "archive", str(source), str(target))
        flow = start("flow", *words, "--scheduler", SCHEDULER, "--coders", "zstd")
        until(lambda: stored_bricks(target) >= 10 or flow.poll() is not None, "no bricks")
        stored, lost = stored_bricks(target), time.monotonic()
        net.lose(0)
        code = flow.wait(timeout=WAIT_S)
        end = time.monotonic()
    os.environ["SOURCE_DATE_EPOCH"] = env["SOURCE_DATE_EPOCH"]
    archive(plan(source, str(folder / "plain"), ArchiveOptions(coders="zstd")))
    made, plain = (
        (place / "series.psc.zarr" / "manifest.json") for place in (target, folder / "plain")
    )
    return {
        "code": code,
        "same": made.is_file() and made.read_bytes() == plain.read_bytes(),
        "stored_at_loss": stored,
        "seconds": round(end - begin, 1),
        "seconds_after_loss": round(end - lost, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    lacking = missing()
    if lacking is not None:
        sys.exit(f"this round takes {lacking}")
    folder = Path(tempfile.mkdtemp(prefix="psc-hosts-"))
    found = round_with_a_lost_host(folder)
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    if found["code"] or not found["same"]:
        sys.exit(f"not as promised; the logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
