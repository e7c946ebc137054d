"""Short rounds of what docs/faults.md promises; the long ones are the commands named there."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import SourceError
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.documents import decode
from psc_volumetric.bitstream.frames import ZSTD_MAGIC
from psc_volumetric.errors import FormatError, LimitExceededError, PscError
from tests.faults.corruptions import CORRUPTIONS
from tests.faults.corruptions import Bench as CorruptionBench
from tests.faults.damage import BAD, Laboratory, pairs, try_damage
from tests.faults.disk import fail_everywhere, fill_everywhere, two_runs
from tests.faults.fuzz import OURS, Fuzzer
from tests.faults.hostile import try_crafted
from tests.faults.kill import CASES, Bench, Tally, bench, kill_at_random, resume_everywhere
from tests.faults.many import Round
from tests.faults.many_parts import PARTS, specimens
from tests.faults.many_sources import Round as SourceRound
from tests.faults.power import unsynced_at_promises
from tests.faults.runner import Runner
from tests.faults.shim import compiler
from tests.faults.trees import edit_json, lay_folder, pack_zip, remanifest
from tests.faults.ways import quietly
from tests.faults.worker import Worker

pytestmark = pytest.mark.skipif(compiler() is None, reason="faults need a C compiler")

QUICK = ("nifti", "netcdf", "zip")  # kinds of archive that are made without compiling first
DAMAGED = 16
HOSTILE_ARCHIVES = 10
HOSTILE_FILES = (
    "dicom: -1 frames",
    "dicom: sequences 20000 deep",
    "nifti: 32767^7 voxels",
    "nifti: gzip cut",
    "netcdf: side variable of 64 GiB",
    "netcdf: half floats",
    "any: link to itself",
    "any: pipe",
)

Benches = Callable[[str], Bench]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


@pytest.fixture(scope="module")
def benches(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Benches:
    """A case ready to be killed, made once."""
    made: dict[str, Bench] = {}

    def of(name: str) -> Bench:
        if name not in made:
            made[name] = bench(CASES[name], runner, tmp_path_factory.mktemp("case") / name)
        return made[name]

    return of


def assert_held(tally: Tally, faults: int) -> None:
    assert tally.kills >= faults
    assert not tally.problems, "\n".join(tally.problems)


@pytest.mark.parametrize(
    ("name", "every", "kills"),
    [
        ("folder", 53, 3),
        ("zip", 83, 3),
        ("restore-netcdf", 13, 1),
        ("copy", 23, 3),
        ("copy-zip", 41, 3),
    ],
)
def test_killed_before_operations(benches: Benches, name: str, every: int, kills: int) -> None:
    assert_held(resume_everywhere(benches(name), every=every), kills)


def test_killed_at_random_times(benches: Benches) -> None:
    assert_held(kill_at_random(benches("folder"), rounds=6, seed=1), 1)


def test_on_a_disk_that_is_full_or_fails(benches: Benches) -> None:
    assert_held(fill_everywhere(benches("folder"), every=229), 1)
    assert_held(fail_everywhere(benches("zip"), every=307), 1)


def test_two_runs_on_one_target(benches: Benches) -> None:
    with Runner() as other:
        assert_held(two_runs(benches("folder"), other, every=301), 1)


@pytest.mark.parametrize("name", ["folder", "zip", "restore-netcdf", "copy", "copy-zip"])
def test_what_is_promised_is_on_the_disk(benches: Benches, name: str) -> None:
    assert not list(unsynced_at_promises(benches(name)))


def test_damaged_archives(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    chosen = sorted(random.Random(7).sample([p for p in pairs() if p[0] in QUICK], DAMAGED))
    results = [result for pair in chosen for result in try_damage(laboratory, *pair)]
    assert len(results) > DAMAGED
    assert not [result for result in results if result.outcome in BAD]


def test_hostile_archives(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path, QUICK)
    with Worker() as worker:
        finds = [find for n in range(HOSTILE_ARCHIVES) for find in fuzzer.read(worker, n)]
    assert fuzzer.counts["refused"] > 0
    assert not finds, "\n".join(f"{f.number} {f.way} {f.outcome}\n{f.detail}" for f in finds)


def test_hostile_files_among_good_ones(tmp_path: Path) -> None:
    limits = {"PSC_ARCHIVE_READER_SECONDS": "30"}
    with Runner(limits, shimmed=False) as runner:
        trial = try_crafted(runner, tmp_path, *HOSTILE_FILES)
    assert not trial.problems, "\n".join(trial.problems)
    assert trial.outcome.code == 8


def test_more_chunks_than_are_stored_are_refused(tmp_path: Path) -> None:
    """A million of them took minutes to look for."""
    tree = dict(Laboratory(tmp_path).specimen("nifti")[0].tree)
    key = "x/zarr.json"
    edit_json(tree, key, lambda document: document.update(shape=[10**6 * document["shape"][0]]))
    remanifest(tree)
    place = lay_folder(tree, tmp_path / "hostile.psc.zarr")
    with ArchiveReader.open(place) as reader, pytest.raises(LimitExceededError) as caught:
        reader.coordinate("x")
    assert key in str(caught.value)


def test_a_table_that_claims_more_than_is_stored_is_refused(tmp_path: Path) -> None:
    """Before anything is allocated: the frame says its size."""
    tree = dict(Laboratory(tmp_path).specimen("nifti")[0].tree)
    key = "tiles/image/c/0"
    tree[key] = ZSTD_MAGIC + b"\xe0" + (1 << 40).to_bytes(8, "little") + bytes(20)
    remanifest(tree)
    place = lay_folder(tree, tmp_path / "hostile.psc.zarr")
    with ArchiveReader.open(place) as reader, pytest.raises(LimitExceededError) as caught:
        reader.info()
    assert key in str(caught.value)


def _codec(document: dict[str, Any]) -> None:
    document["codecs"][0]["configuration"]["codecs"][0]["configuration"] = 12


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("time/zarr.json", lambda document: document["attributes"].update(psc_archive="text")),
        ("time/zarr.json", _codec),
        ("time/zarr.json", lambda d: d["codecs"][0]["configuration"].update(codecs="zstd")),
        ("t2m/zarr.json", lambda d: d["attributes"].update(units=True)),
    ],
)
def test_metadata_of_another_type_are_refused_by_every_reader(
    key: str, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    """Found by the fuzzer: other exceptions than the documented ones."""
    tree = dict(Laboratory(tmp_path).specimen("netcdf")[0].tree)
    edit_json(tree, key, change)
    remanifest(tree)
    place = lay_folder(tree, tmp_path / "hostile.psc.zarr")
    refused = 0
    for way in OURS:
        try:
            quietly(way, place, tmp_path)
        except (PscError, SourceError):
            refused += 1
    assert refused


def test_a_zip_member_without_a_name_is_refused(tmp_path: Path) -> None:
    tree = dict(Laboratory(tmp_path).specimen("zip")[0].tree)
    path = tmp_path / "hostile.psc.zarr.zip"
    path.write_bytes(pack_zip({**tree, "": b"x"}))
    with pytest.raises(FormatError) as caught:
        ArchiveReader.open(path)
    assert caught.value.kind == "bad-key"


def test_a_long_text_in_metadata_is_read_in_little_time_and_memory() -> None:
    """48 MB of it took 6 GB, in the encoder too."""
    tracemalloc.start()
    try:
        found = decode(b'{"a": "' + b"x" * (8 << 20) + b'"}', dict, where="test")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found["a"]) == 8 << 20
    assert peak < 64 << 20


def test_hostile_archives_in_memory_are_read_or_refused() -> None:
    made = Round(specimens(("nifti", "netcdf")))
    assert list(made.run(0, 400)) == []
    assert set(made.read) | set(made.refused) == set(PARTS)
    assert made.read.total() > 100 < made.refused.total()


FOUND = (
    ("exposure.fits", 7),
    ("exposure.fits", 1169),
    ("exposure.fits", 4501),
    ("rice.fits", 151),
    ("rice.fits", 2349),
    ("tiles.tif", 83),
)


def test_hostile_images_trajectories_and_videos_are_read_or_refused(tmp_path: Path) -> None:
    """A short round, and what longer ones found: exceptions that nobody had foreseen."""
    made = SourceRound(tmp_path)
    made.run(0, 14)
    for name, number in FOUND:
        made.attempt(tmp_path / "seeds" / name, number)
    assert made.problems == []
    assert made.outcomes["read"] > 2 and made.outcomes["damaged"] > 5


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_random_corruptions_are_found(kind: str) -> None:
    bench = corruption_bench()
    assert {bench.attempt(kind, number)[0] for number in range(6)} == {"found"}


@cache
def corruption_bench() -> CorruptionBench:
    (good,), (twin,) = specimens(("nifti",)), specimens(("nifti",), shift=1)
    return CorruptionBench(good, twin)
