"""Commands under the shim, from the side of the test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.faults.shim import Fault, Shim

__all__ = ["Outcome", "Runner", "scratch_folder"]

ROOT = Path(__file__).resolve().parents[2]
EPOCH = "1700000000"


def scratch_folder(prefix: str) -> Path:
    """A new folder, in memory where the system has one: thousands of runs sync their files."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=memory if usable else None))


@dataclass(frozen=True)
class Outcome:
    """What one run did.

    Attributes
    ----------
    code : int
        Exit code; minus the signal's number when one ended it.
    out, err : str
    count : int
        Operations below the watched folder.
    met : bool
        Whether the fault happened.
    seconds : float
    """

    code: int
    out: str
    err: str
    count: int
    met: bool
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL


class Runner:
    """One warm process; ``with Runner() as runner: runner.run(["verify", ...])``.

    Parameters
    ----------
    environment : dict, optional
        More variables for the commands.
    shimmed : bool
        False where faults come from elsewhere, for example an object store.
    """

    def __init__(self, environment: dict[str, str] | None = None, *, shimmed: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="psc-faults-"))
        self.shim = Shim(self.folder)
        self.environment = {
            "SOURCE_DATE_EPOCH": EPOCH,
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        self._out, self._err = self.folder / "out", self.folder / "err"
        preload = self.shim.environment if shimmed else self.shim.mark
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.serve"],
            cwd=ROOT,
            env={**os.environ, **preload},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self._pid = 0
        self._started = 0.0

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._server.stdin is not None:
            self._server.stdin.close()
        self.kill()
        self._server.wait(10)
        if self._server.stdout is not None:
            self._server.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the warm process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, words: list[str], fault: Fault) -> int:
        """Begin a command; gives its process."""
        assert self._server.stdin is not None
        self.shim.arm(fault)
        request = {
            "argv": words,
            "env": self.environment,
            "out": str(self._out),
            "err": str(self._err),
        }
        self._started = time.perf_counter()
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        self._pid = int(self._answer()["pid"])
        self.shim.set_main(self._pid)
        return self._pid

    def finish(self) -> Outcome:
        """Wait for the command."""
        code = int(self._answer()["code"])
        return Outcome(
            code,
            self._out.read_text(errors="replace") if self._out.exists() else "",
            self._err.read_text(errors="replace") if self._err.exists() else "",
            self.shim.count,
            self.shim.met,
            time.perf_counter() - self._started,
        )

    def run(self, words: list[str], fault: Fault) -> Outcome:
        """Run a command to its end, whatever that is."""
        self.start(words, fault)
        return self.finish()

    def run_and_kill(self, words: list[str], fault: Fault, after_s: float) -> Outcome:
        """Run a command and send SIGKILL after a while."""
        pid = self.start(words, fault)
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.finish()

    def kill(self) -> None:
        """End the command that runs now, and all its children."""
        for pid in self.stragglers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stragglers(self, patience_s: float = 0.0) -> list[int]:
        """Processes of commands that have ended; waits a while for them to go."""
        deadline = time.monotonic() + patience_s
        while True:
            left = [pid for pid in self.shim.processes() if pid != self._server.pid]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)
