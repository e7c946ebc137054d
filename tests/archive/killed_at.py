"""Seal copies of an unfinished archive, each killed before a later change of the file system.

    python killed_at.py TEMPLATE FOLDER NAME EVERY

TEMPLATE is a folder with the unfinished archive NAME; the copies are FOLDER/0, FOLDER/EVERY, ...
The last one is not killed. Changes are seen by an audit hook of the interpreter, below all code of
the archive.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from psc_volumetric.archive import ArchiveWriter

CHANGES = frozenset({"os.rename", "os.remove", "os.link", "os.rmdir", "os.mkdir"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def seal(target: Path, moment: int) -> None:
    """Join the archive, prepare it, count from there."""
    prepared = ArchiveWriter.open_partial(target).prepare(preview_bytes=1 << 20)
    left = moment

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event in CHANGES or opens:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(watch)
    prepared.commit()


def main(template: Path, folder: Path, name: str, every: int) -> None:
    """Kill at every moment, or some, in children of a process that has no threads."""
    for moment in itertools.count(step=every):
        shutil.copytree(template, folder / str(moment))
        child = os.fork()
        if child == 0:
            seal(folder / str(moment) / name, moment)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
