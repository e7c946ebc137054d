"""Fuzz for a while: ``python -m tests.fuzz.run --minutes 10``.

Prints every find as its target and seed, and keeps the bytes where ``--finds`` says.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.mutations import MUTATORS, SEEDS
from fuzz.targets import ALLOWED, TARGETS

TIME_LIMIT_S = 20.0  # for one input, on a busy machine
MEMORY_LIMIT = 12 << 30  # address space; the network library alone reserves a lot


@dataclass(frozen=True)
class Find:
    """An input that did what it may not."""

    target: str
    seed: int
    data: bytes
    problem: str


def make_input(target: str, seed: int) -> bytes | None:
    """The input with this number; None when the mutation cannot be written as bytes."""
    rng = random.Random(f"{target} {seed}")
    base = rng.choice(_seeds(target))
    try:
        return rng.choice(MUTATORS[target])(base, rng)
    except (struct.error, ValueError, IndexError, OverflowError):
        return None


_cache: dict[str, list[bytes]] = {}


def _seeds(target: str) -> list[bytes]:
    if target not in _cache:
        _cache[target] = SEEDS[target]()
    return _cache[target]


def warm_up(target: str) -> None:
    """Feed every good input once, so that machine code is made before a clock runs."""
    for data in _seeds(target):
        TARGETS[target](data)


def try_input(target: str, data: bytes, seed: int = -1) -> Find | None:
    """Feed one input; a find when anything but success or an allowed error comes back."""
    start = time.perf_counter()
    try:
        TARGETS[target](data)
    except ALLOWED as error:
        if not error.kind or len(str(error)) < 10:
            return Find(target, seed, data, f"error without kind or text: {error!r}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Find(target, seed, data, traceback.format_exc(limit=-6))
    seconds = time.perf_counter() - start
    if seconds > TIME_LIMIT_S:
        return Find(target, seed, data, f"took {seconds:.1f} s")
    return None


def fuzz(target: str, seeds: Iterator[int], stop: float) -> Iterator[tuple[int, Find | None]]:
    """Inputs by number until the clock passes ``stop``; yields the finds."""
    for seed in seeds:
        if time.perf_counter() > stop:
            return
        data = make_input(target, seed)
        yield seed, None if data is None else try_input(target, data, seed)


def limit_memory() -> None:
    """Have the system refuse allocations past ``MEMORY_LIMIT``."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6 * 10**6)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--finds", type=Path, help="folder for inputs that were finds")
    arguments = parser.parse_args()
    limit_memory()
    chosen = list(TARGETS) if arguments.target == "all" else [arguments.target]
    share = 60 * arguments.minutes / len(chosen)
    failed = False
    for target in chosen:
        known, count = set(), 0
        warm_up(target)
        stop = time.perf_counter() + share
        for _, find in fuzz(target, itertools.count(arguments.seed), stop):
            count += 1
            if find is None or find.problem.splitlines()[-1] in known:
                continue
            failed = True
            known.add(find.problem.splitlines()[-1])
            print(f"FIND {target} seed {find.seed}, {len(find.data)} bytes\n{find.problem}")
            if arguments.finds is not None:
                arguments.finds.mkdir(parents=True, exist_ok=True)
                (arguments.finds / f"{target}-{find.seed}.bin").write_bytes(find.data)
        print(f"{target}: {count} inputs, {len(known)} kinds of finds")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
