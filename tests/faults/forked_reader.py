"""A reading process that is forked from the command instead of started anew.

Starting it costs more than all the rest of a small command, and rounds of kills run thousands. What
runs in it, its limits, its pipe and its end with its parent are those of ``adapters.isolation``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from adapters.isolation import process, server

__all__ = ["fork_readers"]


class ForkedReader:
    """As much of ``subprocess.Popen`` as ``adapters.isolation.process`` uses."""

    def __init__(
        self, command: list[str], *, pass_fds: list[int], env: dict[str, str], **_: Any
    ) -> None:
        words = command[command.index("-m") + 1 :]
        self._status: int | None = None
        self._lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            _become(words, pass_fds[0], env)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with self._lock:
            if self._status is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if pid else None
            return self._status

    def wait(self, timeout: float = float("inf")) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("reader", timeout)
            time.sleep(0.002)
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become(words: list[str], pipe: int, env: dict[str, str]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    code: Any = 0
    try:
        server.main()
    except SystemExit as left:
        code = left.code
    except Exception:  # noqa: BLE001 - as an interpreter does that ends
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        os._exit(int(code or 0))


def fork_readers() -> None:
    """From now on, in this process and its children."""
    vars(process)["subprocess"] = SimpleNamespace(
        Popen=ForkedReader,
        DEVNULL=subprocess.DEVNULL,
        TimeoutExpired=subprocess.TimeoutExpired,
    )
