"""A Prefect server and folders of scans for the flow tests; the server is real and started once."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom.data
import pytest

# Prefect reads these when it is imported: no analytics, and nothing in the user's home.
PREFECT_HOME = tempfile.mkdtemp(prefix="psc-archive-prefect-")
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_HOME": PREFECT_HOME,
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_LOOP_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}
os.environ.update(SETTINGS)
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Address of the API of a Prefect server, which this process and its children then use."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = Path(PREFECT_HOME, "server.log")
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_healthy(f"{url}/health", server, log)
        os.environ["PREFECT_API_URL"] = url
        with temporary_settings(updates={PREFECT_API_URL: url}):
            yield url
            # what waits to be told goes before the server does: at its end the process would try
            # for a minute to reach it
            APILogHandler().flush()
            EventsWorker.drain_all()
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(PREFECT_HOME, ignore_errors=True)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, log.read_text("utf-8", "replace")[-4000:]
            time.sleep(0.2)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with four items (a CT series, a CT image, an MR volume, a label map) and a text."""
    folder = tmp_path_factory.mktemp("scans")
    ct_image = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    shutil.copy(ct_image, folder / "ct_small.dcm")
    shutil.copytree(ct_image.parent / "dicomdirtests" / "98892001" / "CT5N", folder / "series")
    shutil.copy(Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii", folder)
    labels = np.zeros((20, 24, 6), np.uint8)
    labels[4:12, 6:16, 2:5] = 3
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "labels.nii")
    (folder / "notes.txt").write_text("not a scan\n", encoding="utf-8")
    return folder
