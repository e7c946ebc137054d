"""Full disks, failing disks and two runs on one target: ``python -m tests.faults.disk``.

- ``full``: from an operation on, nothing more fits. The command ends with exit code 6 and nothing
  reads as good; with room again the same command ends with 0 and the bytes of an undisturbed run.
- ``failing``: one operation fails with an I/O error. The command says so, or did not need it; a
  sync that failed is never success. Run again, the bytes are those of an undisturbed run.
- ``two``: a run is stopped in the middle and another begins. It waits, or ends with exit code 6 and
  says that another run is at work, or that the target exists: what is there is never replaced, so
  of two restores the one that comes second has to end so. One of them ends with 0; afterwards the
  bytes are those of an undisturbed run.
- ``mounted``: a file system of 48 kB (needs root), with what the kernel itself does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.kill import CASES, Bench, Tally, bench, check_killed, check_rerun, last_line
from tests.faults.runner import Outcome, Runner, scratch_folder
from tests.faults.shim import Fault

__all__ = ["fail_everywhere", "fill_everywhere", "two_runs"]

EXIT_STORAGE = 6
WAIT_S = 3.0


def _where(made: Bench, action: str, at: int) -> str:
    op = " ".join(made.log[at - 1][1:3]).replace(f"{made.place}/", "")
    return f"{action} at operation {at} ({op})"


def _check_refused(done: Outcome, tally: Tally, where: str) -> None:
    if done.code != EXIT_STORAGE:
        tally.wrong(where, f"exit code {done.code}: {last_line(done)}")
    elif "error[internal]" in done.err or "Traceback" in done.err:
        tally.wrong(where, f"no words for users: {last_line(done)}")


def fill_everywhere(made: Bench, *, every: int = 1) -> Tally:
    """No room from each n-th operation on."""
    tally = Tally(f"{made.case.name}, full", len(made.log))
    for at in range(1, len(made.log) + 1, every):
        made.fresh()
        done = made.runner.run(made.words, Fault(made.place, at, "full", room=100))
        if not done.met:
            continue
        tally.kills += 1
        where = _where(made, "full", at)
        # What does not fit may not be needed any more, for example when a folder is tidied.
        if done.code != 0:
            _check_refused(done, tally, where)
        check_killed(made, tally, where)
        whole = (made.place / made.case.target).exists()
        check_rerun(made, tally, where, target_was_whole=whole)
    return tally


def fail_everywhere(made: Bench, *, every: int = 1) -> Tally:
    """An I/O error at each n-th operation."""
    tally = Tally(f"{made.case.name}, failing", len(made.log))
    for at in range(1, len(made.log) + 1, every):
        made.fresh()
        done = made.runner.run(made.words, Fault(made.place, at, "fail-once"))
        if not done.met:
            continue
        tally.kills += 1
        where = _where(made, "failure", at)
        if done.code == 0 and made.log[at - 1][1] == "fsync":
            tally.wrong(where, "the sync failed, and the command ends with 0")
        elif done.code != 0:
            _check_refused(done, tally, where)
        check_killed(made, tally, where)
        whole = (made.place / made.case.target).exists()
        check_rerun(made, tally, where, target_was_whole=whole)
    return tally


def two_runs(made: Bench, other: Runner, *, every: int = 1) -> Tally:
    """Stop a run before each n-th operation, begin a second, let the first go on."""
    tally = Tally(f"{made.case.name}, two runs", len(made.log))
    for at in range(1, len(made.log) + 1, every):
        made.fresh()
        where = _where(made, "second run", at)
        first = made.runner.start(made.words, Fault(made.place, at, "pause"))
        if not _stopped(made.runner, first):
            made.runner.finish()
            continue
        tally.kills += 1
        other.start(made.words, Fault(made.place))
        deadline = time.monotonic() + WAIT_S
        while other.stragglers() and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in made.runner.stragglers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        one, two = made.runner.finish(), other.finish()
        allowed = (0, EXIT_STORAGE)
        for name, done in (("first", one), ("second", two)):
            said = any(word in done.err for word in ("another run", "locked", "target-exists"))
            if done.code not in allowed or (done.code and not said):
                tally.wrong(where, f"the {name} run exits {done.code}: {last_line(done)}")
        if one.code != 0 and two.code != 0:
            tally.wrong(where, "neither run succeeds")
        whole = (made.place / made.case.target).exists()
        check_rerun(made, tally, where, target_was_whole=whole)
    return tally


def _stopped(runner: Runner, pid: int) -> bool:
    """Wait until a process of the run has met the fault and stands still; False when it ended."""
    while True:
        states = []
        for each in runner.stragglers():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{each}/stat").read_text()
                states.append(stat.rsplit(")", 1)[1].split()[0])
        if "T" in states:
            return True
        if not states or all(state in "ZX" for state in states):
            return False
        time.sleep(0.02)


def mounted(made: Bench) -> Tally:
    """The same on a file system that really is too small, for several sizes."""
    tally = Tally(f"{made.case.name}, mounted", len(made.log))
    for kilobytes in (4, 16, 48, 96, 160):
        made.fresh()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(made.place)]
        subprocess.run(mount, check=True)
        try:
            done = made.runner.run(made.words, Fault(made.place))
            where = f"{kilobytes} kB"
            if done.code != 0:
                tally.kills += 1
                _check_refused(done, tally, where)
                check_killed(made, tally, where)
            grow = ["mount", "-o", "remount,size=64m", str(made.place)]
            subprocess.run(grow, check=True)
            whole = (made.place / made.case.target).exists()
            check_rerun(made, tally, where, target_was_whole=whole)
        finally:
            subprocess.run(["umount", str(made.place)], check=True)
    return tally


def rounds_of(made: Bench, other: Runner, modes: list[str], every: int) -> Iterator[Tally]:
    """The chosen rounds for one case."""
    if "full" in modes:
        yield fill_everywhere(made, every=every)
    if "failing" in modes:
        yield fail_everywhere(made, every=every)
    if "two" in modes:
        yield two_runs(made, other, every=every)
    if "mounted" in modes:
        yield mounted(made)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: all")
    choices = ["full", "failing", "two", "mounted"]
    parser.add_argument("--mode", choices=choices, action="append", help="default: the first three")
    parser.add_argument("--every", type=int, default=1, help="only each n-th operation")
    arguments = parser.parse_args()
    folder, bad = scratch_folder("psc-disk-"), False
    print("| case | operations | faults | sealed already | problems |\n|---|---|---|---|---|")
    with Runner() as runner, Runner() as other:
        for name in arguments.case or list(CASES):
            made = bench(CASES[name], runner, folder / name)
            for tally in rounds_of(made, other, arguments.mode or choices[:3], arguments.every):
                print(tally.line(), flush=True)
                for problem in tally.problems:
                    print(f"  {problem}", file=sys.stderr, flush=True)
                bad = bad or bool(tally.problems)
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
