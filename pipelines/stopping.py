"""Being told to stop: SIGTERM and SIGHUP become an exception, so that all is put in order.

A batch system or a closed terminal ends a program with these signals, and by default Python leaves
at once: children go on, staged files stay. Here they raise `Stopped` in the main thread, which ends
children and removes staged files on its way, as Ctrl-C does; unfinished archives stay and can be
continued. The same signal a second time ends the process at once.

Threads that nobody waits for may still be at work then, importing or compiling what may be wanted.
Python ends such a thread when it next asks for the interpreter, and where that is inside a library
of C++, the whole process ends with SIGABRT in place of its exit code. So a program of ours ends by
itself (`Leaving`).
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Leaving", "Stopped", "stoppable"]

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The process was told to stop.

    Attributes
    ----------
    signal : signal.Signals
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """What a shell reports for a program that this signal ended: 143 or 129."""
        return 128 + self.signal


class Leaving:
    """The end of this process, with its exit code, also while threads are at work.

    Made before others register what is to be done at the end, so that it comes after all of that.

    Attributes
    ----------
    code : int
        What the process ends with if threads are left.
    """

    def __init__(self) -> None:
        self.code = 1
        atexit.register(self._leave)

    def _leave(self) -> None:
        if not any(thread.daemon for thread in threading.enumerate()):
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(self.code)


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `Stopped` within the block.

    Signals that somebody else handles, or that are ignored (``nohup``), stay as they are. Outside
    the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
