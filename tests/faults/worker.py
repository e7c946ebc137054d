"""A process that reads what may be hostile: slow, huge or dead is seen from outside.

Started by :class:`Worker`; requests and answers are JSON lines. Memory is what was resident at
most while one request was served.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

__all__ = ["MEMORY_LIMIT_MB", "TIME_LIMIT_S", "Worker"]

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT_S = 60.0
MEMORY_LIMIT_MB = 2048
ADDRESS_SPACE = 4 << 30  # beyond what libraries reserve: a backstop for the machine


class Worker:
    """The process from outside; started again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, and those it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process = process
        assert self._line(120.0) is not None, "the reading process does not start"
        return process

    def _line(self, patience_s: float) -> bytes | None:
        assert self._process is not None and self._process.stdout is not None
        handle, data = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + patience_s
        while not data.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                return None
            more = os.read(handle, 1 << 16)
            if not more:
                return b""
            data += more
        return data

    def ask(self, **request: Any) -> dict[str, Any]:
        """Serve one request; ``outcome`` is ``hang`` or ``crash`` when there is no answer."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        line = self._line(TIME_LIMIT_S)
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.stop()
        if line is None:
            return {"outcome": "hang", "detail": f"more than {TIME_LIMIT_S:.0f} s"}
        return {"outcome": "crash", "detail": "the process died"}


# --- inside ---------------------------------------------------------------------------------------


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def _summary(error: Exception) -> str:
    """The error, and where in this repository it came through, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if f.filename.startswith(str(ROOT)) and "site-packages" not in f.filename
    ]
    places = [f"{Path(f.filename).relative_to(ROOT)}:{f.lineno} {f.name}" for f in reversed(ours)]
    inner = frames[-1]
    text = (
        f"{type(error).__name__}: {str(error)[:200]} ({Path(inner.filename).name}:{inner.lineno})"
    )
    return "\n".join([text, *places])


def _read(request: dict[str, Any]) -> tuple[str, str]:
    from adapters.errors import SourceError
    from psc_volumetric.errors import PscError
    from tests.faults.ways import PLAIN, quietly

    way = request["way"]
    try:
        quietly(way, Path(request["path"]), Path(request["scratch"]))
    except (PscError, SourceError) as error:
        return "refused", f"{type(error).__name__} {error.kind}"
    except Exception as error:  # noqa: BLE001 - which ones come is the question
        if way in PLAIN and not isinstance(error, MemoryError):
            return "refused", type(error).__name__
        return "undocumented", _summary(error)
    return "read", ""


def main() -> None:
    """Serve requests on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not mix with the answers
    import tests.faults.ways  # noqa: F401 - the slow part of starting

    limit = ADDRESS_SPACE + int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        _reset_peak()
        start = time.perf_counter()
        outcome, detail = _read(json.loads(line))
        seconds = time.perf_counter() - start
        answer = {"outcome": outcome, "detail": detail, "seconds": seconds, "peak_mb": _peak_mb()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
