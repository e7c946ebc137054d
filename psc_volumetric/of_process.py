"""What a process has one of, and a process that was forked from it another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

__all__ = ["of_this_process"]

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
