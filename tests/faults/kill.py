"""Kill commands at every operation on the file system: ``python -m tests.faults.kill``.

For each operation below the target's folder: what a kill just before it leaves (and, for writes,
one after half of it), and the command run once more from there. Asked is, each time:

- what is there after the kill does not read as a good archive unless it is the whole one;
- the same command, run again, exits 0;
- then every byte is that of an undisturbed run, and nothing else is left in the folder.

``--states 1`` takes these states from one run; ``--every N`` kills a run of its own at each N-th
operation; ``--random N`` kills at random times, up to three times in a row.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.checking import verify_archive
from psc_volumetric.errors import PscError
from tests.faults.runner import Outcome, Runner, scratch_folder
from tests.faults.shim import Fault, operations
from tests.faults.sources import SOURCES

__all__ = [
    "CASES",
    "Case",
    "Tally",
    "bench",
    "kill_at_random",
    "kill_everywhere",
    "resume_everywhere",
]

Tree = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A command and where it writes.

    Attributes
    ----------
    name, source : str
        ``source`` is a key of ``SOURCES``.
    target : str
        Name of what the command makes, in a folder of its own.
    restores : bool
        Whether an archive of the source is restored; otherwise the source is archived.
    options : tuple of str
    copies : bool
        Whether an archive of the source is copied.
    """

    name: str
    source: str
    target: str
    restores: bool = False
    options: tuple[str, ...] = ()
    copies: bool = False

    def words(self, given: Path, place: Path) -> list[str]:
        """The command line, from what it reads to what it writes in ``place``."""
        command = "restore" if self.restores else "copy" if self.copies else "archive"
        return [command, str(given), str(place / self.target), *self.options]

    def prepare(self, folder: Path, runner: Runner) -> Path:
        """Make what the command reads."""
        source = SOURCES[self.source](folder)
        if not (self.restores or self.copies):
            return source
        archive = folder / f"{self.source}.psc.zarr"
        done = runner.run(["archive", str(source), str(archive), *CODERS], Fault(folder))
        assert done.code == 0, done.err
        return archive


CODERS = ("--coders", "zstd")
CASES = {
    case.name: case
    for case in (
        Case("folder", "nifti", "x.psc.zarr", options=CODERS),
        Case("folder-original", "netcdf", "x.psc.zarr", options=(*CODERS, "--keep-original")),
        Case("folder-dicom", "dicom", "x.psc.zarr", options=CODERS),
        Case("folder-kept", "fits", "x.psc.zarr", options=CODERS),
        Case("zip", "nifti", "x.psc.zarr.zip", options=CODERS),
        Case("restore-nifti", "nifti", "x.nii", restores=True),
        Case("restore-netcdf", "netcdf", "x.nc", restores=True),
        Case("restore-dicom", "dicom", "x", restores=True),
        Case("restore-kept", "fits", "x.fits", restores=True),
        Case("copy", "nifti", "x.psc.zarr", copies=True),
        Case("copy-zip", "nifti", "x.psc.zarr.zip", copies=True),
    )
}


def tree(folder: Path) -> Tree:
    """Every file and folder below, with its digest."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }


@dataclass
class Tally:
    """How many kills there were, and what went wrong."""

    case: str
    operations: int = 0
    kills: int = 0
    sealed: int = 0
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def wrong(self, place: str, what: str) -> None:
        """Remember a problem."""
        self.problems.append(f"{self.case}, {place}: {what}")

    def line(self) -> str:
        """One row of the table in docs/faults.md."""
        return (
            f"| {self.case} | {self.operations} | {self.kills} | {self.sealed} "
            f"| {len(self.problems)} |"
        )


@dataclass
class Bench:
    """A case ready to be killed: its input, its undisturbed result, a place to work in."""

    case: Case
    runner: Runner
    given: Path
    place: Path
    expected: Tree
    log: list[tuple[str, ...]]
    seconds: float

    def fresh(self) -> Path:
        """An empty place."""
        if self.place.exists():
            shutil.rmtree(self.place)
        self.place.mkdir()
        return self.place

    @property
    def words(self) -> list[str]:
        """The command."""
        return self.case.words(self.given, self.place)


def bench(case: Case, runner: Runner, folder: Path) -> Bench:
    """Prepare a case and run it undisturbed."""
    folder.mkdir(parents=True)
    given, place, log = case.prepare(folder, runner), folder / "place", folder / "log"
    made = Bench(case, runner, given, place, {}, [], 0.0)
    made.fresh()
    done = runner.run(made.words, Fault(place, log=log))
    assert done.code == 0, done.err
    made.expected, made.seconds = tree(place), done.seconds
    made.log = [tuple(line) for line in operations(log)]
    return made


def check_killed(made: Bench, tally: Tally, where: str) -> None:
    """What a killed run left: nothing that reads as good and is not the whole."""
    target, whole = made.place / made.case.target, made.expected
    if made.case.restores:
        found = tree(made.place)
        under = {key: what for key, what in found.items() if Path(key).parts[0] == target.name}
        if under and under != whole:
            tally.wrong(where, "something that is not whole stands under the final name")
        hidden = [key for key in found if key.startswith(".")]
        if hidden:
            tally.wrong(where, f"something hidden is left: {hidden[0]}")
        return
    try:
        with ArchiveReader.open(target) as reader:
            entries = reader.manifest.entries
        findings = list(verify_archive(target))
    except PscError:
        return
    tally.sealed += 1
    if findings:
        tally.wrong(where, f"sealed, but verify finds {findings[0].kind} {findings[0].key}")
    parts = tree(made.place)
    if target.is_dir() and any(
        parts.get(f"{target.name}/{key}") != entry.sha256 for key, entry in entries.items()
    ):
        tally.wrong(where, "sealed, but not whole")
    if target.is_file() and parts[target.name] != whole[target.name]:
        tally.wrong(where, "the zip file is not the whole one")


def check_rerun(made: Bench, tally: Tally, where: str, *, target_was_whole: bool = False) -> None:
    """Run again: exit code 0, all bytes, nothing else."""
    done = made.runner.run(made.words, Fault(made.place))
    tally.slowest_s = max(tally.slowest_s, done.seconds)
    refused = made.case.restores and target_was_whole and "target-exists" in done.err
    if done.code != 0 and not refused:
        tally.wrong(where, f"the rerun exits {done.code}: {last_line(done)}")
    found = tree(made.place)
    for key in sorted({*found, *made.expected}):
        if found.get(key) != made.expected.get(key):
            what = "left over" if key not in made.expected else "missing or changed"
            tally.wrong(where, f"after the rerun {key} is {what}")
            break
    for pid in made.runner.stragglers(5.0):
        tally.wrong(where, f"process {pid} lives on")


def last_line(done: Outcome) -> str:
    """What a run said last."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error")), lines[-1] if lines else "")


def points(made: Bench, every: int, offset: int) -> Iterator[tuple[int, str]]:
    """Operations to be killed at, and how; writes are torn as well."""
    for line in made.log[offset % every :: every]:
        yield int(line[0]), "kill"
        if line[1] == "write":
            yield int(line[0]), "tear"


def kill_everywhere(made: Bench, *, every: int = 1, offset: int = 0, stop: float = 0.0) -> Tally:
    """Kill at every n-th operation; until the clock passes ``stop``, when given."""
    tally = Tally(made.case.name, len(made.log))
    for at, action in points(made, every, offset):
        if stop and time.perf_counter() > stop:
            break
        made.fresh()
        done = made.runner.run(made.words, Fault(made.place, at, action))
        if not done.killed:
            continue  # this run needed fewer operations
        tally.kills += 1
        op = " ".join(made.log[at - 1][1:3]).replace(f"{made.place}/", "")
        where = f"{action} at operation {at} ({op})"
        check_killed(made, tally, where)
        whole = (made.place / made.case.target).exists()
        check_rerun(made, tally, where, target_was_whole=whole)
    return tally


def states(made: Bench, every: int) -> list[tuple[str, Path]]:
    """What a kill before each n-th operation leaves, and one in the middle if it is a write.

    One run, with a copy of the place taken before each operation: what a killed process wrote stays
    as it is, so that such a copy is what the kill would have left. Copies equal to the one before
    are left out.
    """
    copies = made.place.with_name("copies")
    copies.mkdir()
    made.fresh()
    done = made.runner.run(made.words, Fault(made.place, every, "copy", copies=copies))
    assert done.code == 0, done.err
    kept: list[tuple[str, Path]] = []
    before: Tree | None = None
    for copy in sorted(copies.iterdir(), key=lambda path: float(path.name.replace(".half", ".5"))):
        now = tree(copy)
        if now != before:
            kept.append((copy.name, copy))
        before = now
    return kept


def resume_everywhere(made: Bench, *, every: int = 1, stop: float = 0.0) -> Tally:
    """Look at the states that kills can leave, and run again from each."""
    found = states(made, every)
    tally = Tally(f"{made.case.name}, states", len(made.log))
    for name, copy in found:
        if stop and time.perf_counter() > stop:
            break
        shutil.rmtree(made.place)
        copy.rename(made.place)
        tally.kills += 1
        check_killed(made, tally, f"before operation {name}")
        whole = (made.place / made.case.target).exists()
        check_rerun(made, tally, f"before operation {name}", target_was_whole=whole)
    shutil.rmtree(made.place.with_name("copies"))
    return tally


def kill_at_random(made: Bench, *, rounds: int, seed: int = 0, stop: float = 0.0) -> Tally:
    """Kill one to three times in a row at random moments, then run to the end."""
    tally = Tally(f"{made.case.name}, random", len(made.log))
    for number in range(rounds):
        if stop and time.perf_counter() > stop:
            break
        rng = random.Random(f"{made.case.name} {seed} {number}")
        made.fresh()
        for _ in range(rng.choice((1, 1, 2, 3))):
            after_s = rng.uniform(0, 1.1 * made.seconds)
            done = made.runner.run_and_kill(made.words, Fault(made.place), after_s)
            if not done.killed:
                made.seconds = min(made.seconds, done.seconds)  # the first run may have been slow
                break
            tally.kills += 1
            check_killed(made, tally, f"random {number}")
        whole = (made.place / made.case.target).exists()
        check_rerun(made, tally, f"random {number}", target_was_whole=whole)
    return tally


def rounds_of(
    names: list[str], work: Callable[[Bench], Iterator[Tally]], folder: Path
) -> Iterator[Tally]:
    """Do the work for each case, under one warm process."""
    with Runner() as runner:
        for name in names:
            yield from work(bench(CASES[name], runner, folder / name))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: all")
    parser.add_argument(
        "--states", type=int, default=1, help="what kills at each n-th operation leave; 0: none"
    )
    parser.add_argument("--every", type=int, default=0, help="also kill at each n-th operation")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--random", type=int, default=0, help="rounds of random kills per case")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = scratch_folder("psc-kill-")

    def work(made: Bench) -> Iterator[Tally]:
        if arguments.states:
            yield resume_everywhere(made, every=arguments.states)
        if arguments.every:
            yield kill_everywhere(made, every=arguments.every, offset=arguments.offset)
        if arguments.random:
            yield kill_at_random(made, rounds=arguments.random, seed=arguments.seed)

    bad = False
    print("| case | operations | kills | sealed already | problems |\n|---|---|---|---|---|")
    try:
        for tally in rounds_of(arguments.case or list(CASES), work, folder):
            print(tally.line(), flush=True)
            for problem in tally.problems:
                print(f"  {problem}", file=sys.stderr)
            bad = bad or bool(tally.problems)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
