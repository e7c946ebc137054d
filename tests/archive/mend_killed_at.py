"""Mend copies of a damaged archive, each killed before a later change of the file system.

    python mend_killed_at.py TEMPLATE FOLDER NAME

TEMPLATE is a folder with the damaged archive NAME and the folder ``replica``; the copies are
FOLDER/0, FOLDER/1, ... The last one is not killed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from psc_volumetric.archive.mending import mend
from psc_volumetric.archive.stores import open_store

CHANGES = frozenset({"os.rename", "os.remove", "os.link", "os.rmdir", "os.mkdir"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def mend_until(place: Path, name: str, moment: int) -> None:
    """Mend, and be killed before the change of this number."""
    left = moment

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event in CHANGES or opens:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(watch)
    mend(str(place / name), [open_store(str(place / "replica"))])


def main(template: Path, folder: Path, name: str) -> None:
    """Kill at every moment, in children of a process that has no threads."""
    for moment in itertools.count():
        shutil.copytree(template, folder / str(moment), symlinks=True)
        child = os.fork()
        if child == 0:
            mend_until(folder / str(moment), name, moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
