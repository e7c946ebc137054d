"""Many hostile source files: ``python -m tests.faults.many_sources --cases 10000``.

`tests.faults.hostile` archives folders; here one changed file after another is found, opened and
read by the reading process, tens of them in a second. Allowed is success, or an error with a kind
that says what is wrong with the file. That a library crashed, ran out of its memory or of its time
costs that file and no more; it is counted apart. A find is a file of `tests.faults.seed_files` and
a number; ``--only FILE NUMBER`` tries it again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from adapters import isolation
from adapters.base import LazyArray
from adapters.errors import SourceError
from adapters.isolation.process import CRASHED, FAILED, MEMORY, SECONDS, TIMEOUT, reading_process
from tests.faults.file_mutations import mutated
from tests.faults.seed_files import write_seeds

__all__ = ["Round"]

READER_S = 10
MOST_READ = 1 << 20  # values
BLOCK = 500  # cases, after which the totals are printed


@dataclass
class Round:
    """Cases by seed file and number, and what became of them.

    Attributes
    ----------
    folder : Path
        Has a folder ``seeds`` and gets one file after another.
    outcomes : Counter
        By kind of error; ``"read"`` for those that were read.
    finds : dict
        What was said -> the first file and number of it.
    slowest_s : float
    peak_mb : int
        Of the reading process.
    """

    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    finds: dict[str, str] = field(default_factory=dict)
    slowest_s: float = 0.0
    peak_mb: int = 0

    def __post_init__(self) -> None:
        (self.folder / "seeds").mkdir()
        self.seeds = write_seeds(self.folder / "seeds")

    def run(self, first: int, count: int) -> None:
        """Try cases from a number on, of one seed file after the other."""
        for number in range(first, first + count):
            self.attempt(self.seeds[number % len(self.seeds)], number)

    def attempt(self, seed: Path, number: int) -> None:
        """One case."""
        rng = random.Random(f"{seed.name} {number}")
        path = self.folder / f"hostile{seed.suffix}"
        path.unlink(missing_ok=True)
        path.write_bytes(mutated(seed.read_bytes(), seed.suffix[1:], rng))
        start = time.perf_counter()
        kinds = _tried(path)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - start)
        self.peak_mb = max(self.peak_mb, _peak_mb())
        self.outcomes.update({kind.split(":")[0] for kind in kinds} or {"read"})
        for kind in kinds:
            if kind.startswith((FAILED, CRASHED, MEMORY, TIMEOUT, "other")):
                self.finds.setdefault(f"{seed.suffix} {kind}", f"{seed.name} {number}")

    @property
    def problems(self) -> list[str]:
        """Finds that nobody foresaw: a library that crashed is one that the user is told of."""
        allowed = (CRASHED, MEMORY, TIMEOUT)
        return [kind for kind in self.finds if not kind.split(" ", 1)[1].startswith(allowed)]


def _tried(path: Path) -> list[str]:
    """Kinds of the errors of a file, with words for those that nobody foresaw."""
    kinds = []
    try:
        found = isolation.look(path)
        kinds += [_said(skip.kind, skip.reason) for skip in found.skipped]
        for candidate in found.candidates:
            item = isolation.open_source(candidate)
            for array in (*(v.array for v in item.volumes), *(a.array for a in item.arrays)):
                _read_ends(array)
            isolation.content_sha256(candidate.kind, path)
    except SourceError as error:
        kinds.append(_said(error.kind, error.message))
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        kinds.append(f"other: {type(error).__name__}: {error}")
    return kinds


def _said(kind: str, message: str) -> str:
    return f"{kind}: {message[:150]}" if kind in (FAILED, CRASHED, MEMORY, TIMEOUT) else kind


def _read_ends(array: LazyArray) -> None:
    """The first and the last values."""
    for side in (0, 1):
        box, left = [], MOST_READ
        for size in array.shape[::-1]:
            taken = min(size, max(left, 1))
            left //= max(taken, 1)
            box.append(slice(size - taken, size) if side else slice(0, taken))
        array[tuple(box[::-1])]


def _peak_mb() -> int:
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{reading_process().pid}/status").read_text().splitlines()
        line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) >> 10
    return 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", nargs=2, metavar=("FILE", "NUMBER"), help="this case only")
    arguments = parser.parse_args()
    os.environ.setdefault(SECONDS, str(READER_S))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="psc-sources-") as place:
        made = Round(Path(place))
        if arguments.only is not None:
            made.attempt(made.folder / "seeds" / arguments.only[0], int(arguments.only[1]))
        else:
            for first in range(0, arguments.cases, BLOCK):
                made.run(arguments.seed + first, min(BLOCK, arguments.cases - first))
                spent = {"seconds": round(time.perf_counter() - start)}
                print(json.dumps({**_facts(made), **spent}), flush=True)
        for kind, case in made.finds.items():
            print(f"FIND {case}: {kind}", flush=True)
        reading_process().close()
    sys.exit(1 if made.problems else 0)


def _facts(made: Round) -> dict[str, object]:
    return {
        "cases": made.outcomes.total(),
        "slowest_s": round(made.slowest_s, 2),
        "peak_mb": made.peak_mb,
        "finds": len(made.finds),
        **dict(made.outcomes.most_common()),
    }


if __name__ == "__main__":
    main()
