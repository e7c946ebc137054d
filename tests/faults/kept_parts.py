"""Values that are read out of kept originals: other bytes of the original, other words about it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pipelines.archiving.archive import ArchiveOptions, archive, plan
from psc_volumetric.archive.documents import KeptEntry
from psc_volumetric.archive.kept import KeptArray, KeptVariable
from psc_volumetric.archive.kept_decoders import DECODERS
from psc_volumetric.archive.reader import ArchiveReader
from tests.faults.file_mutations import mutated
from tests.faults.seed_files import KEPT, write_seeds

__all__ = ["kept_originals", "read_other_bytes", "read_other_words"]

SIZES = (0, 1, 2, 3, 20, 24, 25, 64, 4096, 1 << 14, 1 << 16, 1 << 20, 1 << 31)
PLACES = (0, 1, 2, 3, -1, 255, 1 << 31, 1 << 63)


@dataclass(frozen=True)
class Original:
    """A kept file, and the variable that is read out of it."""

    form: str
    variable: KeptVariable
    blobs: dict[str, bytes]

    def read(self) -> None:
        """First and last values."""
        array = KeptArray(self.variable, self.blobs, "memory")
        for pick in (slice(0, 1), slice(-1, None)):
            array[tuple(slice(*pick.indices(size)[:2]) for size in array.shape)]


@cache
def kept_originals() -> tuple[Original, ...]:
    """One of every decoder, archived once."""
    made = []
    with tempfile.TemporaryDirectory() as place:
        write_seeds(Path(place))
        for name in KEPT:
            target = Path(place) / f"{name}.psc.zarr"
            archive(plan(Path(place) / name, str(target), ArchiveOptions(coders="zstd")))
            with ArchiveReader.open(target) as reader:
                blobs = dict(reader.source().blobs)
                for variable in reader.kept.values():
                    made.append(Original(name.rpartition(".")[2], variable, blobs))
    return tuple(made)


def read_other_bytes(rng: random.Random) -> None:
    """An original that was changed, with the words of the good one."""
    good = rng.choice(kept_originals())
    blobs = {name: mutated(data, good.form, rng) for name, data in good.blobs.items()}
    replace(good, blobs=blobs).read()


def read_other_words(rng: random.Random) -> None:
    """A good original, of which the archive says something else."""
    good = rng.choice(kept_originals())
    entry = good.variable.to_dict("lossless")
    node = entry["node"]
    changes: tuple[Callable[[], None], ...] = (
        lambda: _shape(node, rng),
        lambda: entry.update(decoder=rng.choice((*DECODERS, "", "pickle"))),
        lambda: entry.update(samples=rng.choice((None, "first", "last"))),
        lambda: entry["places"][0].__setitem__(1, rng.choice(PLACES)),
        lambda: entry["places"].append(list(entry["places"][0])),
        lambda: node.update(data_type=rng.choice(("uint8", "uint16", "int64", "float64", "bool"))),
    )
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(changes)()
    places = tuple(tuple(place) for place in entry["places"])
    words = KeptEntry(entry["name"], node, entry["decoder"], places, entry["samples"])
    replace(good, variable=KeptVariable.of(words, "memory")).read()


def _shape(node: dict[str, list[int]], rng: random.Random) -> None:
    node["shape"][rng.randrange(len(node["shape"]))] = rng.choice(SIZES)
