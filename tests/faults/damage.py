"""Damage good archives in every way of a list and read them: ``python -m tests.faults.damage``.

Each pair of archive and damage goes through every way of reading. The outcome is one of

- ``error``: an exception of the documented family (through plain Zarr: any exception);
- ``same``: everything reads as before, the damage is not in what this way reads;
- ``rest``: what is lost is masked, and the rest reads as before;
- ``absent``: something is not there at all, and cannot be taken for a value;
- ``found``: verify lists it;
- ``wrong``: other values without a word. There may be none;
- ``undocumented``: an exception outside the family. There may be none;
- ``missed``: verify finds nothing. There may be none.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.errors import SourceError
from psc_volumetric.errors import PscError
from tests.faults.kinds_of_damage import DAMAGES, ZIP_DAMAGES, DoesNotApply
from tests.faults.runner import scratch_folder
from tests.faults.specimens import KINDS, Specimen, make_specimen
from tests.faults.trees import lay_folder, pack_zip
from tests.faults.ways import PLAIN, WAYS, Found, quietly, same

__all__ = ["BAD", "Result", "pairs", "try_damage"]

FAMILY = (PscError, SourceError)
BAD = ("wrong", "undocumented", "missed")


@dataclass(frozen=True)
class Result:
    """What one way of reading made of one damage."""

    archive: str
    damage: str
    way: str
    outcome: str
    detail: str = ""


class Laboratory:
    """Specimens, and how each way reads them undamaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._specimens: dict[str, tuple[Specimen, dict[str, Found]]] = {}

    def specimen(self, name: str) -> tuple[Specimen, dict[str, Found]]:
        """A kind of archive, made once."""
        if name not in self._specimens:
            made = make_specimen(KINDS[name], self.folder / "made")
            place = self.lay(made, None)
            good = {way: quietly(way, place, self.folder) for way in WAYS}
            self._specimens[name] = made, good
        return self._specimens[name]

    def lay(self, made: Specimen, damage: str | None) -> Path:
        """Write a damaged copy; the place of an earlier one is used again."""
        place = self.folder / f"archive{made.kind.suffix}"
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        tree = dict(made.tree)
        if damage in DAMAGES:
            DAMAGES[damage](tree, made)
        if not made.kind.zipped:
            return lay_folder(tree, place)
        data = pack_zip(tree)
        place.write_bytes(ZIP_DAMAGES[damage](data) if damage in ZIP_DAMAGES else data)
        return place


def pairs() -> Iterator[tuple[str, str]]:
    """Every archive with every damage that is made for it."""
    for name, kind in KINDS.items():
        for damage in (*DAMAGES, *(ZIP_DAMAGES if kind.zipped else ())):
            yield name, damage


def try_damage(laboratory: Laboratory, name: str, damage: str) -> list[Result]:
    """Damage one archive in one way and read it in all ways; empty where it does not apply."""
    made, good = laboratory.specimen(name)
    try:
        place = laboratory.lay(made, damage)
    except DoesNotApply:
        return []
    results = []
    for way in WAYS:
        outcome, detail = read_damaged(way, place, laboratory.folder, good[way])
        results.append(Result(name, damage, way, outcome, detail))
    return results


def read_damaged(way: str, place: Path, scratch: Path, good: Found) -> tuple[str, str]:
    """Outcome of one way of reading, with the words that explain it."""
    try:
        found = quietly(way, place, scratch)
    except FAMILY as error:
        return "error", error.kind
    except Exception as error:  # noqa: BLE001 - which ones come is the question
        return "error" if way in PLAIN else "undocumented", f"{type(error).__name__}: {error}"[:200]
    if way.startswith("verify"):
        return (
            ("found", "; ".join(found["findings"])[:200])
            if found["findings"]
            else (
                "missed",
                "",
            )
        )
    wrong = [key for key, value in found.items() if key not in good or not same(value, good[key])]
    if wrong:
        return "wrong", ", ".join(wrong)
    if any(np.ma.is_masked(value) for value in found.values()):
        return "rest", ""
    return ("same", "") if len(found) == len(good) else ("absent", "")


def table(results: list[Result]) -> Iterator[str]:
    """Rows for docs/faults.md: archives, and the outcomes of each way."""
    yield "| archive | " + " | ".join(WAYS) + " |"
    yield "|---" * (len(WAYS) + 1) + "|"
    for name in KINDS:
        cells = []
        for way in WAYS:
            counts = Counter(r.outcome for r in results if (r.archive, r.way) == (name, way))
            cells.append(
                ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            )
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--archive", choices=[*KINDS], action="append", help="default: all")
    parser.add_argument("--sample", type=int, help="only so many pairs, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = [p for p in pairs() if p[0] in (arguments.archive or KINDS)]
    if arguments.sample is not None:
        chosen = sorted(random.Random(arguments.seed).sample(chosen, arguments.sample))
    folder = scratch_folder("psc-damage-")
    results: list[Result] = []
    start = time.perf_counter()
    try:
        laboratory = Laboratory(folder)
        for name, damage in chosen:
            results += try_damage(laboratory, name, damage)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(table(results)))
    damaged = len({(r.archive, r.damage) for r in results})
    print(f"\n{damaged} damaged archives, {len(results)} readings, "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip
    bad = [r for r in results if r.outcome in BAD]
    for r in bad:
        print(f"{r.outcome}: {r.archive} / {r.damage} / {r.way}: {r.detail}", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
