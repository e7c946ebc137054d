"""Short rounds of what docs/faults.md promises; the long ones are the commands named there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.damage import BAD, Laboratory, pairs, try_damage
from tests.faults.kill import CASES, Tally, bench, kill_at_random, resume_everywhere
from tests.faults.runner import Runner
from tests.faults.shim import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="faults need a C compiler")

QUICK = ("nifti", "netcdf", "zip")  # kinds of archive that are made without compiling first
DAMAGED = 16


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


def assert_held(tally: Tally, kills: int) -> None:
    assert tally.kills >= kills
    assert not tally.problems, "\n".join(tally.problems)


@pytest.mark.parametrize(("name", "every"), [("folder", 97)])
def test_killed_before_operations(runner: Runner, tmp_path: Path, name: str, every: int) -> None:
    made = bench(CASES[name], runner, tmp_path / name)
    assert_held(resume_everywhere(made, every=every), 4)


def test_killed_at_random_times(runner: Runner, tmp_path: Path) -> None:
    made = bench(CASES["folder"], runner, tmp_path / "folder")
    assert_held(kill_at_random(made, rounds=2, seed=1), 1)


def test_damaged_archives(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    chosen = sorted(random.Random(7).sample([p for p in pairs() if p[0] in QUICK], DAMAGED))
    results = [result for pair in chosen for result in try_damage(laboratory, *pair)]
    assert len(results) > DAMAGED
    bad = [r for r in results if r.outcome in BAD and r.way.startswith(("restore", "verify"))]
    assert not bad, bad
