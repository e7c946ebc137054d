"""Programs that end with us: no encoder goes on working for a process that is gone.

Python ends a child when an exception passes through `subprocess.run`. Nobody does that when this
process is ended by a signal it cannot catch. On Linux the kernel does, if the child asks for it
(``PR_SET_PDEATHSIG``); the child then is our interpreter for the few milliseconds that asking takes
and becomes the program after it. Elsewhere the program sees the end of its input, writes into a
closed pipe and ends a little later. Not part of the format.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from psc_volumetric.threads import ended_by

__all__ = ["bound_to_us", "run_child"]

# Run by a fresh interpreter: words are our process number, then the program with its arguments.
# If we are gone already, there is nobody left to ask for.
_BIND = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
_BARE = ("-I", "-S", "-c")  # no site, no environment, no user folders: some 10 ms


def bound_to_us(words: Sequence[str]) -> list[str]:
    """Give the command that runs a program which the system ends together with this process.

    Parameters
    ----------
    words : sequence of str
        Absolute path of the program, then its arguments.
    """
    if not (sys.platform == "linux" and sys.executable):
        return list(words)
    return [sys.executable, *_BARE, _BIND, str(os.getpid()), *words]


def run_child(
    words: Sequence[str], data: bytes, *, timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a program on ``data`` and wait for it; it is ended with us, however we end.

    Raises
    ------
    OSError, subprocess.SubprocessError : it cannot be started, or takes longer than ``timeout_s``.
    Abandoned : nobody waits for this thread any more; the program is ended.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(bound_to_us(words), stdin=pipe, stdout=pipe, stderr=pipe) as child:
        try:
            with ended_by(child.kill):
                out, err = child.communicate(data, timeout=timeout_s)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(words, child.returncode, out, err)
