"""One run at a time on one target, and locks of runs that are gone are no obstacle."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.archiving import locking
from pipelines.archiving.locking import Owner, hold, lock_path
from psc_volumetric.errors import StorageError

HOLDER = """
import sys, time
from pipelines.archiving.locking import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(target: Path, seconds: float = 60) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", HOLDER, str(target), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "scan.psc.zarr"


@pytest.fixture
def no_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks, as some network file systems."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_second_run_is_told_who_holds_the_target(target: Path) -> None:
    process = holder(target)
    try:
        with pytest.raises(StorageError) as caught, hold(str(target)):
            pass
    finally:
        process.kill()
        process.wait()
    assert caught.value.kind == "target-locked"
    for part in (repr(str(target)), str(process.pid), os.uname().nodename, "wait", ".lock"):
        assert part in str(caught.value)


def test_second_run_waits_when_asked(target: Path) -> None:
    process = holder(target, 1.0)
    told: list[Owner | None] = []
    begin = time.monotonic()
    with hold(str(target), wait_s=30, told=told.append):
        assert time.monotonic() - begin > 0.3
        assert [owner and owner.pid for owner in told] == [process.pid]
    assert process.wait() == 0
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lock_of_a_killed_run_is_no_obstacle(target: Path, number: int) -> None:
    process = holder(target)
    process.send_signal(number)
    process.wait()
    assert lock_path(str(target)).exists()
    with hold(str(target)):
        pass
    assert not list(target.parent.iterdir())


def test_a_forked_child_does_not_keep_the_lock(target: Path) -> None:
    with hold(str(target)):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with hold(str(target)):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_one_process_cannot_hold_a_target_twice(target: Path) -> None:
    with hold(str(target)), pytest.raises(StorageError), hold(str(target)):
        pass


def test_an_owner_on_another_machine_is_gone_after_half_an_hour(target: Path) -> None:
    path = lock_path(str(target))
    path.parent.mkdir()
    elsewhere = replace(Owner.us(), host="elsewhere", kernel="another")
    path.write_bytes(elsewhere.text())
    with pytest.raises(StorageError, match="on elsewhere"), hold(str(target)):
        pass
    old = time.time() - locking.SILENT_S - 1
    os.utime(path, (old, old))
    with hold(str(target)):
        assert Owner.parse(path.read_bytes()).host == Owner.us().host


@pytest.mark.skipif(sys.platform != "linux", reason="tells machines apart by the kernel's boot id")
def test_a_container_that_is_gone_is_no_obstacle(target: Path) -> None:
    path = lock_path(str(target))
    path.parent.mkdir()
    path.write_bytes(replace(Owner.us(), host="pod-7f", pid=7).text())
    with hold(str(target)):
        pass


def test_signs_of_life_keep_a_lock_fresh(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "SIGN_OF_LIFE_S", 0.02)
    with hold(str(target)):
        path = lock_path(str(target))
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < time.time() - 100:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.usefixtures("no_kernel_locks")
def test_without_kernel_locks_the_owner_decides(target: Path) -> None:
    path = lock_path(str(target))
    with hold(str(target)), pytest.raises(StorageError), hold(str(target)):
        pass
    gone = subprocess.Popen(["true"])
    gone.wait()
    for stale in (replace(Owner.us(), pid=gone.pid), replace(Owner.us(), started=1)):
        path.write_bytes(stale.text())
        with hold(str(target)):
            pass


@pytest.mark.parametrize("text", [b"", b"\xff", b"{}", b"[" * 100_000, b'{"pid": null}'])
def test_unreadable_locks_belong_to_nobody(target: Path, text: bytes) -> None:
    path = lock_path(str(target))
    path.parent.mkdir()
    path.write_bytes(text)
    with hold(str(target)):
        pass


def test_object_stores_have_no_lock() -> None:
    for url in ("s3://bucket/scan.psc.zarr", "memory://x", "zip::s3://bucket/a.zip"):
        assert lock_path(url) is None
        with hold(url), hold(url):
            pass


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught, hold(str(tmp_path / "file" / "scan.psc.zarr")):
        pass
    assert caught.value.kind == "storage-failed"
