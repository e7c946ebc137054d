"""``psc-archive view`` as a command: what it starts, what others see of it, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archive import ArchiveOptions, archive, plan
from tests.pipelines.conftest import REPOSITORY

pytest.importorskip("aiohttp")

WAIT_S = 60
BROWSER = """#!/bin/sh
echo "$@" > {folder}/arguments
stat -c '%a' "${{1#file://}}" "$(dirname "${{1#file://}}")" > {folder}/modes
cat "${{1#file://}}" > {folder}/page
: > {folder}/done
"""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scan")
    values = np.random.default_rng(5).integers(0, 900, (40, 36, 12), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "scan.nii")
    target = str(folder / "scan.psc.zarr")
    archive(plan(folder / "scan.nii", target, ArchiveOptions(coders="fast")))
    return target


def _hear() -> None:
    """A shell's background jobs ignore SIGINT, those of nohup SIGHUP, and so would the program."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def viewing(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "view", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        preexec_fn=_hear,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=WAIT_S)


def address(running: subprocess.Popen[str]) -> str:
    """The line with the URL."""
    assert running.stdout is not None
    for line in running.stdout:
        found = re.search(r'http://[^\s"]+', line)
        if found:
            return found[0]
    raise AssertionError("it ended")


def test_what_others_see_of_the_browser_has_no_token(scan: str, tmp_path: Path) -> None:
    program = tmp_path / "browser"
    program.write_text(BROWSER.format(folder=tmp_path))
    program.chmod(0o755)
    place = tmp_path / "tmp"
    place.mkdir()
    with viewing(scan, BROWSER=f"{program} %s", TMPDIR=str(place)) as running:
        url = address(running)
        end = time.monotonic() + WAIT_S
        while not (tmp_path / "done").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        token = url.rstrip("/").rpartition("/")[2]
        told = (tmp_path / "arguments").read_text()
        assert told.startswith("file://")
        assert token not in told
        assert (tmp_path / "modes").read_text().split() == ["600", "700"]
        assert f'content="0; url={url}"' in (tmp_path / "page").read_text()
        seen = Path(f"/proc/{running.pid}/cmdline").read_bytes()
        assert token.encode() not in seen
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=WAIT_S) == 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_being_told_to_end_is_no_error(scan: str, number: signal.Signals, code: int) -> None:
    with viewing(scan, "--no-browser") as running:
        address(running)
        running.send_signal(number)
        said = running.communicate(timeout=WAIT_S)
    assert (running.returncode, said[1]) == (code, "")
    assert said[0].split() in ([], ["Ctrl-C", "ends", "it"])


def test_json_has_the_address_starts_no_browser_and_ends_when_told(
    scan: str, tmp_path: Path
) -> None:
    program = tmp_path / "browser"
    program.write_text(BROWSER.format(folder=tmp_path))
    program.chmod(0o755)
    with viewing(scan, "--json", BROWSER=f"{program} %s") as running:
        text = ""
        assert running.stdout is not None
        while not text.rstrip().endswith("}"):
            line = running.stdout.readline()
            assert line, "it ended"
            text += line
        document = json.loads(text)
        assert document["name"] == "scan.psc.zarr"
        with urllib.request.urlopen(document["url"], timeout=WAIT_S) as answer:
            assert answer.status == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=WAIT_S) == 143
    assert not (tmp_path / "done").exists()
