"""What a process does that is forked while this one has threads and locks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

__all__ = ["in_a_fork"]

LIMIT_S = 60.0


def in_a_fork(is_fine: Callable[[], bool]) -> bool:
    """Ask a forked process, which is killed where it never answers."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if is_fine() else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + LIMIT_S
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(found[1]) == 0
