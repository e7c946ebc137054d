"""The shim between a command and the file system: built, armed and read out here."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ACTIONS", "Fault", "Shim", "compiler", "operations"]

ACTIONS = ("count", "kill", "tear", "full", "fail-once", "pause", "copy")
_LAYOUT = struct.Struct("<qqiiii1024s1024s1024s")
_MET = 28


def compiler() -> str | None:
    """A C compiler, or None: then nothing here can run."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


@functools.cache
def library() -> Path:
    """The built shim; in a folder of its own that lasts as long as this process."""
    built = compiler()
    if built is None:
        raise RuntimeError("a C compiler is needed to put faults at the file system")
    folder = Path(tempfile.mkdtemp(prefix="psc-faults-shim-"))
    out = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([built, "-O1", "-shared", "-fPIC", "-o", out, source, "-ldl"], check=True)
    return out


@dataclass(frozen=True)
class Fault:
    """What happens at which operation below ``root``.

    Parameters
    ----------
    root : Path
        Operations elsewhere are not counted.
    at : int
        Number of the operation, from 1; with ``"copy"``, each at-th one.
    action : str
        One of ``ACTIONS``: nothing; SIGKILL before it; SIGKILL after half of a write; no room on
        the disk from there on; one failure; SIGSTOP before it; a copy of ``root`` before the
        operation and in the middle of it, if it is a write.
    room : int
        With ``"full"``: bytes that still fit.
    log : Path, optional
        File that lists operations.
    copies : Path, optional
        With ``"copy"``: the folder for the copies, named after the operations.
    """

    root: Path
    at: int = 0
    action: str = "count"
    room: int = 0
    log: Path | None = None
    copies: Path | None = None


class Shim:
    """Shared memory with the processes of a run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state"
        self.path.write_bytes(bytes(_LAYOUT.size))
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be under the shim, with all its children."""
        return {"LD_PRELOAD": str(library()), **self.mark}

    @property
    def mark(self) -> dict[str, str]:
        """What tells the processes of these runs from others."""
        return {"PSC_FAULT_STATE": str(self.path)}

    def arm(self, fault: Fault) -> None:
        """Set the fault of the next run; the counter starts again."""
        log = b"" if fault.log is None else os.fsencode(fault.log)
        copies = b"" if fault.copies is None else os.fsencode(fault.copies)
        self._memory[:] = _LAYOUT.pack(
            0,
            fault.at,
            ACTIONS.index(fault.action),
            0,
            fault.room,
            0,
            os.fsencode(fault.root),
            log,
            copies,
        )

    def set_main(self, pid: int) -> None:
        """The process that dies together with the one that meets the fault."""
        self._memory[20:24] = struct.pack("<i", pid)

    @property
    def count(self) -> int:
        """Operations of the last run."""
        return int(struct.unpack_from("<q", self._memory, 0)[0])

    @property
    def met(self) -> bool:
        """Whether the fault happened."""
        return bool(struct.unpack_from("<i", self._memory, _MET)[0])

    def processes(self) -> list[int]:
        """Living processes under this shim."""
        mark = f"PSC_FAULT_STATE={self.path}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def operations(log: Path) -> Iterator[Sequence[str]]:
    """Lines of a log: number, operation, path, second path."""
    for line in log.read_text(errors="surrogateescape").splitlines():
        yield line.split("\t")
