"""Archive folders with hostile files among good ones: ``python -m tests.faults.hostile``.

Each crafted file lies beside three good sources; mutated files lie beside them by the dozen. Asked
is: the neighbours are archived and verify, the command ends with 0 or 8 and says no internal error,
no process needs more than 2 GB, and every archive that was sealed can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import pydicom

from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.checking import verify_archive
from psc_volumetric.errors import PscError
from tests.faults.hostile_files import HOSTILE as FILES
from tests.faults.hostile_frames import FRAMES
from tests.faults.runner import Outcome, Runner, scratch_folder
from tests.faults.shim import Fault
from tests.faults.sources import SOURCES, write_dicom
from tests.faults.worker import MEMORY_LIMIT_MB

__all__ = ["Trial", "try_crafted", "try_mutated"]

HOSTILE = {**FILES, **FRAMES}
READER_S = 20
RUN_LIMIT_S = 150.0  # two requests that hang, and the rest
GOOD_CODES = (0, 8)  # done; finished, but something that holds data was not archived
SEEDS = (
    *sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")),
    *sorted((Path(nibabel.__file__).parent / "tests" / "data").glob("*.nii*")),
)
LARGEST_SEED = 300_000


@dataclass(frozen=True)
class Trial:
    """What became of one folder."""

    name: str
    outcome: Outcome
    peak_mb: int
    archives: int
    problems: tuple[str, ...]

    def line(self) -> str:
        """One row of the table."""
        said = [line for line in self.outcome.err.splitlines() if "hostile" in line]
        return (
            f"| {self.name} | {self.outcome.code} | {self.archives - 3} | {self.peak_mb} | "
            f"{self.outcome.seconds:.0f} | {len(self.problems)} | {said[0][:110] if said else ''} |"
        )


class _Watch(threading.Thread):
    """The largest memory of any process of a run, and an end to runs that take for ever."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(daemon=True)
        self.runner = runner
        self.peak_mb = 0
        self.done = threading.Event()
        self.late = False

    def run(self) -> None:
        deadline = time.monotonic() + RUN_LIMIT_S
        while not self.done.wait(0.1):
            for pid in self.runner.stragglers():
                with contextlib.suppress(OSError, StopIteration):
                    status = Path(f"/proc/{pid}/status").read_text().splitlines()
                    line = next(line for line in status if line.startswith("VmHWM"))
                    self.peak_mb = max(self.peak_mb, int(line.split()[1]) >> 10)
            if time.monotonic() > deadline:
                self.late = True
                self.runner.kill()
                return


def _good_neighbours(folder: Path) -> list[Path]:
    for write in SOURCES.values():
        write(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def archive_folder(runner: Runner, name: str, folder: Path, neighbours: list[Path]) -> Trial:
    """Archive a folder and look at what came out."""
    target = folder.with_name("archives")
    shutil.rmtree(target, ignore_errors=True)
    watch = _Watch(runner)
    words = ["archive", str(folder), str(target), "--coders", "zstd"]
    runner.start(words, Fault(target))
    watch.start()
    outcome = runner.finish()
    watch.done.set()
    watch.join()
    problems = list(_problems(outcome, watch))
    made = sorted(target.glob("*.psc.zarr")) if target.is_dir() else []
    made += sorted(target.glob("*/*.psc.zarr")) if target.is_dir() else []
    kept: set[str] = set()
    for archive in made:
        problems += [f"{archive.name}: {text}" for text in _look_at(archive, kept)]
    for file in neighbours:
        if hashlib.sha256(file.read_bytes()).hexdigest() not in kept:
            problems.append(f"the good neighbour {file.name} is not archived")
    return Trial(name, outcome, watch.peak_mb, len(made), tuple(problems))


def _problems(outcome: Outcome, watch: _Watch) -> Iterator[str]:
    if watch.late:
        yield f"still at work after {RUN_LIMIT_S:.0f} s"
    elif outcome.code not in GOOD_CODES:
        yield f"exit code {outcome.code}: {outcome.err.strip()[-300:]}"
    if "error[internal]" in outcome.err or "Traceback" in outcome.err:
        yield f"internal error: {outcome.err.strip()[-300:]}"
    if watch.peak_mb > MEMORY_LIMIT_MB:
        yield f"a process needed {watch.peak_mb} MB"


def _look_at(archive: Path, kept: set[str]) -> Iterator[str]:
    """What is wrong with an archive; the digests of its sources go into ``kept``."""
    if not (archive / "manifest.json").is_file():
        yield "left unfinished"
        return
    try:
        yield from (f.message for f in verify_archive(archive, deep=True))
        with ArchiveReader.open(archive) as reader:
            kept |= {file.sha256 for file in reader.source().files}
    except PscError as error:
        yield f"sealed, but its own reader refuses it: {error}"


def try_crafted(runner: Runner, folder: Path, *names: str) -> Trial:
    """Crafted files, each in a folder of its own, among good ones."""
    place = folder / "sources"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    good = _good_neighbours(place)
    for number, name in enumerate(names):
        within = place / f"hostile-{number}"
        within.mkdir()
        HOSTILE[name](within)
    return archive_folder(runner, ", ".join(names), place, good)


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage where headers are, mostly."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        end = len(out) if rng.random() < 0.3 else min(len(out), 2000)
        at = rng.randrange(max(1, end))
        kind = rng.randrange(6)
        if kind == 0:
            out[at : at + 1] = bytes([rng.choice((0, 1, 127, 128, 255))])
        elif kind == 1 and out:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 8, 100))]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def try_mutated(runner: Runner, folder: Path, number: int, count: int = 12) -> Trial:
    """A dozen mutated files among good ones.

    Mutated slices are of a series of their own: a series is one item, and a slice that says it is
    of a good one may spoil it.
    """
    place, apart = folder / "sources", folder / "apart"
    for each in (place, apart):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    good = _good_neighbours(place)
    own = [file for file in good if file.suffix != ".dcm"]
    own += sorted(write_dicom(apart, uid="1.2.3.9").iterdir())
    rng = random.Random(f"sources {number}")
    seeds = [p for p in SEEDS if p.stat().st_size < LARGEST_SEED]
    for index in range(count):
        seed = rng.choice(own if rng.random() < 0.4 else seeds)
        within = place / f"hostile-{index}"
        within.mkdir()
        (within / seed.name).write_bytes(_mutate(seed.read_bytes(), rng))
    return archive_folder(runner, f"mutated {number}", place, good)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--crafted", choices=[*HOSTILE], action="append", help="default: all")
    parser.add_argument("--mutated", type=int, default=0, help="folders of mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the last folder")
    arguments = parser.parse_args()
    folder = scratch_folder("psc-hostile-")
    crafted = arguments.crafted or ([] if arguments.mutated else list(HOSTILE))
    bad = 0
    print("| file | exit code | archived too | MB | s | problems | what was said |")
    print("|---|---|---|---|---|---|---|")
    with Runner({"PSC_ARCHIVE_READER_SECONDS": str(READER_S)}, shimmed=False) as runner:
        trials = (try_crafted(runner, folder, name) for name in crafted)
        numbers = range(arguments.seed, arguments.seed + arguments.mutated)
        more = (try_mutated(runner, folder, number) for number in numbers)
        for trial in itertools.chain(trials, more):
            print(trial.line(), flush=True)
            for problem in trial.problems:
                print(f"  {trial.name}: {problem}", file=sys.stderr, flush=True)
            bad += bool(trial.problems)
    print(f"kept in {folder}" if arguments.keep else f"{bad} trials with problems")
    if not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
