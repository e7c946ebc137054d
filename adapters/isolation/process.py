"""The child process that reads foreign files: starting, asking, limiting and replacing it."""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adapters.errors import SourceError
from adapters.isolation.wire import WireError, receive, send

__all__ = ["CRASHED", "FAILED", "MEMORY", "MEMORY_MB", "SECONDS", "TIMEOUT", "ReadingProcess"]
__all__ += ["reading_process"]

MEMORY_MB = "PSC_ARCHIVE_READER_MEMORY_MB"
SECONDS = "PSC_ARCHIVE_READER_SECONDS"
CRASHED, TIMEOUT, MEMORY = "reader-crashed", "reader-timeout", "reader-memory"
FAILED = "reader-failed"  # an exception that nobody foresaw

_BYTES_PER_S = 4e6  # the slowest disk and decoder we wait for
_FILE_S = 0.1  # for the header of each of thousands of files, on a busy machine
_START_S = 120.0  # an interpreter that starts on a busy machine
_WATCH_S = 0.1
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

log = logging.getLogger(__name__)


class ReadingProcess:
    """A child that reads files for this process, started when asked and replaced when it dies.

    Parameters
    ----------
    memory_mb : int
        What it may allocate, in MiB.
    seconds : float
        How long one answer may take; large and many files get more.

    Notes
    -----
    Threads may share it; they wait for one another. The child ends with its parent, however that
    ends: it reads the end of the pipe, or (Linux) the kernel kills it.
    """

    def __init__(self, memory_mb: int, seconds: float) -> None:
        self.memory_mb = memory_mb
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def ask(
        self,
        request: dict[str, Any],
        files: Sequence[Path],
        *,
        extra_bytes: int = 0,
        reached: Callable[[int], None] | None = None,
        give: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Send a request and wait for the answer.

        Parameters
        ----------
        request : dict
            What `adapters.isolation.server` understands.
        files : sequence of Path
            Files it reads; their size gives the time allowed, and the first is named in errors.
        extra_bytes : int
            Further work, as bytes.
        reached : callable, optional
            Told the number of each file that is begun; the time allowed begins anew with it.
        give : callable, optional
            Answers what the child asks for while it works; that time does not count.

        Raises
        ------
        SourceError : that of the adapter; or kind ``"reader-crashed"``, ``"reader-timeout"``,
            ``"reader-memory"`` or ``"reader-failed"``.
        """
        allowed = self.seconds + (sum(map(_size, files)) + extra_bytes) / _BYTES_PER_S
        allowed += _FILE_S * len(files)
        with self._lock:
            again = give is None and self._child is not None and self._child.answered > 0
            try:
                answer = self._answer(request, files, allowed, reached, give)
            except SourceError as error:
                if error.kind != CRASHED or not again:
                    raise
                # An earlier file may have damaged its memory: these are asked about once more.
                answer = self._answer(request, files, allowed, reached, give)
        if "error" in answer:
            kind, message, path, hint = answer["error"]
            raise SourceError(message, kind=kind, path=path or _first(files), hint=hint)
        return answer["found"]

    def _answer(
        self,
        request: dict[str, Any],
        files: Sequence[Path],
        allowed: float,
        reached: Callable[[int], None] | None,
        give: Callable[[Any], Any] | None,
    ) -> dict[str, Any]:
        """What the child says in the end; SourceError where it does not live to say it."""
        room = self.memory_mb << 20
        child = self._running()
        try:
            if not child.is_ready:
                child.deadline = time.monotonic() + _START_S
                child.is_ready = bool(receive(child.connection, 0)["ready"])
            child.deadline = time.monotonic() + allowed
            send(child.connection, {**request, "here": _working_folder()})
            while "found" not in (answer := receive(child.connection, room)):
                if "error" in answer:
                    break
                child.deadline = math.inf
                if "at" in answer and reached is not None:
                    reached(answer["at"])
                if "need" in answer and give is not None:
                    send(child.connection, give(answer["need"]))
                child.deadline = time.monotonic() + allowed
        except (EOFError, OSError, WireError) as error:
            self._child = None
            raise self._ended(child.end(), files, allowed) from error
        except BaseException:
            self._child = None  # interrupted in the middle of a message
            child.end()
            raise
        child.deadline = math.inf
        child.answered += 1
        if "error" in answer and answer["error"][0] in (FAILED, MEMORY):
            self._child = None  # it has ended after saying so
            child.end()
        return dict(answer)

    def start(self) -> None:
        """Start the child already: it gets ready while this process does something else."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the child; the next request starts another."""
        with self._lock:
            if self._child is not None:
                self._child.end()
                self._child = None

    @property
    def pid(self) -> int | None:
        """Process number of the child that runs now."""
        return None if self._child is None else self._child.pid

    def _running(self) -> _Child:
        if self._child is None or not self._child.is_alive:
            self._child = _Child(self.memory_mb)
        return self._child

    def _ended(self, how: str | int, files: Sequence[Path], allowed: float) -> SourceError:
        log.info("the reading process ended: %s", how)
        if how == TIMEOUT:
            return SourceError(
                f"reading took longer than {allowed:.0f} s and was stopped",
                kind=TIMEOUT,
                path=_first(files),
                hint=f"the file may be damaged; {SECONDS}={math.ceil(2 * self.seconds)} waits "
                "longer",
            )
        assert isinstance(how, int)
        name = signal.Signals(-how).name if how < 0 else f"exit code {how}"
        return SourceError(
            f"the library that reads this format crashed ({name})",
            kind=CRASHED,
            path=_first(files),
            hint="the file is damaged, or holds something its library cannot read",
        )


class _Child:
    """One child and the thread that watches it.

    The thread starts the child as well: on Linux a child asks to be killed when the *thread* that
    started it ends, and this one stays as long as the child does.
    """

    def __init__(self, memory_mb: int) -> None:
        self.connection, theirs = Pipe()
        self.deadline = math.inf
        self.is_ready = False
        self.answered = 0
        self._late = False
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: Exception | None = None
        ready = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(theirs, memory_mb, ready), name="reading-process", daemon=True
        )
        thread.start()
        ready.wait()
        theirs.close()
        if self._failure is not None:
            raise self._failure

    def _watch(self, theirs: Connection, memory_mb: int, ready: threading.Event) -> None:
        words = [str(theirs.fileno()), str(os.getpid()), str(memory_mb)]
        paths = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adapters.isolation.server", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_QUIET, "PYTHONPATH": paths},
            )
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            self._failure = error
        finally:
            ready.set()
        while self.is_alive:
            if time.monotonic() > self.deadline:
                self._late = True
                self._kill()
            time.sleep(_WATCH_S)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def end(self) -> str | int:
        """Make sure that it is gone; its exit code, or ``"reader-timeout"``."""
        assert self._process is not None
        self.connection.close()
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.wait()
        return TIMEOUT if self._late else code


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _working_folder() -> Path | None:
    """Where relative paths begin, which the child follows; None where it has gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _first(files: Sequence[Path]) -> Path | None:
    return files[0] if files else None


_processes: dict[int, ReadingProcess] = {}
_guard = threading.Lock()


def reading_process() -> ReadingProcess:
    """Give the reading process of this process; a forked one gets its own."""
    with _guard:
        mine = os.getpid()
        if mine not in _processes:
            memory, seconds = _limit(MEMORY_MB, 2048), _limit(SECONDS, 60)
            _processes[mine] = ReadingProcess(memory, seconds)
            atexit.register(_processes[mine].close)
        return _processes[mine]


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        raise SourceError(
            f"expected a whole number from 1 to 999999999 in {name}, found {text[:80]!r}",
            kind="bad-limit",
            hint="unset it for the usual limit",
        )
    return int(text)
