"""A million hostile archives: ``python -m tests.faults.many --cases 1000000``.

`tests.faults.fuzz` reads each hostile archive in every way, from disk, in another process; that is
thorough and slow. Here the archives are tiny and in memory, one object of each is changed, and what
reads that object reads it, in this process: hundreds to thousands of cases in a second. Allowed is
success or an error of the documented family, in `TIME_LIMIT_S` and `MEMORY_LIMIT` of new address
space. A find is its part and number; ``--only PART NUMBER`` tries it again.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.run import warm_up

from psc_volumetric.errors import PscError
from psc_volumetric.threads import at_most
from tests.faults.many_parts import PARTS, Case, Specimen, specimens

__all__ = ["Find", "Round"]

BLOCK = 20_000  # cases, after which the totals are printed
TIME_LIMIT_S = 30  # of CPU time, so that a busy machine makes no finds
MEMORY_LIMIT = 4 << 30  # of address space, beyond what is taken when the round begins


class TooSlow(BaseException):
    """A case took longer than `TIME_LIMIT_S`."""


@dataclass(frozen=True)
class Find:
    """A case that did what it may not."""

    part: str
    number: int
    problem: str

    @property
    def key(self) -> str:
        """Finds with the same key have the same cause, most likely."""
        return "\n".join(self.problem.splitlines()[-3:])


@dataclass
class Round:
    """Cases by part and number, and what became of them.

    Attributes
    ----------
    goods : list of Specimen
    timed : bool
        Stop a case after `TIME_LIMIT_S`, by SIGPROF.
    read, refused : Counter
        By part.
    slowest_s : float
    """

    goods: list[Specimen]
    timed: bool = False
    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def attempt(self, part: str, number: int) -> Find | None:
        """Try one case; a find when anything but success or a documented error comes back."""
        rng = random.Random(f"{part} {number}")
        case = Case(rng.choice(self.goods), rng)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT_S if self.timed else 0)
        try:
            PARTS[part][0](case)
            self.read[part] += 1
        except PscError as error:
            self.refused[part] += 1
            if not error.kind or len(str(error)) < 10:
                return Find(part, number, f"error without kind or text: {error!r}")
        except (Exception, TooSlow):  # noqa: BLE001 - which ones come is the question
            return Find(part, number, traceback.format_exc(limit=-6))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest_s = max(self.slowest_s, time.process_time() - start)
        return None

    def run(self, first: int, cases: int, parts: Iterable[str] = PARTS) -> Iterator[Find]:
        """Cases of some parts by their shares; yields the finds."""
        chosen = {part: PARTS[part] for part in parts}
        shares = sum(share for _, share in chosen.values())
        for part, (_, share) in chosen.items():
            for number in range(first, first + cases * share // shares):
                find = self.attempt(part, number)
                if find is not None:
                    yield find

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "cases": self.read.total() + self.refused.total(),
            "read": dict(self.read),
            "refused": dict(self.refused),
            "slowest_s": round(self.slowest_s, 2),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }


def _too_slow(_: int, __: FrameType | None) -> None:
    raise TooSlow


def _limit_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_LIMIT, hard))


def _tell(finds: Iterable[Find], known: Counter[str]) -> None:
    """Print the first find of each kind."""
    for find in finds:
        known[find.key] += 1
        if known[find.key] == 1:
            print(f"FIND {find.part} {find.number}\n{find.problem}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case of each part")
    parser.add_argument("--part", choices=[*PARTS], action="append", help="default: all")
    parser.add_argument("--only", nargs=2, metavar=("PART", "NUMBER"), help="this case only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _too_slow)
    made = Round(specimens(), timed=True)
    warm_up("brick_decode")  # which makes machine code of all coders
    _limit_memory()
    known: Counter[str] = Counter()
    start, cpu = time.perf_counter(), time.process_time()
    with at_most(1):
        if arguments.only is not None:
            find = made.attempt(arguments.only[0], int(arguments.only[1]))
            _tell([] if find is None else [find], known)
        else:
            for first in range(0, arguments.cases, BLOCK):
                block = min(BLOCK, arguments.cases - first)
                parts = arguments.part or list(PARTS)
                _tell(made.run(arguments.seed + first, block, parts), known)
                spent = {
                    "seconds": round(time.perf_counter() - start),
                    "cpu_s": round(time.process_time() - cpu),
                    "finds": known.total(),
                    "kinds": len(known),
                }
                print(json.dumps({**made.to_dict(), **spent}), flush=True)
    sys.exit(1 if known else 0)


if __name__ == "__main__":
    main()
