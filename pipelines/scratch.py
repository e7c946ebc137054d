"""Room for files that are written only to be compared, and are gone afterwards.

A process that is killed leaves its folder behind, and that may hold patient data: the name says
whose it is, and the next run on this machine removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psc_volumetric.archive.stores import is_url
from psc_volumetric.errors import StorageError

__all__ = ["scratch_folder"]

_NAME = re.compile(r"\.psc-archive-proof-(?P<host>[0-9a-zA-Z_.-]*)-(?P<pid>\d+)-[^/]+")
_SPARE_BYTES = 64 << 20


@contextmanager
def scratch_folder(
    target: str,
    nbytes: int,
    *,
    purpose: str = "restoring what is to be compared",
    beside: bool = False,
) -> Iterator[Path]:
    """Give an empty folder with room for some bytes; it is removed at the end of the block.

    Parameters
    ----------
    target : str
        Where the archive goes; its file system is used where ``TMPDIR`` is too small.
    nbytes : int
    purpose : str
        What it is for, as the subject of a sentence.
    beside : bool
        Beside a target that is a folder and nowhere else: other machines reach it there.

    Raises
    ------
    StorageError : kind ``"no-space"``.
    """
    places = [Path(tempfile.gettempdir())]
    if not is_url(target):
        if beside:
            places.clear()
        places.append(Path(target).absolute().parent)
    for place in places:
        _remove_abandoned(place)
    free = {place: shutil.disk_usage(place).free for place in places if place.is_dir()}
    room = [place for place, left in free.items() if left >= nbytes + _SPARE_BYTES]
    if not room:
        shown = ", ".join(f"{str(place)!r} ({left})" for place, left in free.items())
        raise StorageError(
            f"{purpose} needs {nbytes} bytes of disk space, found {shown}",
            kind="no-space",
            hint="set TMPDIR to a larger disk; `archive` can leave the comparison out (--no-proof)",
        )
    host = re.sub(r"[^0-9a-zA-Z_.]", "_", socket.gethostname())
    prefix = f".psc-archive-proof-{host}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=room[0]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    """Remove what killed processes of this machine left."""
    host = re.sub(r"[^0-9a-zA-Z_.]", "_", socket.gethostname())
    for left in place.glob(".psc-archive-proof-*"):
        found = _NAME.fullmatch(left.name)
        if found and found["host"] == host and not Path(f"/proc/{found['pid']}").exists():
            shutil.rmtree(left, ignore_errors=True)
