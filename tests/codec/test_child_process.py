"""Programs that we start end with us, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psc_volumetric.methods.av1.child_process import run_child

PARENT = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run without a terminal
from psc_volumetric.methods.av1.child_process import run_child
print("ready", flush=True)
run_child([sys.argv[1], sys.argv[2]], b"", timeout_s=60)
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


def processes(word: str) -> list[int]:
    """Processes that have this word among their arguments and are not mere remains."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in words and state != "Z" and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def wait_until(count: int, word: str) -> None:
    deadline = time.monotonic() + 30
    while len(processes(word)) != count:
        assert time.monotonic() < deadline, processes(word)
        time.sleep(0.01)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_child_ends_with_its_parent(number: int, tmp_path: Path) -> None:
    span = f"61.{time.time_ns()}"  # a word that no other process has
    process = subprocess.Popen([sys.executable, "-c", PARENT, "sleep", span])
    try:
        wait_until(2, span)
        time.sleep(0.3)  # the child is the program by now
        process.send_signal(number)
        assert process.wait() == -number
        wait_until(0, span)
    finally:
        process.kill()
        for left in processes(span):
            os.kill(left, signal.SIGKILL)


def test_input_output_and_exit_code_are_the_programs() -> None:
    done = run_child(["cat"], b"words" * 10_000, timeout_s=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"words" * 10_000, b"")
    done = run_child(["sh", "-c", "echo no >&2; exit 3"], b"", timeout_s=30)
    assert (done.returncode, done.stderr) == (3, b"no\n")


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_child(["sleep", "60"], b"", timeout_s=0.5)


def test_arguments_arrive_as_they_are() -> None:
    words = ["a b", "", "-c", "ü", "$HOME"]
    done = run_child(["printf", "%s|", *words], b"", timeout_s=30)
    assert done.stdout.decode() == "".join(f"{word}|" for word in words)


def test_much_input_reaches_a_slow_child() -> None:
    program = (
        "import sys, time; time.sleep(1); sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    )
    data = bytes(range(256)) * 20_000
    assert run_child([sys.executable, "-c", program], data, timeout_s=60).stdout == data[::-1]
