"""What a process has one of, and a process that was forked from it another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["OwnLock", "of_this_process"]

R = TypeVar("R")


def of_this_process(known: dict[int, R], make: Callable[[], R]) -> R:
    """The one thing of this process; a parent's is dropped.

    The locks of a parent's may be held by threads that are not here. Called by several threads at
    once it gives all of them the same.
    """
    pid = os.getpid()
    found = known.get(pid)
    if found is None:
        found = known.setdefault(pid, make())
        for other in [one for one in list(known) if one != pid]:
            known.pop(other, None)
    return found


class OwnLock:
    """A lock of each process, for `with`; the thread that has it may take it again.

    In a process that is forked while a thread of its parent has the lock, nobody has it: that
    thread is not there to give it back. What the lock protects has to be whole at any moment.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}
        self._taken = threading.local()  # by this thread, the last one last

    def __enter__(self) -> None:
        lock = of_this_process(self._locks, threading.RLock)
        lock.acquire()
        self._taken.__dict__.setdefault("locks", []).append(lock)

    def __exit__(self, *_: object) -> None:
        self._taken.locks.pop().release()
