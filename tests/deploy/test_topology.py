"""The services of compose.yaml as plain processes: their commands, checks of health and order."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipelines.checking.status import status_of
from pipelines.collection import archives_at
from psc_volumetric.archive.reader import ArchiveReader
from tests.deploy.compose_file import compose

pytest.importorskip("prefect")
pytest.importorskip("moto.server")

HEALTHY_S, STOP_S = 150, 60
SCRIPTS = ("dask", "prefect")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Machine:
    """One machine in the place of the containers: their names, ports and folders become its own."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.services = compose(settings)
        self.ports = {name: str(free_port()) for name in ("4200", "5432", "8786", "8787", "9000")}
        for name in ("inbox", "records", "home", "logs"):
            (folder / name).mkdir()

    def words(self, words: list[str], **more: str) -> list[str]:
        """A command, as it reads here."""
        made = [self.text(word, **more) for word in words]
        if made[0] in SCRIPTS:
            return [str(Path(sys.executable).with_name(made[0])), *made[1:]]
        return [sys.executable, *made[1:]] if made[0] == "python" else made

    def text(self, text: str, **more: str) -> str:
        for name in ("server", "scheduler", "store", "database"):
            text = text.replace(f"//{name}:", "//127.0.0.1:").replace(f"@{name}:", "@127.0.0.1:")
        for place in ("inbox", "records"):
            text = text.replace(f"/data/{place}", str(self.folder / place))
        for port, own in {**self.ports, **more}.items():
            text = text.replace(port, own)
        return text.replace("0.0.0.0", "127.0.0.1")

    def environment(self, service: str) -> dict[str, str]:
        given = self.services[service].get("environment", {})
        home = {
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PSC_ARCHIVE_CACHE": str(self.folder / "cache"),
        }
        return {**os.environ, **home, **{name: self.text(value) for name, value in given.items()}}

    @contextmanager
    def running(
        self, service: str, *, command: list[str] | None = None, **more: str
    ) -> Iterator[Any]:
        """A service until the block ends; healthy by its own check when the block begins."""
        settings = self.services[service]
        words = command or self.words(settings["command"], **more)
        log = self.folder / "logs" / f"{service}-{'-'.join(more.values())}.log"
        environment = self.environment(service)
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            if "healthcheck" in settings and settings["healthcheck"]["test"][1] == "python":
                check = self.words(settings["healthcheck"]["test"][1:], **more)
                self.wait_until_healthy(service, check, process, log)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=STOP_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(timeout=STOP_S)

    def wait_until_healthy(
        self, service: str, check: list[str], process: subprocess.Popen[bytes], log: Path
    ) -> None:
        deadline = time.monotonic() + HEALTHY_S
        while subprocess.run(check, capture_output=True, timeout=60, check=False).returncode:
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, f"{service}: {log.read_text('utf-8', 'replace')[-3000:]}"
            time.sleep(0.5)

    def once(self, service: str) -> str:
        """Run a service that ends; what it says on stderr."""
        done = subprocess.run(
            self.words(self.services[service]["command"]),
            env=self.environment(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{service}: {done.stdout}\n{done.stderr[-3000:]}"
        return done.stderr


@contextmanager
def database(machine: Machine) -> Iterator[bool]:
    """PostgreSQL where it is installed; else Prefect's server keeps its own file."""
    programs = [shutil.which("initdb"), shutil.which("postgres")]
    as_root = os.geteuid() == 0
    if None in programs or (as_root and shutil.which("setpriv") is None):
        del machine.services["server"]["environment"]["PREFECT_API_DATABASE_CONNECTION_URL"]
        yield False
        return
    place = machine.folder / "database"
    place.mkdir()
    who: list[str] = []
    if as_root:  # which PostgreSQL refuses to be
        nobody = pwd.getpwnam("nobody")
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        for parent in machine.folder.parents:
            if parent.owner() == "root" and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o111)
        machine.folder.chmod(0o755)
        who = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    make = [*who, str(programs[0]), "-D", str(place), "-U", "prefect", "-A", "trust", "-N"]
    subprocess.run(make, check=True, capture_output=True, timeout=120)
    port = machine.ports["5432"]
    start = [*who, str(programs[1]), "-D", str(place), "-p", port, "-k", str(place)]
    start += ["-h", "127.0.0.1", "-c", "fsync=off"]
    with machine.running("database", command=start):
        client = ["psql", "-h", "127.0.0.1", "-p", port, "-U", "prefect", "-d", "postgres"]
        deadline = time.monotonic() + HEALTHY_S
        words = [*client, "-c", "create database prefect"]
        while subprocess.run(words, capture_output=True, timeout=60, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        yield True


@pytest.fixture
def machine(tmp_path: Path, settings: dict[str, str]) -> Iterator[Machine]:
    """All services that stay, but the flows; two workers."""
    here = Machine(tmp_path, settings)
    store = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", here.ports["9000"]]
    with ExitStack() as services:
        services.enter_context(database(here))
        services.enter_context(here.running("store", command=store))
        services.enter_context(here.running("server"))
        services.enter_context(here.running("scheduler"))
        for _ in range(2):
            port = {"8790": str(free_port())}
            services.enter_context(here.running("worker", **port))
        here.once("bucket")
        yield here


@pytest.mark.slow
def test_the_services_archive_and_check_what_arrives(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(7).integers(0, 4096, (64, 64, 8, 6), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), machine.folder / "inbox" / "jane-doe.nii")
    told = machine.once("archive") + machine.once("scrub")
    assert "jane-doe" not in told
    for name, value in machine.environment("worker").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    target = "s3://archives/volumes"
    (sealed,) = archives_at(target) or ()
    with ArchiveReader.open(sealed) as reader:
        (volume,) = reader.variables
        assert np.array_equal(np.asarray(reader.read(volume)).T.squeeze(), noise.squeeze())
    records = machine.folder / "records"
    found = status_of(target, event_log=str(records / "archives.events.jsonl"))
    assert (found.archives, found.unchecked, found.is_complete) == (1, 0, True)
    assert 'psc_archive_run_success{command="scrub"} 1.0' in (
        records / "psc-archive.prom"
    ).read_text("utf-8")


@pytest.mark.slow
def test_the_flows_are_served_until_they_are_told_to_stop(machine: Machine) -> None:
    with machine.running("flows") as served:
        log = machine.folder / "logs" / "flows-.log"
        ask = "from prefect.client.orchestration import get_client as c\n"
        ask += "with c(sync_client=True) as client: print(len(client.read_deployments()))"
        deadline, found = time.monotonic() + HEALTHY_S, "0"
        while found != "3":
            assert served.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
            done = subprocess.run(
                [sys.executable, "-c", ask],
                env=machine.environment("flows"),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            found = done.stdout.strip()
        served.send_signal(signal.SIGTERM)
        served.wait(timeout=STOP_S)
