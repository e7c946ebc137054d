"""What runs in the child: answer requests, one after the other, until the parent is gone.

Run as ``python -m adapters.isolation.server FD PARENT MEMORY_MB`` by ``adapters.isolation``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from adapters import registry
from adapters.base import (
    Array,
    Candidate,
    LazyArray,
    RestoredVolume,
    SourceItem,
    selection_bounds,
)
from adapters.comparison import difference
from adapters.errors import SourceError
from adapters.isolation.array import RemoteArray
from adapters.isolation.process import FAILED, MEMORY, MEMORY_MB
from adapters.isolation.wire import receive, send
from adapters.kept_open import KEPT
from adapters.source_files import FileStates, file_states

__all__ = ["main"]

_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_LARGEST_REQUEST = 1 << 30
_ITEMS_KEPT = 2
# What says nothing about the content of a file.
_OF_THE_DISK = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
_IDLE_S = 1.0

# Arrays of the sources opened last, for the requests that read them.
_Key = tuple[Candidate, FileStates]
_opened: OrderedDict[_Key, dict[str, LazyArray]] = OrderedDict()


def main() -> None:
    """Set the limits, then serve."""
    number, parent, memory_mb = map(int, sys.argv[1:])
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to decide
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Memory that is allocated; files mapped for reading (large NIfTI) do not count.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))
    connection = Connection(number)
    sys.excepthook = lambda kind, error, trace: _tell_unforeseen(connection, kind, trace)
    send(connection, {"ready": True})
    KEPT.keeps = True
    with suppress(EOFError):
        while True:
            if not connection.poll(_IDLE_S):
                KEPT.release()  # whoever wants to write to the file may
            _answer(connection, receive(connection, _LARGEST_REQUEST), memory_mb)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _answer(connection: Connection, request: dict[str, Any], memory_mb: int) -> None:
    try:
        try:
            found = _do(connection, request, memory_mb)
        except SourceError as error:
            _check_memory(memory_mb)  # a library that had too little of it calls files damaged
            send(connection, {"error": [error.kind, error.message, error.path, error.hint]})
        except OSError as error:
            if request["do"] in ("restore", "deidentify") or error.errno not in _OF_THE_DISK:
                raise
            path = None if error.filename is None else Path(os.fsdecode(error.filename))
            send(
                connection, {"error": ["unreadable", f"cannot read: {error.strerror}", path, None]}
            )
        else:
            send(connection, {"found": found})
    except MemoryError:
        message = f"reading needs more than the {memory_mb} MiB it may have"
        hint = f"the file may be damaged; {MEMORY_MB}={2 * memory_mb} allows more"
        send(connection, {"error": [MEMORY, message, None, hint]})
        sys.exit(1)  # what is left of the heap is not worth having


def _tell_unforeseen(
    connection: Connection, kind: type[BaseException], trace: TracebackType | None
) -> None:
    """Name an exception that nobody foresaw, by class and place: its text may quote headers."""
    frames = traceback.extract_tb(trace)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    message = f"its content cannot be understood ({kind.__name__}{place})"
    hint = "the file is damaged or unusual; please report it if others can read it"
    with suppress(OSError):
        send(connection, {"error": [FAILED, message, None, hint]})


def _check_memory(memory_mb: int) -> None:
    """Raise MemoryError when half of it is taken though nothing is being read."""
    if _allocated() > memory_mb << 19:
        raise MemoryError


def _allocated() -> int:
    """Bytes of data and stack, as the limit counts them; 0 where the system does not tell."""
    try:
        words = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return int(words[5]) * resource.getpagesize()


def _do(connection: Connection, request: dict[str, Any], memory_mb: int) -> Any:
    what = request["do"]
    if request["here"] is not None:
        with suppress(OSError):  # it has gone since: absolute paths are as good as before
            os.chdir(request["here"])
    if what not in ("open", "read"):
        KEPT.release()
    if what == "discover":
        files = _Reported(request["files"], connection, memory_mb)
        return registry.adapter_for(request["kind"]).discover(files)
    if what == "open":
        candidate = request["candidate"]
        return _remote(candidate, _open(candidate, _key(candidate)))
    if what == "read":
        candidate = request["candidate"]
        key = _key(candidate)
        if key not in _opened:
            _open(candidate, key)
        array = _opened[key][request["volume"]]
        return np.asarray(array[tuple(slice(*pair) for pair in request["box"])])
    if what == "content_sha256":
        return registry.content_sha256(request["kind"], request["path"])
    if what == "deidentify":
        from adapters.dicom.deidentify import deidentify

        secret = bytes.fromhex(request["key"])
        return deidentify(request["paths"], request["folder"], secret, request["profile"])
    if what == "difference":
        return difference(request["source"], request["restored"], request["bounds"])
    if what == "restore":
        volumes = [
            RestoredVolume(name, _Asked(number, shape, dtype, connection), start, full)
            for number, (name, start, shape, full, dtype) in enumerate(request["volumes"])
        ]
        document, blobs = request["document"], _AskedBlobs(request["blobs"], connection)
        target, info = request["target"], request["info"]
        return registry.restore_source(request["kind"], document, blobs, volumes, target, info)
    raise ValueError(what)


def _remote(candidate: Candidate, item: SourceItem) -> SourceItem:
    def remote(name: str, array: LazyArray) -> RemoteArray:
        return RemoteArray(candidate, name, tuple(array.shape), array.dtype.str)

    return replace(
        item,
        volumes=tuple(replace(v, array=remote(v.name, v.array)) for v in item.volumes),
        arrays=tuple(replace(a, array=remote(a.name, a.array)) for a in item.arrays),
    )


def _key(candidate: Candidate) -> _Key:
    """Names are used again in folders of arrivals: another file must not get this one's header."""
    return candidate, file_states(candidate.paths)


def _open(candidate: Candidate, key: _Key) -> SourceItem:
    item = registry.open_source(candidate)
    _opened.pop(key, None)
    _opened[key] = {v.name: v.array for v in item.volumes}
    _opened[key] |= {a.name: a.array for a in item.arrays}
    while len(_opened) > _ITEMS_KEPT:
        _opened.popitem(last=False)
    return item


@dataclass(frozen=True)
class _Asked:
    """Values to write, which the parent has. See ``LazyArray``."""

    number: int
    shape: tuple[int, ...]
    type_name: str
    connection: Connection

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.type_name)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        box = [list(pair) for pair in selection_bounds(key, self.shape)]
        send(self.connection, {"need": [self.number, box]})
        found: Array = receive(self.connection, _LARGEST_REQUEST)
        return found


class _AskedBlobs(Mapping[str, bytes]):
    """Blobs of the source document, which the parent has."""

    def __init__(self, names: Sequence[str], connection: Connection) -> None:
        self._names = dict.fromkeys(names)
        self._connection = connection

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        send(self._connection, {"need": [name, []]})
        found: bytes = receive(self._connection, _LARGEST_REQUEST)
        return found


class _Reported(Sequence[Path]):
    """Files that tell the parent which of them is read now.

    A file that left much memory behind raises MemoryError, before its neighbours suffer.
    """

    def __init__(self, files: Sequence[Path], connection: Connection, memory_mb: int) -> None:
        self._files = files
        self._connection = connection
        self._memory_mb = memory_mb

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        return self._files[index]

    def __iter__(self) -> Iterator[Path]:
        for number, file in enumerate(self._files):
            send(self._connection, {"at": number})
            yield file
            _check_memory(self._memory_mb)
        send(self._connection, {"at": -1})


if __name__ == "__main__":
    main()
