"""A process of its own for the decoders of others, which read what a stranger may have written.

FFmpeg, the libraries below tifffile and those of FITS tiles are not made for hostile bytes: some
read beyond their buffers, some take what memory a file asks for. Here that ends a child, with
limits of memory and time, and gives an error. PNG and JPEG XL are decoded by libraries that are
made for it, where the part is wanted. Messages are a line of JSON and the large part behind it.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.kept_decoders import Part, decoded_here
from psc_volumetric.errors import LimitExceededError
from psc_volumetric.methods.av1.child_process import bound_to_us
from psc_volumetric.of_process import OwnLock

__all__ = ["decoded_apart"]

MEMORY = 2 << 30  # bytes that the child may take, besides the file and twice the part
SECONDS = 60.0
BYTES_PER_S = 4e6  # the slowest decoder we wait for
_KINDS = "biuf"
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class _CrashedError(ValueError):
    """The child ended in the middle of an answer."""


class _Child:
    """One process; it keeps the file that it got last."""

    def __init__(self) -> None:
        words = [sys.executable, "-P", "-m", "psc_volumetric.archive.kept_process"]
        paths = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self.pid = os.getpid()
        self.sent: bytes | None = None
        self.answered = 0
        self.process = subprocess.Popen(
            bound_to_us(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_QUIET, "PYTHONPATH": paths},
        )

    def ask(self, request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for its answer and what stands behind it (OSError, ValueError).

        The file is sent only where it is another one than before.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        again = data is self.sent
        _send(self.process.stdin, {**request, "bytes": None if again else len(data)})
        if not again:
            self.process.stdin.write(data)
            self.sent = data
        self.process.stdin.flush()
        found = _received(self.process.stdout)
        self.answered += 1
        return found

    def end(self) -> None:
        """Make sure that it is gone."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it has not taken has nobody to go to
                    pipe.close()


_lock = OwnLock()
_running: list[_Child] = []


def _close() -> None:
    """End the child of this process; that of a process that forked us is not ours."""
    while _running:
        child = _running.pop()
        if child.pid == os.getpid():
            child.end()


atexit.register(_close)


def decoded_apart(
    name: str, data: bytes, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """One part in native byte order, decoded by the child as `kept_decoders.decoded_here` does it.

    Raises
    ------
    ValueError : it cannot be decoded; the text says why.
    LimitExceededError : it takes too much memory or time (kind ``"limit"``).
    """
    request = {"name": name, "number": number, "shape": list(shape), "dtype": dtype.str}
    seconds = SECONDS + (len(data) + math.prod(shape) * dtype.itemsize) / BYTES_PER_S
    with _lock:
        again = _child().answered > 0
        try:
            answer, found = _asked(_child(), request, data, seconds)
        except _CrashedError:
            if not again:
                raise
            # An earlier file may have damaged its memory: a new one is asked once more.
            answer, found = _asked(_child(), request, data, seconds)
    return _checked(answer, found, name)


def _child() -> _Child:
    """The child of this process, started where there is none."""
    if not _running or _running[0].pid != os.getpid():
        _close()
        _running.append(_Child())
    return _running[0]


def _asked(
    child: _Child, request: Mapping[str, Any], data: bytes, seconds: float
) -> tuple[dict[str, Any], bytes]:
    """Ask a child, which is ended when it takes longer, and whenever no whole answer comes."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        child.process.kill()

    watch = threading.Timer(seconds, give_up)
    watch.daemon = True
    watch.start()
    try:
        return child.ask(request, data)
    except (OSError, ValueError) as error:
        _close()
        if late.is_set():
            what = f"decoding {request['name']} takes too long"
            raise LimitExceededError(what, kind="limit") from error
        raise _CrashedError("its library crashed") from error
    except BaseException:
        _close()  # interrupted in the middle of a message
        raise
    finally:
        watch.cancel()


def _checked(answer: dict[str, Any], found: bytes, name: str) -> NDArray[Any]:
    """The values of an answer, which is of a process that hostile bytes may have changed."""
    if answer.get("error") == "MemoryError":
        raise LimitExceededError(f"decoding {name} takes too much memory", kind="limit")
    if "error" in answer:
        raise ValueError(str(answer["error"])[:80])
    dtype, shape = np.dtype(str(answer["dtype"])), tuple(map(int, answer["shape"]))
    if dtype.kind not in _KINDS:
        raise ValueError(f"values of {dtype}")
    return np.frombuffer(found, dtype).reshape(shape)


def _send(stream: IO[bytes], document: Mapping[str, Any]) -> None:
    stream.write(json.dumps(document).encode() + b"\n")


def _received(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """A document, and the bytes that it announces (ValueError where the other side has gone)."""
    document = json.loads(stream.readline(1 << 16))
    if not isinstance(document, dict):
        raise ValueError("no message")
    size = document.get("bytes") or 0
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("a message that breaks off")
    return document, data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer one request after the other until nobody asks any more."""
    data = b""
    while requests.peek(1):  # type: ignore[attr-defined]
        request, more = _received(requests)
        data = data if request["bytes"] is None else more
        part = Part(tuple(request["shape"]), np.dtype(request["dtype"]))
        _limit_memory(len(data) + 2 * math.prod(part.shape) * part.dtype.itemsize)
        try:
            values = decoded_here(request["name"], data, request["number"], part)
        except MemoryError:
            _send(answers, {"error": "MemoryError"})
        except ValueError as error:
            _send(answers, {"error": str(error) or type(error).__name__})
        else:
            said = {"dtype": values.dtype.str, "shape": values.shape, "bytes": values.nbytes}
            _send(answers, said)
            answers.write(values.reshape(-1).view(np.uint8).data)
        answers.flush()


def _limit_memory(more: int) -> None:
    """Have the system refuse more than `MEMORY` and this, where it can."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = MEMORY + more if hard == resource.RLIM_INFINITY else min(MEMORY + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
