"""Random corruptions by kind: ``python -m tests.faults.corruptions --rounds 200``.

Each round corrupts one object of a tiny archive in memory at a place that is drawn; its manifest
stays. `verify` must name that object; every value that the reader gives must be that of the good
archive, or an error of the documented family; and of what is read with the damage skipped, every
voxel that is not masked must be right.
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from psc_volumetric.archive.access import SealedStore
from psc_volumetric.archive.checking import verify_sealed
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.salvage import Salvage
from psc_volumetric.errors import PscError
from psc_volumetric.threads import at_most
from tests.faults.many_parts import Bytes, InMemory, Specimen, specimens
from tests.faults.ways import same

__all__ = ["CORRUPTIONS", "Bench"]

Corrupt = Callable[[Bytes, str, Bytes, random.Random], None]


def _flip(tree: Bytes, key: str, _: Bytes, rng: random.Random) -> None:
    data = bytearray(tree[key])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    tree[key] = bytes(data)


def _cut(tree: Bytes, key: str, _: Bytes, rng: random.Random) -> None:
    tree[key] = tree[key][: rng.randrange(len(tree[key]))]


def _zeros(tree: Bytes, key: str, _: Bytes, rng: random.Random) -> None:
    data = bytearray(tree[key])
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 16, 512, 4096)))
    data[start:stop] = bytes(stop - start)
    tree[key] = bytes(data)


def _noise(tree: Bytes, key: str, _: Bytes, rng: random.Random) -> None:
    tree[key] = rng.randbytes(len(tree[key]))


def _longer(tree: Bytes, key: str, _: Bytes, rng: random.Random) -> None:
    tree[key] += rng.randbytes(rng.choice((1, 64, 4096)))


def _lose(tree: Bytes, key: str, _: Bytes, __: random.Random) -> None:
    del tree[key]


def _swap(tree: Bytes, key: str, _: Bytes, rng: random.Random) -> None:
    other = rng.choice(sorted(tree))
    tree[key], tree[other] = tree[other], tree[key]


def _of_another(tree: Bytes, key: str, twin: Bytes, _: random.Random) -> None:
    """The same object of an archive of the same source with other values: stale, or foreign."""
    tree[key] = twin.get(key, b"")


CORRUPTIONS: dict[str, Corrupt] = {
    "a bit": _flip,
    "cut": _cut,
    "zeros": _zeros,
    "noise": _noise,
    "longer": _longer,
    "lost": _lose,
    "swapped": _swap,
    "of another archive": _of_another,
}


@dataclass
class Bench:
    """A good archive, its twin, and everything that its reader gives."""

    good: Specimen
    twin: Specimen

    def __post_init__(self) -> None:
        self.values = dict(self._readings(SealedStore(InMemory(self.good.tree), self.manifest)))
        assert not any(isinstance(value, PscError) for value in self.values.values())

    @property
    def manifest(self) -> Manifest:
        """That of the good archive."""
        return Manifest(self.good.entries)

    def attempt(self, kind: str, number: int) -> tuple[str, str]:
        """Corrupt once: ``"found"``, or what went wrong and where."""
        rng = random.Random(f"{kind} {self.good.name} {number}")
        tree, key = dict(self.good.tree), ""
        while tree == self.good.tree:
            key = rng.choice(sorted(self.good.entries))
            CORRUPTIONS[kind](tree, key, self.twin.tree, rng)
        tree[MANIFEST_KEY] = self.good.tree[MANIFEST_KEY]
        sealed = SealedStore(InMemory(tree), self.manifest)
        if key not in {finding.key for finding in verify_sealed(sealed)}:
            return "missed", key
        for name, value in self._readings(sealed):
            if not isinstance(value, PscError) and not same(value, self.values[name]):
                return "wrong", f"{key}: {name}"
        return "found", key

    def _readings(self, sealed: SealedStore) -> Iterator[tuple[str, Any]]:
        """Everything by name, or the error that it gives."""
        try:
            reader = ArchiveReader(sealed)
        except PscError:
            return
        arrays = (*reader.arrays, *reader.metadata.get("coordinates", ()))
        asked: dict[str, Callable[[], Any]] = {"source": lambda: _source(reader)}
        for name in reader.variables:
            asked[name] = lambda name=name: reader.read(name)
            asked[f"{name}, rest"] = lambda name=name: _rest(reader, name)
        for name in arrays:
            asked[f"{name}, array"] = lambda name=name: np.asarray(reader.plain(name).values)
        for name, read in asked.items():
            try:
                yield name, read()
            except PscError as error:
                yield name, error


def _rest(reader: ArchiveReader, name: str) -> Any:
    salvage = Salvage(reader)
    return np.ma.MaskedArray(salvage.read(name), salvage.mask(name))


def _source(reader: ArchiveReader) -> Any:
    record = reader.source()
    return repr((record.document, sorted(record.blobs), [record.blobs[b] for b in record.blobs]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="number of the first round")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    benches = [Bench(*pair) for pair in zip(specimens(), specimens(shift=1), strict=True)]
    problems = []
    print("| corruption | rounds | found | read wrong | missed |\n|---|---|---|---|---|")
    with at_most(1):
        for kind in CORRUPTIONS:
            counts: Counter[str] = Counter()
            for number in range(arguments.seed, arguments.seed + arguments.rounds):
                bench = benches[number % len(benches)]
                outcome, where = bench.attempt(kind, number)
                counts[outcome] += 1
                if outcome != "found":
                    problems.append(f"{kind}, {bench.good.name} {number}: {outcome} {where}")
            print(f"| {kind} | {arguments.rounds} | {counts['found']} | {counts['wrong']} | "
                  f"{counts['missed']} |", flush=True)  # fmt: skip
    print("\n".join(problems), file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
