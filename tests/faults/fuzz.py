"""Fuzz whole archives whose manifest agrees: ``python -m tests.faults.fuzz --operations 20000``.

Any document, chunk, brick, or the structure of the zip file is changed, then the manifest made to
agree; the archive is read in every way by another process. Allowed is success or an exception of
the documented family, in 60 s and 2 GB. Prints every kind of find with its number;
``--only NUMBER`` makes that archive again and keeps it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.archive_mutations import hostile_tree, hostile_zip
from tests.faults.runner import scratch_folder
from tests.faults.specimens import KINDS, Specimen, make_specimen
from tests.faults.trees import lay_folder
from tests.faults.ways import MORE, PLAIN, WAYS
from tests.faults.worker import MEMORY_LIMIT_MB, TIME_LIMIT_S, Worker

__all__ = ["Find", "Fuzzer"]

OURS = (*(way for way in WAYS if way not in PLAIN), *MORE)  # plain Zarr has no limits to be held to
BAD = ("undocumented", "hang", "crash", "huge", "slow")


@dataclass(frozen=True)
class Find:
    """One way of reading one archive that did what it may not."""

    number: int
    archive: str
    way: str
    outcome: str
    detail: str

    @property
    def key(self) -> str:
        """Finds with the same key have the same cause, most likely."""
        lines = self.detail.splitlines()
        place = lines[1] if len(lines) > 1 else self.way
        return f"{self.outcome} {lines[0].split(':')[0]} {place}"


class Fuzzer:
    """Archives by number, and what became of reading them."""

    def __init__(
        self, folder: Path, kinds: Sequence[str] = tuple(KINDS), ways: Sequence[str] = OURS
    ) -> None:
        self.folder = folder
        self.kinds = kinds
        self.ways = ways
        self.counts: Counter[str] = Counter()
        self.peak_mb = 0
        self.slowest_s = 0.0
        self._specimens: dict[str, Specimen] = {}

    def specimen(self, name: str) -> Specimen:
        """A good archive, made once."""
        if name not in self._specimens:
            self._specimens[name] = make_specimen(KINDS[name], self.folder / "made")
        return self._specimens[name]

    def make(self, number: int) -> tuple[str, Path]:
        """The hostile archive with this number, on disk."""
        rng = random.Random(f"archive {number}")
        name = rng.choice(self.kinds)
        good = self.specimen(name)
        place = self.folder / f"archive{good.kind.suffix}"
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        if good.kind.zipped:
            place.write_bytes(hostile_zip(good.tree, rng))
        else:
            lay_folder(hostile_tree(good.tree, rng), place)
        return name, place

    def read(self, worker: Worker, number: int) -> Iterator[Find]:
        """Read one archive in all ways."""
        name, place = self.make(number)
        for way in self.ways:
            answer = worker.ask(path=str(place), way=way, scratch=str(self.folder))
            outcome, detail = answer["outcome"], answer["detail"]
            self.peak_mb = max(self.peak_mb, answer.get("peak_mb", 0))
            self.slowest_s = max(self.slowest_s, answer.get("seconds", TIME_LIMIT_S))
            if answer.get("peak_mb", 0) > MEMORY_LIMIT_MB and outcome not in BAD:
                outcome, detail = "huge", f"{answer['peak_mb']} MB"
                worker.stop()  # what it holds would count for the next one
            self.counts[outcome] += 1
            if outcome in BAD:
                yield Find(number, name, way, outcome, detail)

    @property
    def operations(self) -> int:
        """Readings so far."""
        return self.counts.total()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, help="stop then, however many there were")
    parser.add_argument("--seed", type=int, default=0, help="number of the first archive")
    parser.add_argument("--only", type=int, help="this archive only; it is kept")
    parser.add_argument("--archive", choices=[*KINDS], action="append", help="default: all")
    parser.add_argument("--way", choices=OURS, action="append", help="default: all")
    arguments = parser.parse_args()
    folder = scratch_folder("psc-fuzz-")
    fuzzer = Fuzzer(folder, tuple(arguments.archive or KINDS), tuple(arguments.way or OURS))
    known: Counter[str] = Counter()
    start = time.perf_counter()
    stop = start + 60 * arguments.minutes if arguments.minutes else float("inf")
    numbers = itertools.count(arguments.seed) if arguments.only is None else [arguments.only]
    with Worker() as worker:
        for number in numbers:
            if fuzzer.operations >= arguments.operations or time.perf_counter() > stop:
                break
            for find in fuzzer.read(worker, number):
                known[find.key] += 1
                if known[find.key] == 1:
                    print(f"FIND {find.archive} {find.number} {find.way}: {find.outcome}\n"
                          f"{find.detail}", flush=True)  # fmt: skip
    print(f"{fuzzer.operations} operations in {time.perf_counter() - start:.0f} s: "
          f"{dict(fuzzer.counts)}; most memory {fuzzer.peak_mb} MB, slowest "
          f"{fuzzer.slowest_s:.1f} s; {len(known)} kinds of finds")  # fmt: skip
    if arguments.only is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"kept in {folder}")
    sys.exit(1 if known else 0)


if __name__ == "__main__":
    main()
