"""Names by a keyed hash, and the table that says what they stand for."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import os
from pathlib import Path

import pytest

from pipelines.archiving.pseudonyms import Pseudonyms, make_key, read_table
from psc_volumetric.errors import ParameterError, StorageError


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    make_key(tmp_path / "key")
    return tmp_path / "key"


def test_names_are_those_of_the_key_and_have_100_bits(keyfile: Path) -> None:
    names = Pseudonyms.load(keyfile)
    name = names.name("ward 3/Meier, Anna.nii.gz")
    assert name == Pseudonyms.load(keyfile).name("ward 3/Meier, Anna.nii.gz")
    assert name != names.name("ward 3/Meier, Anna.nii")
    assert name.startswith("p-") and len(name) == 22 and name.islower() and name.isascii()
    key = keyfile.read_bytes().strip()
    digest = hmac.new(key, b"ward 3/Meier, Anna.nii.gz", hashlib.sha256).digest()
    number = int.from_bytes(digest, "big") >> (256 - 100)
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    assert name[2:] == "".join(letters[number >> 5 * (19 - i) & 31] for i in range(20))
    other = keyfile.with_name("other")
    make_key(other)
    assert Pseudonyms.load(other).name("ward 3/Meier, Anna.nii.gz") != name


def test_the_table_remembers_and_only_its_owner_reads_it(keyfile: Path) -> None:
    sources = ["a/ü.nc", "b\nc.nii", "1.2.840.1", os.fsdecode(b"\xff.nc")]
    names = Pseudonyms.load(keyfile)
    given = [names.assign(source) for source in sources]
    assert [names.assign(source) for source in sources] == given
    assert read_table(keyfile) == dict(zip(given, sources, strict=True))
    assert names.table.stat().st_mode & 0o777 == 0o600
    assert keyfile.stat().st_mode & 0o777 == 0o600
    assert len(names.table.read_bytes().splitlines()) == len(sources)


def test_no_key_is_shown(keyfile: Path) -> None:
    assert keyfile.read_text().strip() not in repr(Pseudonyms.load(keyfile))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
@pytest.mark.parametrize("which", ["key", "key.table"])
def test_keys_and_tables_that_others_reach_are_refused(keyfile, mode, which) -> None:
    Pseudonyms.load(keyfile).assign("x")
    keyfile.with_name(which).chmod(mode)
    with pytest.raises(ParameterError, match="chmod 600") as caught:
        Pseudonyms.load(keyfile)
    assert caught.value.kind == "bad-key"


@pytest.mark.parametrize("size", [0, 1, 31, 4097, 100_000])
def test_keys_of_other_sizes_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"k" * size + b"\n")
    path.chmod(0o600)
    with pytest.raises(ParameterError) as caught:
        Pseudonyms.load(path)
    assert caught.value.kind == "bad-key"


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    for path in (tmp_path / "key", tmp_path):
        with pytest.raises(ParameterError) as caught:
            tmp_path.chmod(0o700)
            Pseudonyms.load(path)
        assert caught.value.kind == "no-key" and "pseudonyms make" in str(caught.value)


def test_a_key_is_never_replaced(keyfile: Path) -> None:
    before = keyfile.read_bytes()
    with pytest.raises(StorageError) as caught:
        make_key(keyfile)
    assert caught.value.kind == "target-exists" and keyfile.read_bytes() == before


def test_a_torn_last_line_is_mended(keyfile: Path) -> None:
    names = Pseudonyms.load(keyfile)
    first, second = names.assign("first"), names.assign("second")
    for cut in range(1, 30):
        os.truncate(names.table, names.table.stat().st_size - cut)
        assert names.assign("second") == second
        assert read_table(keyfile) == {first: "first", second: "second"}


def test_tables_of_another_key_are_noticed(keyfile: Path) -> None:
    names = Pseudonyms.load(keyfile)
    name = names.assign("first")
    names.table.write_text(f'{{"pseudonym": "{name}", "source": "other"}}\n')
    with pytest.raises(StorageError) as caught:
        names.assign("first")
    assert caught.value.kind == "name-taken"
    names.table.write_text("rubbish\n")
    with pytest.raises(StorageError) as caught:
        names.assign("first")
    assert caught.value.kind == "table-damaged"


def assign_many(keyfile: Path, start: int) -> None:
    names = Pseudonyms.load(keyfile)
    for number in range(start, start + 30):
        names.assign(f"source {number}")


def test_runs_at_once_lose_no_row(keyfile: Path) -> None:
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=assign_many, args=(keyfile, 20 * k)) for k in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert sorted(read_table(keyfile).values()) == sorted(f"source {n}" for n in range(70))
