"""SIGTERM and SIGHUP end a command in order: children too, staged files gone, work kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.stopping import Stopped, stoppable
from psc_volumetric.methods.av1.encoder import find_ffmpeg

LIMIT_S = 120.0
SLOW = pytest.mark.slow
CODES = [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(autouse=True)
def _heard():
    """SIGHUP as from a terminal; a process without one (nohup) begins with it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )


def children(pid: int) -> list[int]:
    """Process numbers of all that a process has started, theirs included."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children(child)]
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and not a mere remains that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def series(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 4000, (32, 32, 8, 3), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "series.nii")
    return tmp_path / "series.nii"


@pytest.mark.parametrize(("number", "code"), [CODES[0], pytest.param(*CODES[1], marks=SLOW)])
@pytest.mark.skipif(find_ffmpeg() is None, reason="needs the extra av1")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_archive_ends_ffmpeg_and_is_continued(series, tmp_path, run, number, code):
    target = tmp_path / "x.psc.zarr"
    words = ("archive", series, target, "--mode", "lossy", "--base", "av1", "--step", "0.05")
    process = start(*words)
    deadline, found = time.monotonic() + LIMIT_S, []
    while not any((target / "partial").rglob("*.json")) or not found:
        assert process.poll() is None and time.monotonic() < deadline
        found = children(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code
    assert f"error[stopped]: stopped by {number.name}" in err and "run the same command" in err
    assert not [pid for pid in found if is_alive(pid)]
    assert not (target / "manifest.json").exists()
    resumed = run(*words, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["archives"][0]["resumed"] >= 1


@pytest.mark.parametrize(("number", "code"), CODES)
def test_signals_are_exceptions_only_within_the_block(number: int, code: int) -> None:
    with pytest.raises(Stopped) as caught, stoppable():
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


PROGRAM_WITH_THREAD = """
import atexit, sys, threading, time
from pipelines.stopping import Leaving

leaving = Leaving()
atexit.register(print, "put in order")
if sys.argv[1] == "busy":
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
leaving.code = 7
sys.exit(3)
"""


@pytest.mark.parametrize(("what", "code"), [("busy", 7), ("idle", 3)])
def test_a_program_ends_by_itself_where_threads_are_at_work(what: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_WITH_THREAD, what],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "put in order\n", "")
