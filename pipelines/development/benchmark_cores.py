"""What a second core is worth: ``python -m pipelines.development.benchmark_cores SOURCE ...``.

Archives each source, restores, checks (``verify --deep``) and reads it through xarray, each in a
fresh process with ``--jobs 2``, and prints a table. The clock tells little on a machine with other
work. So threads are watched while they run (Linux): CPU time during which only one of a process
tree runs counts whole, the rest half. That is how long two free cores would take; CPU time over it
is what the second core is worth, 2 at most. A thread that waits for the interpreter's lock does not
run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Watched", "watch"]

INTERVAL_S = 0.02
RUNS_S = 1e-4  # of an interval: a thread with less does not count as running
PROGRAM = [sys.executable, "-m", "pipelines.cli"]
JOBS = ["--jobs", "2"]
XARRAY = """
import sys, xarray
from psc_volumetric.threads import at_most
with at_most(2):
    xarray.open_dataset(sys.argv[1], engine="psc").compute()
"""


@dataclass(frozen=True)
class Watched:
    """Seconds of a command: by the clock, of CPU time, and as two free cores would take."""

    clock: float
    cpu: float
    free: float

    @property
    def worth(self) -> float:
        """How many times as fast as on one core."""
        return self.cpu / self.free if self.free else 1.0


def watch(command: Sequence[str]) -> Watched:
    """Run a command and look at the threads of its process tree every `INTERVAL_S`.

    Raises
    ------
    subprocess.CalledProcessError : it fails.
    """
    start = time.perf_counter()
    cpu = free = 0.0
    seen: dict[tuple[str, str], int] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            taken = []
            for pid in _tree(str(running.pid)):
                for thread, nanoseconds in _threads(pid):
                    taken.append((nanoseconds - seen.get((pid, thread), 0)) / 1e9)
                    seen[pid, thread] = nanoseconds
            cpu += sum(taken)
            free += sum(taken) / (2 if sum(s > RUNS_S for s in taken) > 1 else 1)
            time.sleep(INTERVAL_S)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return Watched(time.perf_counter() - start, cpu, free)


def _tree(root: str) -> list[str]:
    """A process and all below it."""
    children: dict[str, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(after[1], []).append(entry.name)
    found = [root]
    for pid in found:  # grows meanwhile
        found += children.get(pid, [])
    return found


def _threads(pid: str) -> list[tuple[str, int]]:
    """Threads of a process, and their CPU time in nanoseconds."""
    found = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found.append((thread.name, int((thread / "schedstat").read_text().split()[0])))
    return found


def main(
    sources: list[Path], speed: Annotated[int, typer.Option(help="Of archiving.", min=1, max=9)] = 1
) -> None:
    """Print one table for all sources."""
    say = sys.stdout.write
    say(f"| `--speed {speed}`, `--jobs 2` | clock, s | CPU, s | two free cores, s | worth |\n")
    say("|---|---|---|---|---|\n")
    for source in sources:
        with tempfile.TemporaryDirectory() as scratch:
            archive, again = f"{scratch}/one.psc.zarr", f"{scratch}/again"
            commands = {
                "archive": [
                    *PROGRAM,
                    "archive",
                    str(source),
                    archive,
                    "--speed",
                    str(speed),
                    *JOBS,
                ],
                "restore": [*PROGRAM, "restore", archive, again, *JOBS],
                "verify --deep": [*PROGRAM, "verify", "--deep", archive, *JOBS],
                "xarray": [sys.executable, "-c", XARRAY, archive],
            }
            for name, command in commands.items():
                found = watch(command)
                numbers = (found.clock, found.cpu, found.free, found.worth)
                cells = " | ".join(f"{number:.2f}" for number in numbers)
                say(f"| {source.name}: {name} | {cells} |\n")


if __name__ == "__main__":
    typer.run(main)
