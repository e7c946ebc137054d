"""``python -m flows serve`` where no Prefect server is: it brings its own, and takes it along."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipelines.commands.failures import EXIT_STORAGE
from psc_volumetric.archive.reader import ArchiveReader


class Server:
    """The API of the server that `serve` starts."""

    def __init__(self, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}/api"

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.api + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def deployments(self) -> dict[str, str]:
        """Name -> id; none while it starts."""
        try:
            return {row["name"]: row["id"] for row in self.ask("/deployments/filter", {})}
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return {}

    def state(self, run: str) -> str:
        wanted = {"flow_runs": {"id": {"any_": [run]}}}
        (found,) = self.ask("/flow_runs/filter", wanted)
        return str(found["state_type"])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    found = {**os.environ, "PREFECT_HOME": str(tmp_path / "home")}
    found.pop("PREFECT_API_URL", None)
    return found


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def served(
    tmp_path: Path, environment: dict[str, str], port: int
) -> Iterator[subprocess.Popen[bytes]]:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    image = nibabel.Nifti1Image(np.ones((6, 7, 8), np.int16), np.eye(4))
    nibabel.save(image, inbox / "jane-doe.nii")
    words = [sys.executable, "-m", "flows", "serve", str(inbox), str(tmp_path / "out")]
    words += ["--port", str(port), "--coders", "zstd", "--quiet-for", "0", "--log-json"]
    words += ["--archive-at", "0 0 1 1 *"]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            words, env=environment, stderr=log, stdout=log, start_new_session=True, cwd=tmp_path
        )
    yield running
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(timeout=30)


@pytest.mark.slow
def test_serve_starts_its_own_server_and_ends_it(
    served: subprocess.Popen[bytes], port: int, tmp_path: Path
) -> None:
    server, deadline = Server(port), time.monotonic() + 180
    while "arrivals" not in (found := server.deployments()):
        assert served.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    run = server.ask(f"/deployments/{found['arrivals']}/create_flow_run", {})["id"]
    deadline = time.monotonic() + 180
    while (state := server.state(run)) not in ("COMPLETED", "FAILED", "CRASHED"):
        assert served.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    log = tmp_path / "log"
    assert state == "COMPLETED", log.read_text("utf-8")
    with ArchiveReader.open(tmp_path / "out" / "jane-doe.psc.zarr") as reader:
        assert reader.mode == "lossless"
    served.send_signal(signal.SIGTERM)
    served.wait(timeout=90)
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    assert "jane-doe" not in log.read_text("utf-8")


def test_serve_takes_no_other_program_for_its_server(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        words = [sys.executable, "-m", "flows", "serve", str(tmp_path), str(tmp_path / "out")]
        words += ["--port", str(other.getsockname()[1])]
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == EXIT_STORAGE
    assert "error[no-server]" in done.stderr
